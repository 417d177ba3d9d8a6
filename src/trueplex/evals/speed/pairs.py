"""Rates that are measured in turn, within one run, and their ratios: what else a machine does then meets all of them."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

Rate = Callable[[], float]  # does some work, and returns how much of it a second


def alternate(ours: Mapping[str, Rate], rivals: Mapping[str, Rate], repeats: int) -> dict[str, list[float]]:
    """The rates of all in every round, after one that is not counted. A rival that cannot run here is left out, with a line."""
    running = dict(ours)
    for rate in ours.values():
        rate()
    for name, rate in rivals.items():
        try:
            rate()
        except Exception as error:  # each library fails in its own way, and none of them may end the others' run
            log.warning(f"{name} does not run here, and is left out ({' '.join(str(error).split())[:160] or type(error).__name__})")  # fmt: skip
        else:
            running[name] = rate
    rounds = [{name: rate() for name, rate in running.items()} for _ in range(repeats)]
    return {name: [rates[name] for rates in rounds] for name in running}


def ratio(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """The median rates, and the median and range of what they are of each other in the same round."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return {
        "first": statistics.median(first),
        "second": statistics.median(second),
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def paired(first: Rate, second: Rate, repeats: int) -> dict[str, float]:
    """`ratio` of two that are measured in turn."""
    rates = alternate({"first": first, "second": second}, {}, repeats)
    return ratio(rates["first"], rates["second"])
