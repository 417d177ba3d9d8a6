"""What probes of stored traces read: keys and values of the base model, and the states of its recurrent layers.

Keys and values of all positions come from one pass. A recurrent layer has only the state behind what it has read, so the base
reads on to each position that some row is probed at, and what it keeps there is copied: as many passes as there are such
positions, and never more than there are tokens.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from trueplex.models.attention import ProbePass
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import KeyValue, LaneCache
from trueplex.models.states import States
from trueplex.verify.kept import KEPT, KeptReads, SharedReads


class Base(Protocol):
    """What the base model has read of padded rows."""

    def at(self, positions: Tensor) -> ProbePass:
        """What probes behind positions [B, P] read; those of later calls may not be before those of earlier ones."""


def base_pass(backbone: Backbone, inputs: Tensor, last: int | None = None) -> Base:
    """The base model over inputs [B, N, ...], without LoRA and without gradient; no further than that layer, where nothing is kept."""
    return Stepwise(backbone, inputs) if backbone.kinds.recurrent else Whole(backbone, inputs, last)


class _Enough(Exception):
    """The last layer that is wanted has been stored."""


class _Upto(DynamicCache):
    """Takes what it is given as it is: nothing is copied, and no room is kept to grow. Behind the last layer it ends the pass."""

    def __init__(self, last: int | None) -> None:
        super().__init__()
        self._last = last

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        found = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self._last:
            raise _Enough
        return found


def _read_whole(backbone: Backbone, inputs: Tensor, last: int | None = None) -> dict[int, KeyValue]:
    """All keys and values, or those up to a layer, by one pass."""
    length, cache = inputs.shape[1], _Upto(last)
    positions = torch.arange(length, device=inputs.device)[None]
    with suppress(_Enough):
        backbone.forward(inputs, positions, cache, length, whole=True)
    return _expanded(backbone, {n: (layer.keys, layer.values) for n, layer in enumerate(cache.layers)})


class Whole:
    """All keys and values, by one pass or as `verify.kept` has them."""

    def __init__(self, backbone: Backbone, inputs: Tensor, last: int | None = None) -> None:
        kept: KeptReads | SharedReads | None = backbone.kept.get(KEPT)
        with torch.no_grad():
            stored = kept(inputs, partial(_read_whole, backbone)) if kept else _read_whole(backbone, inputs, last)
        self._read = ProbePass(stored, inputs.shape[0], inputs.shape[1], owners=backbone.kinds.owners)

    def at(self, positions: Tensor) -> ProbePass:
        return self._read


class Stepwise:
    """The base reads on as positions are asked for."""

    def __init__(self, backbone: Backbone, inputs: Tensor) -> None:
        self._backbone, self._inputs, self._read = backbone, inputs, 0
        self._lane = LaneCache(backbone.kinds).add(len(inputs), inputs.shape[1])

    def at(self, positions: Tensor) -> ProbePass:
        batch, probes = positions.shape
        asked, states = positions.cpu().numpy(), States()
        with torch.no_grad():
            for end in np.unique(asked) + 1:
                self._read_to(int(end))
                rows, numbers = np.nonzero(asked == end - 1)
                places = torch.from_numpy(rows * probes + numbers).to(positions.device)
                for name, state in self._lane.states.items():
                    if name not in states:
                        states[name] = state.new_empty(batch * probes, *state.shape[1:])
                    states[name][places] = state[torch.from_numpy(rows).to(positions.device)]
            columns = self._read
            stored = {n: (k[:, :, :columns], v[:, :, :columns]) for n, (k, v) in self._lane.layers.items()}
            return ProbePass(_expanded(self._backbone, stored), batch, columns, states=states)

    def _read_to(self, end: int) -> None:
        assert end >= self._read, "positions are asked for in order"
        if end > self._read:
            rows, starts = len(self._inputs), np.full(len(self._inputs), self._read)
            self._backbone.decode_pass(
                self._lane.cache, [(self._lane, 0, rows)], starts, self._inputs[:, self._read : end]
            )
            self._read = end


def _expanded(backbone: Backbone, stored: dict[int, KeyValue]) -> dict[int, KeyValue]:
    """Latent attention (MLA) stores what keys and values are made of; probes read what is made of it without LoRA."""
    latent = (module for module in backbone.model.modules() if hasattr(module, "expand_kv"))
    makers: dict[int, Any] = {module.layer_idx: module.expand_kv for module in latent}  # type: ignore[misc]
    return {n: makers[n](*layer) if n in makers else layer for n, layer in stored.items()}
