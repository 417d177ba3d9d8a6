"""What a scorer is: anything that gives traces a score while they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from trueplex.engine.probing import ProbeColumn
from trueplex.types import Steps, Trace


class Look(Protocol):
    """The traces to score, in order; what a probe read of them, if one did; and what they remember."""

    traces: list[Trace]
    readings: np.ndarray | None

    def steps(self) -> Iterator[Steps]: ...


class Scorer(Protocol):
    """Anything that gives running traces a score."""

    @property
    def every(self) -> int:
        """Tokens between scores."""

    @property
    def probe(self) -> ProbeColumn | None:
        """The probe column that must be read, if the scores come from one."""

    @property
    def fingerprint(self) -> str | None:
        """A name for trained weights that give the scores, beside the name that the scorer was asked for with."""

    def cost(self, look: Look) -> int:
        """Tokens that a call reads, at most, beside what a probe reads."""

    def __call__(self, look: Look) -> Sequence[float] | None:
        """Scores of the look's traces, in its order, higher is better; None when there is nothing to say yet."""
