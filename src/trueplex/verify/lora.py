"""LoRA that acts on the probe columns of a forward pass and on nothing else.

It acts through forward hooks, which are on the base model's layers only while `ProbeLoRAs.attached` or `probing`
is open. With none of them the base model is exactly itself; hooks of several verifiers come and go in any order.
PEFT's own layers are not used for computing: they adapt every column of every row, and cost more than the probe
itself in a decode loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle


class ProbeState:
    """How many of the last query columns are probes; with 0, LoRA adds nothing."""

    def __init__(self) -> None:
        self.columns = 0


class ProbeLoRA(nn.Module):
    """The LoRA pair of one linear layer: adds B A x · scale to the last ``state.columns`` columns."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, state: ProbeState) -> None:
        super().__init__()
        self.scale, self.state = scale, state
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, layer: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """A forward hook of ``layer``: inputs ([B, q, in],) and out [B, q, out] → out with the LoRA term added."""
        columns, x = self.state.columns, inputs[0]
        if not columns:
            return out
        if columns == 1 and out.dtype == self.lora_A.dtype and not torch.is_grad_enabled():
            last = out[:, -1]  # a decode step's one probe: two small products and nothing else
            last.addmm_(linear(x[:, -1], self.lora_A), self.lora_B.t(), alpha=self.scale)
            return out
        probes = x[:, -columns:].to(self.lora_A.dtype)
        added = linear(linear(probes, self.lora_A), self.lora_B) * self.scale
        if columns == x.shape[1]:
            return out + added.to(out.dtype)
        out[:, -columns:] += added.to(out.dtype)
        return out


class ProbeLoRAs(nn.ModuleDict):
    """The LoRA pairs of a base model's layers, by name; a ``/`` stands for the dot that a key cannot have."""

    def __init__(self, layers: Mapping[str, nn.Linear], rank: int, scale: float) -> None:
        self._state = ProbeState()
        super().__init__(
            {name.replace(".", "/"): ProbeLoRA(layer, rank, scale, self._state) for name, layer in layers.items()}
        )
        self._layers = tuple(layers.values())  # a tuple, so that the base's layers are no submodules
        self._handles: list[RemovableHandle] = []
        self._users = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the hooks on the layers; the last of all overlapping uses takes them off.

        `probing` attaches by itself: this only spares who probes often from doing so each time.
        """
        if not self._users:
            self._handles = [
                layer.register_forward_hook(adapter.forward)
                for layer, adapter in zip(self._layers, self.values(), strict=True)
            ]
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                for handle in self._handles:
                    handle.remove()
                self._handles = []

    @contextmanager
    def probing(self, columns: int) -> Iterator[None]:
        """LoRA acts on the last ``columns`` columns of every forward pass within."""
        with self.attached():
            before, self._state.columns = self._state.columns, columns
            try:
                yield
            finally:
                self._state.columns = before

    def recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """A ``context_fn`` for `torch.utils.checkpoint`: a forward pass that is computed again in the backward pass
        probes the columns that it probed at first, whatever is being probed by then."""
        return nullcontext(), self.probing(self._state.columns)
