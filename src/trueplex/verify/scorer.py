"""What gives scores to live traces, and what it is shown of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from trueplex.engine.probing import ProbeColumn
from trueplex.types import Steps, Trace


class Look(Protocol):
    """The live traces as a scorer sees them, between two strides."""

    @property
    def traces(self) -> Sequence[Trace]:
        """The traces to score: those that still run, and those that ended by themselves in the last stride."""

    @property
    def readings(self) -> np.ndarray | None:
        """What the probe read of each of ``traces`` after its last token, [n] float32; None if no probe was read."""

    def steps(self, since: Sequence[int] | None = None) -> Iterator[Steps]:
        """What each of ``traces`` remembers of its steps, up to its last token, in the same order."""


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives live traces a score."""

    @property
    def every(self) -> int:
        """Tokens between scores."""

    @property
    def probe(self) -> ProbeColumn | None:
        """The query column that the decode forward must carry, if the scores come from one."""

    @property
    def bounded(self) -> bool:
        """Whether every score is in [0, 1]."""

    @property
    def fingerprint(self) -> str | None:
        """A name for trained weights that give the scores, beside the name that the scorer was asked for with."""

    def cost(self, look: Look) -> int:
        """How many tokens a call reads at most, besides those of a probe column."""

    def __call__(self, look: Look) -> Sequence[float] | None:
        """A score for each of ``look.traces``, in their order, higher is better; None when there is nothing to say yet."""
