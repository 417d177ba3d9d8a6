"""Logits and uniforms → token ids. Randomness is an argument; nothing here draws a number.

Shapes: B rows, V words, K draws. All arithmetic is float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trueplex.errors import OptionError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one phase samples. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep all.

    Raises:
        OptionError: a value is out of range, or acts on nothing because sampling is greedy.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise OptionError(f"temperature is {self.temperature}; mend: 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top-p is {self.top_p}; mend: a share in (0, 1]")
        if self.top_k < 0:
            raise OptionError(f"top-k is {self.top_k}; mend: 0 (keep all) or a positive count")
        if not 0 <= self.min_p < 1:
            raise OptionError(f"min-p is {self.min_p}; mend: a share in [0, 1)")
        if self.temperature == 0 and self.filters:
            raise OptionError("greedy sampling (temperature 0) ignores top-p, top-k and min-p; mend: drop them")

    @property
    def filters(self) -> bool:
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [B, V] float32 of logits / T; at T = 0 those of T = 1, as drawing is by argmax."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature in (0, 1) else logits / temperature, dim=-1)


def keep(probs: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [B, V] with what top-k, then top-p, then min-p drop set to 0; not renormalised.

    The order is that of Soft Thinking (semantics of top-p: the smallest set of most likely words
    whose mass reaches top_p, measured after top-k).
    """
    if sampling.temperature == 0:
        return torch.zeros_like(probs).scatter_(-1, probs.argmax(-1, keepdim=True), 1.0)
    if not sampling.filters:
        return probs
    if sampling.top_k or sampling.top_p < 1:
        k = min(sampling.top_k or probs.shape[-1], probs.shape[-1])
        top, where = probs.topk(k, dim=-1)
        before = top.cumsum(-1) - top
        top = top * (before < sampling.top_p * top.sum(-1, keepdim=True))
        probs = torch.zeros_like(probs).scatter_(-1, where, top)
    return probs * (probs >= sampling.min_p * probs.amax(-1, keepdim=True))


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Ids [B, K] drawn with replacement by inverting the cumulative sum of weights [B, V].

    ``weights`` need not sum to 1; ``uniforms`` [B, K] are in [0, 1). An id of weight 0 is never
    drawn, whatever the rounding: the search stops at the first id that reaches the total. NaN
    weights give some id in range; who calls must look at the probabilities.
    """
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    ids = torch.searchsorted(cumulative, uniforms * total, right=True)
    last = torch.searchsorted(cumulative, total)
    return torch.minimum(ids, last).clamp_(max=weights.shape[-1] - 1)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): a bijection that scatters every bit."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


def trace_key(seed: int, problem_key: int, index: int) -> int:
    """The 64-bit name of a trace's randomness: seed, problem and trace index, nothing of the batch."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    for part in (problem_key, index):
        key = _mix(key * _GOLDEN + np.uint64(part) + _GOLDEN)
    return int(key[0])


def uniforms(keys: np.ndarray, steps: np.ndarray, width: int) -> np.ndarray:
    """Uniforms [B, K] float32 in [0, 1) for traces named by keys [B] uint64 at steps [B] int64.

    Slot j of a step does not depend on the width, so a K = 1 draw is slot 0 of any wider one.
    """
    counters = steps.astype(np.uint64)[:, None] * np.uint64(1 << 16) + np.arange(width, dtype=np.uint64)
    bits = _mix(_mix(keys[:, None] + counters * _GOLDEN) + _GOLDEN)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
