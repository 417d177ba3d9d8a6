"""Randomness belongs to (seed, problem, trace index, step), never to the batch or the clock.

A counter-based generator: whoever knows a trace's key and step has its uniforms, in any batch and any order.
"""

from __future__ import annotations

import numpy as np

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
