"""What live rows remember of their steps, until they leave and take it with them."""

from __future__ import annotations

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

    def steps(self, row: int, tokens: int) -> Steps:
        """A copy of a row's first steps, as the row will be used again."""
        return Steps(*(t[row, :tokens].cpu().numpy().copy() for t in self._steps))

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

    def swap(self, a: int, b: int) -> None:
        for tensor in self._steps:
            tensor[[a, b]] = tensor[[b, a]]

    def _grow(self, length: int) -> None:
        while self._steps.ids.shape[1] < length:
            self._steps = Step(*(torch.cat([t, torch.zeros_like(t)], dim=1) for t in self._steps))
