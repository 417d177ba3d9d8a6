"""What gives scores to live traces, and what it is shown of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from trueplex.engine.look import Look
from trueplex.engine.probing import ProbeColumn


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
