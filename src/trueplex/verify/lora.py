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

from trueplex.errors import ModelError


class ProbeState:
    """What forward pass is running: of so many ``rows`` and ``queries`` columns, of which the last ``columns`` are probes.

    With 0 probes LoRA adds nothing.
    """

    def __init__(self) -> None:
        self.rows = self.queries = self.columns = 0

    def note(self, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A forward pre-hook of the transformer: takes the size of its inputs [B, q, ...]."""
        found = named.get("inputs_embeds")
        inputs = found if found is not None else named.get("input_ids", *arguments[:1])
        self.rows, self.queries = inputs.shape[:2]

    @contextmanager
    def being(self, rows: int, queries: int, columns: int) -> Iterator[None]:
        """The state is this for a while."""
        before = self.rows, self.queries, self.columns
        self.rows, self.queries, self.columns = rows, queries, columns
        try:
            yield
        finally:
            self.rows, self.queries, self.columns = before


class ProbeLoRA(nn.Module):
    """The LoRA pair of one linear layer: adds B A x · scale to the last ``state.columns`` columns."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, state: ProbeState) -> None:
        super().__init__()
        self.scale, self.state = scale, state
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, layer: Any, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """A forward hook of ``layer``: inputs (x,) and out, [B, q, ...] or [B · q, ...] → out with the LoRA term added.

        Raises:
            ModelError: the layer reads some of the tokens only, so which are probes cannot be told.
        """
        columns, x = self.state.columns, inputs[0]
        if not columns:
            return out
        queries = x.shape[-2] if x.ndim > 2 else self.state.queries
        if x.ndim == 4 and queries != self.state.queries:  # latents from the cache: the base's own
            return out
        if columns == queries:  # nothing but probes
            return out + self._added(x).to(out.dtype)
        if x.ndim == 2 and len(x) != self.state.rows * queries:
            raise ModelError("a verifier's LoRA is on a layer that reads a part of the tokens, as an expert does. Try: "
                             "--target-modules with the names of other layers")  # fmt: skip
        grouped = out
        if x.ndim != 3:  # shared experts are given the columns of all rows as one: row after row, as they stand here
            grouped, x = out.view(-1, queries, out.shape[-1]), x.reshape(-1, queries, x.shape[-1])
        down = self.lora_A
        if columns == 1 and out.dtype == down.dtype and not torch.is_grad_enabled():
            # a decode step's one probe: two small products and nothing else
            grouped[:, -1].addmm_(linear(x[:, -1], down), self.lora_B.t(), alpha=self.scale)
        else:
            grouped[:, -columns:] += self._added(x[:, -columns:]).to(out.dtype)
        return out

    def _added(self, x: Tensor) -> Tensor:
        return linear(linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B) * self.scale


class ProbeLoRAs(nn.ModuleDict):
    """The LoRA pairs of layers of a transformer, by name; a ``/`` stands for the dot that a key cannot have."""

    def __init__(self, transformer: nn.Module, layers: Mapping[str, nn.Linear], rank: int, scale: float) -> None:
        self._state = ProbeState()
        super().__init__(
            {name.replace(".", "/"): ProbeLoRA(layer, rank, scale, self._state) for name, layer in layers.items()}
        )
        self._layers = tuple(layers.values())  # a tuple, so that the base's layers are no submodules
        self._transformer = (transformer,)
        self._handle: RemovableHandle
        self._users = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the hooks on the layers; the last of all overlapping uses takes them off.

        `probing` attaches by itself: this only spares who probes often from doing so each time.
        """
        if not self._users:
            (transformer,) = self._transformer
            self._handle = transformer.register_forward_pre_hook(self._state.note, with_kwargs=True)
            # As `register_forward_hook` does it, without a handle for each of some hundred layers in every step.
            for layer, adapter in zip(self._layers, self.values(), strict=True):
                layer._forward_hooks[self._handle.id] = adapter.forward
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                for layer in self._layers:
                    del layer._forward_hooks[self._handle.id]
                self._handle.remove()

    @contextmanager
    def probing(self, columns: int) -> Iterator[None]:
        """LoRA acts on the last ``columns`` columns of every forward pass within."""
        with self._again(self._state.rows, self._state.queries, columns):
            yield

    def recomputing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """A ``context_fn`` for `torch.utils.checkpoint`: a forward pass that is computed again in the backward pass
        probes the columns that it probed at first, whatever is being probed by then."""
        return nullcontext(), self._again(self._state.rows, self._state.queries, self._state.columns)

    @contextmanager
    def _again(self, rows: int, queries: int, columns: int) -> Iterator[None]:
        with self.attached(), self._state.being(rows, queries, columns):
            yield


def left_out(model: nn.Module) -> str:
    """What LoRA on linear layers leaves out of a model, for people to read; empty without such.

    Routed experts are one tensor of three dimensions for all of them, and no linear layers.
    """
    fused = [p for name, p in model.named_parameters() if p.ndim == 3 and "expert" in name]
    weights = sum(p.numel() for p in fused) / 1e6
    return (
        f"the routed experts get no LoRA ({len(fused)} fused tensors of {weights:.3g} million weights); all linear layers do"
        if fused
        else ""
    )
