"""What running traces remember of their steps, until they leave and take it with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.thinking import Step
from trueplex.types import Steps

FIRST = 128  # steps allotted at first; doubled when full


class History:
    """Steps of every place, [places, steps, K] and [places, steps], on the model's device; it grows in all three.

    A trace keeps its place while its row changes.
    """

    def __init__(self, device: torch.device) -> None:
        self._free: list[int] = []
        wide = torch.zeros(0, FIRST, 1, device=device)
        self._steps = Step(wide.int(), wide, wide.clone(), wide[..., 0].clone(), wide[..., 0].clone())

    def reserve(self, places: int, width: int) -> None:
        """Have at least so many places of at least so many slots."""
        have, steps, slots = self._steps.ids.shape
        if places > have or width > slots:
            self._free += range(have, places)
            self._resize(max(places, have), steps, max(width, slots))

    def take(self) -> int:
        """A free place."""
        return self._free.pop()

    def free(self, places: np.ndarray) -> None:
        """These places may be taken again."""
        self._free += places.tolist()

    def remember(self, step: Step, places: Tensor, tokens: Tensor, longest: int) -> None:
        """A step of traces at `places` [n] int64, as each one's step number `tokens` [n] int64, the highest of which is ``longest``."""
        self._grow(longest + 1)
        at, slots = (places, tokens), step.ids.shape[1]
        for kept, new in zip(self._steps, step, strict=True):
            whole = kept[..., :slots] if kept.dim() == 3 else kept
            whole[at] = new.to(kept.dtype)

    def steps(
        self, places: np.ndarray, tokens: Sequence[int], widths: Sequence[int], first: Sequence[int] | None = None
    ) -> list[Steps]:
        """Copies of the first steps and slots at places, so many of each, as the places will be used again.

        Where `first` is given, without so many steps at the beginning of each.
        """
        if not len(places):
            return []
        chosen, begin = torch.from_numpy(places).to(self._steps.ids.device), first or [0] * len(places)
        low = min(begin)
        taken = [t[:, low : max(tokens)].index_select(0, chosen).cpu().numpy() for t in self._steps]
        spans = [slice(a - low, count - low) for a, count in zip(begin, tokens, strict=True)]
        return [
            Steps(*(t[i, span, :width].copy() if t.ndim == 3 else t[i, span].copy() for t in taken))
            for i, (span, width) in enumerate(zip(spans, widths, strict=True))
        ]

    def restore(self, place: int, steps: Steps) -> None:
        """Give a place the steps of a suspended trace."""
        self._grow(len(steps))
        for kept, old in zip(self._steps, steps.arrays(), strict=True):
            whole = kept[..., : old.shape[1]] if old.ndim == 2 else kept
            whole[place, : len(steps)] = torch.from_numpy(old).to(kept)

    def last_ids(self, places: np.ndarray, tokens: np.ndarray, count: int) -> Tensor:
        """The last emitted ids [n, count] at places [n], −1 before their first; tokens [n] are their steps."""
        device = self._steps.ids.device
        at = torch.from_numpy(tokens[:, None] - np.arange(count, 0, -1)).to(device)
        ids = self._steps.ids[torch.from_numpy(places).to(device), :, 0].gather(1, at.clamp(min=0))
        return torch.where(at < 0, -1, ids)

    def _grow(self, length: int) -> None:
        rows, steps, slots = self._steps.ids.shape
        if length > steps:
            self._resize(rows, max(length, 2 * steps), slots)

    def _resize(self, rows: int, steps: int, slots: int) -> None:
        grown = []
        for old in self._steps:
            new = old.new_zeros((rows, steps, slots)[: old.dim()])
            new[tuple(slice(size) for size in old.shape)] = old
            grown.append(new)
        self._steps = Step(*grown)
