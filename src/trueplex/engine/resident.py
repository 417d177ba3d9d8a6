"""What a step needs to know of its rows on the device, so that nothing is carried there while the rows stay the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.slots import Slots


class Resident:
    """Of the running rows, on the device [n] int64: the keys of their randomness, their tokens, their places in the history.

    They are carried over when rows come, go or change places, and counted on where they are otherwise.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rows = torch.zeros(3, 0, dtype=torch.int64, device=device)
        self._of = (-1, -1)  # the version and the number of rows that `_rows` is of

    def __call__(self, slots: Slots, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, tokens and places of the first n rows."""
        if self._of != (slots.version, n):
            rows = np.stack([slots.keys[:n].view(np.int64), slots.tokens[:n], slots.places[:n]])
            self._rows, self._of = torch.from_numpy(rows).to(self._device), (slots.version, n)
        keys, tokens, places = self._rows
        return keys, tokens, places

    def count(self) -> None:
        """Every row has one token more."""
        self._rows[1] += 1
