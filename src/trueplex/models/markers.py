"""Where thinking opens and closes: sequences of token ids, as a tokenizer may need several for one marker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Markers:
    """The id sequences that open and that close thinking; the first closing one is written where thinking is cut short."""

    start: tuple[Ids, ...]
    end: tuple[Ids, ...]

    @property
    def longest(self) -> int:
        return max(map(len, (*self.start, *self.end)))

    def opened(self, ids: Sequence[int]) -> bool:
        """Whether the ids hold a marker that opens thinking."""
        ids = tuple(ids)
        return any(ids[at : at + len(mark)] == mark for mark in self.start for at in range(len(ids) - len(mark) + 1))


def completed(recent: np.ndarray, sequences: Sequence[Ids]) -> np.ndarray:
    """Which rows of the last emitted ids [B, L], −1 where there are none, end in one of the sequences: [B] bool."""
    found = np.zeros(len(recent), dtype=bool)
    for sequence in sequences:
        found |= (recent[:, -len(sequence) :] == sequence).all(1)
    return found
