"""How fast a decode step could be, were it nothing but the reading of what it needs (weights, keys and values), or but the products of
its linear layers, whichever takes longer."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from trueplex.models.backbone import Backbone
from trueplex.models.check import is_routed

COPIED, TIMES = 2**28, 7  # bytes that are copied at once, and how often
SIDES = 2048, 8192  # of square matrices, on a CPU and elsewhere, so large that nothing but multiplying takes time


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that some work takes, waiting for the device."""
    synchronise(device)
    started = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def bandwidth(device: torch.device, nbytes: int = COPIED) -> float:
    """Bytes a second that a copy reads and writes, in the best of several."""
    source = torch.ones(nbytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * nbytes / min(timed(lambda: target.copy_(source), device) for _ in range(TIMES))


def peak(device: torch.device, dtype: torch.dtype, sides: tuple[int, int] = SIDES) -> float:
    """Multiplications and additions a second of one large product of matrices, in the best of several."""
    side = sides[device.type != "cpu"]
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    return 2 * side**3 / min(timed(lambda: matrix @ matrix, device) for _ in range(TIMES))


def weights(backbone: Backbone) -> list[torch.nn.Parameter]:
    """The weights that a step reads: all but the input embeddings, of which it reads a row a token, unless they are the output's, too."""
    table = backbone.model.get_input_embeddings().weight
    tied = backbone.model.get_output_embeddings().weight is table
    return [p for p in backbone.model.parameters() if tied or p is not table]


def held(tensor: torch.Tensor) -> int:
    """Bytes of a weight, of one that torchao quantised those of its parts."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    parts, _ = tensor.__tensor_flatten__()
    return sum(held(getattr(tensor, part)) for part in parts)


def step_bytes(backbone: Backbone, rows: int, prompt: int, tokens: int) -> int:
    """Bytes that a middle step of so many rows reads, of traces of so many tokens behind one prompt that is read once."""
    return sum(map(held, weights(backbone))) + backbone.token_bytes * (prompt + rows * tokens // 2)


def step_flops(backbone: Backbone, rows: int) -> int:
    """Multiplications and additions of a step's linear layers; 0 for a mixture of experts, where each token takes layers of its own."""
    return 0 if is_routed(backbone) else 2 * rows * sum(p.numel() for p in weights(backbone) if p.dim() > 1)
