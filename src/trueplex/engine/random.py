"""Randomness belongs to (seed, problem, trace index, step), never to the batch or the clock.

A counter-based generator: whoever knows a trace's key and step has its uniforms, in any batch and any order.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

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


def uniforms_on(keys: Tensor, steps: Tensor, width: int) -> Tensor:
    """`uniforms`, bit for bit, where the tensors are: keys [B] int64 (the same 64 bits), steps [B] int64 → [B, K] float32.

    A step's randomness is made on the device from what stays there; nothing is carried to it.
    """
    counters = steps[:, None] * (1 << 16) + torch.arange(width, device=steps.device)
    bits = _mixed(_mixed(keys[:, None] + counters * _signed(_GOLDEN)) + _signed(_GOLDEN))
    return _shifted(bits, 40).float() * 2.0**-24


def _mixed(x: Tensor) -> Tensor:
    """`_mix` of int64, whose products wrap around as those of uint64 do."""
    x = (x ^ _shifted(x, 30)) * _signed(_MIX1)
    x = (x ^ _shifted(x, 27)) * _signed(_MIX2)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted to the right, with zeros from the left, which int64 alone would not do."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: np.uint64) -> int:
    return int(constant.astype(np.int64))
