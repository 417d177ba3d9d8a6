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
    """Steps of every row, [rows, steps, K] and [rows, steps], on the model's device."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        wide, narrow = (rows, FIRST, width), (rows, FIRST)
        self._steps = Step(
            torch.zeros(wide, dtype=torch.int32, device=device),
            *(torch.zeros(shape, device=device) for shape in (wide, wide, narrow, narrow)),
        )

    def remember(self, step: Step, tokens: np.ndarray) -> None:
        """The step of the first n rows, as each one's step number `tokens` [n]."""
        self._grow(int(tokens.max()) + 1)
        device = self._steps.ids.device
        rows, at = torch.arange(len(tokens), device=device), torch.from_numpy(tokens).to(device)
        for kept, new in zip(self._steps, step, strict=True):
            kept[rows, at] = new.to(kept.dtype)

    def steps(self, rows: Sequence[int], tokens: Sequence[int]) -> list[Steps]:
        """Copies of the first steps of rows, so many of each, as the rows will be used again."""
        if not len(rows):
            return []
        places = torch.tensor(rows, device=self._steps.ids.device)
        taken = [t[:, : max(tokens)].index_select(0, places).cpu().numpy() for t in self._steps]
        return [Steps(*(t[i, :count].copy() for t in taken)) for i, count in enumerate(tokens)]

    def restore(self, row: int, steps: Steps) -> None:
        """Give a row the steps of a trace that was begun."""
        self._grow(len(steps))
        for kept, old in zip(self._steps, steps.arrays(), strict=True):
            kept[row, : len(steps)] = torch.from_numpy(old).to(kept)

    def last_ids(self, tokens: np.ndarray, count: int) -> Tensor:
        """The last emitted ids [n, count] of the first n rows, −1 before their first."""
        at = torch.from_numpy(tokens[:, None] - np.arange(count, 0, -1)).to(self._steps.ids.device)
        ids = self._steps.ids[: len(tokens), :, 0].gather(1, at.clamp(min=0))
        return torch.where(at < 0, -1, ids)

    def swap(self, rows: Tensor, sources: Tensor) -> None:
        """The rows [n] take what stands in the sources [n], the same rows in another order."""
        for tensor in self._steps:
            tensor[rows] = tensor[sources]

    def _grow(self, length: int) -> None:
        while self._steps.ids.shape[1] < length:
            self._steps = Step(*(torch.cat([t, torch.zeros_like(t)], dim=1) for t in self._steps))
