"""Pseudo-labels: what a probe in the midst of a trace is told, when only the trace's end is known.

A kind is a function of progress in [0, 1], 0 at the first generated token and 1 at the last; the label is
0.5 ± half of it, for a right or a wrong trace. ``monte-carlo`` is no such guess: it was measured, by letting the
model continue prefixes of the trace (see `values`), and is interpolated between them; ``measured`` is the same where a
trace was valued, and the ramp where it was not. ``soft`` (STOP, arXiv 2604.16029) are these values where there are
any, and elsewhere what a trace of that outcome was worth, on average over the valued ones, at that share of its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from trueplex.errors import OptionError

POWER = 2.0
MONTE_CARLO, MEASURED, SOFT = VALUED = "monte-carlo", "measured", "soft"
SHARES = np.linspace(0.0, 1.0, 11)  # of a trace, where what an outcome was worth is averaged
Values = tuple[np.ndarray, np.ndarray]  # numbers of tokens [V], rising, and what the trace was worth behind them [V]

KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ramp": lambda progress: progress,  # the paper's: linear
    "constant": lambda progress: np.ones_like(progress),  # the outcome at every token
    "final": lambda progress: np.ones_like(progress),  # the outcome, asked at the last token alone
    "power": lambda progress: progress**POWER,  # as the ramp, but later
}


def known(kind: str) -> None:
    """Raise OptionError for a kind that there is not."""
    if kind not in (*KINDS, *VALUED):
        raise OptionError(f"unknown labels {kind!r}. Try: one of {', '.join((*KINDS, *VALUED))}")


@dataclass(frozen=True, slots=True)
class Worth:
    """What right and wrong traces were worth on average at `SHARES` of their length; each [11]."""

    right: np.ndarray
    wrong: np.ndarray

    @classmethod
    def of(cls, valued: Iterable[tuple[int, bool, Values]]) -> Worth:
        """From traces given as (length, whether right, values); the ramp for an outcome that none of them has."""
        sides: tuple[list[np.ndarray], list[np.ndarray]] = [], []
        for length, correct, (tokens, worth) in valued:
            sides[not correct].append(np.interp(SHARES * length, tokens, worth))
        ramps = 0.5 + SHARES / 2, 0.5 - SHARES / 2
        return cls(*(np.mean(side, 0) if side else ramp for side, ramp in zip(sides, ramps, strict=True)))


def labels(
    kind: str,
    length: int,
    positions: np.ndarray,
    correct: bool,
    values: Values | None = None,
    worth: Worth | None = None,
) -> np.ndarray:
    """Labels [M] float32 in [0, 1] at token positions 0 … length − 1 of a trace (arXiv 2603.01025 for ``ramp``).

    ``worth`` is for ``soft`` labels of traces that have no values.
    """
    if kind == SOFT and values is None:
        assert worth is not None, "soft labels need what traces of each outcome were worth"
        known = worth.right if correct else worth.wrong
        return np.interp((positions + 1) / length, SHARES, known).astype(np.float32)
    if kind == MONTE_CARLO or (kind in (MEASURED, SOFT) and values is not None):
        assert values is not None, "a trace without values has no such labels"
        return np.interp(positions + 1, *values).astype(np.float32)
    certain = KINDS["ramp" if kind == MEASURED else kind](positions / max(1, length - 1))
    return (0.5 + (0.5 if correct else -0.5) * certain).astype(np.float32)
