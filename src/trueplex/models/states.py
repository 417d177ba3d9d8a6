"""The states of recurrent layers: of linear attention, state-space and convolution layers, for the rows of one pass.

Such a layer keeps nothing by token, but tensors of fixed size a row that each token changes. transformers' layers read and
write them through its cache; during a pass they are here, and between passes in the lanes, so that a probe that is not
written back leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from trueplex.models.kinds import MASKS, STATES, Kinds

CONV, RECURRENT = "conv_states", "recurrent_states"
Own = dict[tuple[str, int], Tensor]  # a layer's states [rows, ...]: convolution or recurrent, and which of several
States = dict[tuple[int, str, int], Tensor]  # of all layers, by their numbers


class StateLayer(LinearAttentionLayer):
    """A layer's states during a pass, as transformers' own cache has them for a batch of its own."""

    def __init__(self, states: int) -> None:
        LinearAttentionLayer.__init__(self, number_of_states=states)

    def begin(self, states: Own) -> None:
        """The states of the rows of a pass; without any, the rows have read nothing."""
        for number in range(self.number_of_states):
            conv, recurrent = states.get((CONV, number)), states.get((RECURRENT, number))
            self.conv_states[number], self.recurrent_states[number] = conv, recurrent
            self.is_conv_states_initialized[number] = conv is not None
            self.is_recurrent_states_initialized[number] = recurrent is not None
            self.has_previous_state[number] = bool(states)
            self.conv_kernel_size[number] = None if conv is None else conv.shape[-1]

    def now(self) -> Own:
        """What the states have become."""
        pairs = ((CONV, self.conv_states), (RECURRENT, self.recurrent_states))
        return {(name, n): state for name, states in pairs for n, state in states.items() if state is not None}


class ProbedLayer(StateLayer):
    """The states that probes read, which are copies: gradients go through what is read, and nothing is written for later."""

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states  # in place would break the backward pass
        return recurrent_states


class ProbedAttention(DynamicLayer):
    """Attention of a probe pass finds the base's keys and values by itself (`models.attention.ProbePass`)."""

    number: int = -1
    cache: ProbedCache | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.cache is not None:
            self.cache.last = self.number
        return key_states, value_states


class ProbedBoth(ProbedLayer, ProbedAttention):
    """A hybrid layer of a probe pass."""

    def __init__(self, states: int) -> None:
        ProbedAttention.__init__(self)
        ProbedLayer.__init__(self, states)


class ProbedCache(Cache):
    """What a model is given for a pass of probes, one a row, each of which stands behind states of its own.

    ``last`` is the layer whose attention comes next: a module that stands for several layers tells one number.
    """

    def __init__(self, kinds: Kinds, states: States) -> None:
        layers: list[Any] = []
        for number, kind in enumerate(kinds.layers):
            if kind not in STATES:
                layers.append(ProbedAttention())
                continue
            layers.append((ProbedBoth if kind in MASKS else ProbedLayer)(kinds.states[number]))
            layers[-1].begin({(name, n): t.clone() for (owner, name, n), t in states.items() if owner == number})
        super().__init__(layers=layers)
        self.last = -1
        for number, layer in enumerate(layers):
            if isinstance(layer, ProbedAttention):
                layer.number, layer.cache = number, self


def gather(number: int, parts: Sequence[tuple[Mapping[tuple[int, str, int], Tensor], slice]], in_place: bool) -> Own:
    """The states of a layer of some rows of lanes, as one; of a single lane where they lie, if they may be changed there."""
    names = [name for name in parts[0][0] if name[0] == number]
    of = {(kind, which): [states[owner, kind, which][rows] for states, rows in parts] for owner, kind, which in names}
    return {name: t[0] if in_place and len(t) == 1 else torch.cat(t) for name, t in of.items()}
