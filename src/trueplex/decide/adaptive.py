"""How many traces a problem gets, and when: all at once, behind a warm-up, or as many as it turns out to need.

Plain Python over numbers. A wave begins when all earlier traces of its problem have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trueplex.decide.voting import tally
from trueplex.errors import OptionError
from trueplex.types import Trace

FIRST = 8  # traces before the first look, and then so many more, doubling
LIMIT = 64
SETTLED = 0.95  # as published for Adaptive-Consistency (arXiv 2305.11860)


@dataclass(frozen=True, slots=True)
class PathSchedule:
    """`first` traces, then up to `most`: at once when ``adaptive`` is off, else only while the vote is open.

    Attributes:
        first: traces of the first wave.
        most: traces in all, at most.
        adaptive: a wave begins only while the vote is not settled; all of them double the number of traces.
    """

    first: int
    most: int
    adaptive: bool = False

    def more(self, stopped: Sequence[Trace]) -> int:
        """How many traces to begin, now that all `stopped` ones have stopped; 0 when it is enough."""
        begun = len(stopped)
        if begun >= self.most or (self.adaptive and sure(stopped) >= SETTLED):
            return 0
        return min(begun if self.adaptive else self.most, self.most - begun)


def parse(paths: int | str) -> PathSchedule:
    """A number of paths, ``auto`` or ``auto:LIMIT``. Raises OptionError for anything else."""
    text = str(paths)
    name, colon, limit = text.partition(":")
    if name == "auto" and (not colon or limit.isdigit()):
        most = int(limit) if colon else LIMIT
        if most <= FIRST:
            raise OptionError(
                f"paths is {text!r}, and auto starts with {FIRST}. Try: auto:LIMIT with more, or a number"
            )
        return PathSchedule(FIRST, most, adaptive=True)
    try:
        number = int(text)
    except ValueError as error:
        raise OptionError(f"paths is {text!r}. Try: a number, auto or auto:LIMIT") from error
    if number < 1:
        raise OptionError(f"paths is {number}. Try: at least 1")
    return PathSchedule(number, number)


def sure(stopped: Sequence[Trace]) -> float:
    """The posterior probability that the leading answer is likelier than the runner-up.

    Each answer's chance has a Dirichlet posterior, uniform before any vote; a vote counts its score, 1 without
    a scorer. Of two answers that leaves a Beta distribution, of which this is the mass above ½. Without votes 0.
    """
    votes = tally(stopped, _weight)
    if not votes:
        return 0.0
    return beats(1 + votes[0].weight, 1 + (votes[1].weight if len(votes) > 1 else 0.0))


def _weight(trace: Trace) -> float:
    return 1.0 if trace.score is None else min(1.0, max(0.0, trace.score))


_NODES, _SHARES = np.polynomial.legendre.leggauss(200)


def beats(a: float, b: float) -> float:
    """The mass of a Beta(a, b) distribution above ½, for a, b ≥ 1, by Gauss-Legendre quadrature."""
    u = 0.5 + 0.5 * _NODES
    rest = 0.5 * u**2  # 1 − x; squared, so that nothing is steep where x is near 1
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    density = np.exp(scale + (a - 1) * np.log1p(-rest) + (b - 1) * np.log(rest)) * u
    return min(1.0, 0.5 * float(density @ _SHARES))
