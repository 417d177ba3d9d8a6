"""Linear layers in bfloat16 on CPU, with weights packed once in the order that the processor's matrix units read.

oneDNN, which multiplies bfloat16 on CPUs, otherwise puts a weight in that order anew at every call: at 64 rows of a decode step
this takes as long as the product itself. The order is the one that `torch.compile` with frozen weights chooses. Results differ from plain
layers' by the order of their sums at most, as those of another batch do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from trueplex.models.precision import has_bfloat16

ROWS = 64  # of a decode step, for which the order is chosen; it serves other numbers of rows nearly as well
SHARE = 0.25  # of the memory that is free, at most, for the second copy of the weights


class PackedLinear(nn.Linear):
    """A linear layer whose weight lies twice: as it is, for gradients and whoever reads it, and packed.

    A weight that was changed since it was packed, by an optimizer's step or by moving it, is read as it is.
    """

    packed: Tensor | None
    of: tuple[int, int]  # the weight that was packed: where it lies, and how often it had been changed

    def pack(self) -> None:
        """Pack the weight as it is now."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), ROWS)
        self.of = self._now()

    def _now(self) -> tuple[int, int]:
        return self.weight.data_ptr(), self.weight._version

    def forward(self, input: Tensor) -> Tensor:
        """x [..., in] → [..., out], in bfloat16."""
        plain = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        if plain or torch.compiler.is_compiling() or self.packed is None or self._now() != self.of:
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "packed": None}  # a copy's weight lies elsewhere


def pack(model: nn.Module) -> None:
    """Pack the plain bfloat16 linear layers of a model on a CPU that multiplies bfloat16, where the memory allows it."""
    layers = [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and type(module.weight) is nn.Parameter
        and module.weight.dtype == torch.bfloat16
        and module.weight.device.type == "cpu"
        and "forward" not in vars(module)  # what spreads a model over devices wraps it
    ]
    size = sum(layer.weight.nbytes for layer in layers)
    if not layers or not _packs() or size > SHARE * psutil.virtual_memory().available:
        return
    for layer in layers:
        layer.__class__ = PackedLinear
        assert isinstance(layer, PackedLinear)
        layer.pack()


@contextmanager
def unpacked(model: nn.Module) -> Iterator[None]:
    """Linear layers as PyTorch computes them, to measure or compare with."""
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    for layer in layers:
        layer.__class__ = nn.Linear  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = PackedLinear


def _packs() -> bool:
    # PyTorch has no public name for these two; a release without them reads plain weights.
    named = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return named and has_bfloat16("cpu")
