"""How fast a decode step could be, were it nothing but the reading of what it needs: weights, and keys and values."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from trueplex.models.backbone import Backbone

COPIED, COPIES = 2**28, 7  # bytes that are copied at once, and how often


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
    return 2 * nbytes / min(timed(lambda: target.copy_(source), device) for _ in range(COPIES))


def weight_bytes(backbone: Backbone) -> int:
    """Bytes of weights that a step reads: all but the input embeddings, of which it reads a row a token, unless they are the output's, too."""
    table = backbone.model.get_input_embeddings().weight
    tied = backbone.model.get_output_embeddings().weight is table
    return sum(held(p) for p in backbone.model.parameters()) - (0 if tied else held(table))


def held(tensor: torch.Tensor) -> int:
    """Bytes of a weight, of one that torchao quantised those of its parts."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    parts, _ = tensor.__tensor_flatten__()
    return sum(held(getattr(tensor, part)) for part in parts)


def step_bytes(backbone: Backbone, rows: int, prompt: int, tokens: int) -> int:
    """Bytes that a middle step of so many rows reads, of traces of so many tokens behind one prompt that is read once."""
    return weight_bytes(backbone) + backbone.token_bytes * (prompt + rows * tokens // 2)
