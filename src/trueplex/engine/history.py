"""What live rows remember of their steps, until they leave and take it with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.thinking import Step
from trueplex.types import Steps

FIRST = 128  # steps allotted at first; doubled when full


class History:
    """Steps of every row, [rows, steps, K] and [rows, steps], on the model's device; it grows in all three."""

    def __init__(self, device: torch.device) -> None:
        wide = torch.zeros(0, FIRST, 1, device=device)
        self._steps = Step(wide.int(), wide, wide.clone(), wide[..., 0].clone(), wide[..., 0].clone())

    def reserve(self, rows: int, width: int) -> None:
        """Have at least so many rows of at least so many slots."""
        have, steps, slots = self._steps.ids.shape
        if rows > have or width > slots:
            self._resize(max(rows, have), steps, max(width, slots))

    def remember(self, step: Step, tokens: np.ndarray) -> None:
        """The step of the first n rows, as each one's step number `tokens` [n]."""
        self._grow(int(tokens.max()) + 1)
        device, slots = self._steps.ids.device, step.ids.shape[1]
        rows, at = torch.arange(len(tokens), device=device), torch.from_numpy(tokens).to(device)
        for kept, new in zip(self._steps, step, strict=True):
            whole = kept[..., :slots] if kept.dim() == 3 else kept
            whole[rows, at] = new.to(kept.dtype)

    def steps(
        self, rows: Sequence[int], tokens: Sequence[int], widths: Sequence[int], first: Sequence[int] | None = None
    ) -> list[Steps]:
        """Copies of the first steps and slots of rows, so many of each, as the rows will be used again.

        Where `first` is given, without so many steps at the beginning of each.
        """
        if not len(rows):
            return []
        places, begin = torch.tensor(rows, device=self._steps.ids.device), first or [0] * len(rows)
        low = min(begin)
        taken = [t[:, low : max(tokens)].index_select(0, places).cpu().numpy() for t in self._steps]
        spans = [slice(a - low, count - low) for a, count in zip(begin, tokens, strict=True)]
        return [
            Steps(*(t[i, span, :width].copy() if t.ndim == 3 else t[i, span].copy() for t in taken))
            for i, (span, width) in enumerate(zip(spans, widths, strict=True))
        ]

    def restore(self, row: int, steps: Steps) -> None:
        """Give a row the steps of a suspended trace."""
        self._grow(len(steps))
        for kept, old in zip(self._steps, steps.arrays(), strict=True):
            whole = kept[..., : old.shape[1]] if old.ndim == 2 else kept
            whole[row, : len(steps)] = torch.from_numpy(old).to(kept)

    def last_ids(self, rows: np.ndarray, tokens: np.ndarray, count: int) -> Tensor:
        """The last emitted ids [n, count] of rows [n], −1 before their first; tokens [n] are the rows' steps."""
        device = self._steps.ids.device
        at = torch.from_numpy(tokens[:, None] - np.arange(count, 0, -1)).to(device)
        ids = self._steps.ids[torch.from_numpy(rows).to(device), :, 0].gather(1, at.clamp(min=0))
        return torch.where(at < 0, -1, ids)

    def swap(self, rows: Tensor, sources: Tensor) -> None:
        """The rows [n] take what stands in the sources [n], the same rows in another order."""
        for tensor in self._steps:
            tensor[rows] = tensor[sources]

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
