"""GRPO for steps of K samples: pure functions of log-probabilities, rewards and masks.

A multiplex step is K honest draws, so its log-probability is the sum of theirs; every slot has a ratio and a clip of
its own, the slots of a step are summed, and all share the trace's advantage (Multiplex Thinking, arXiv 2601.08808,
section 3). With K = 1 this is GRPO as everyone knows it (DeepSeekMath, arXiv 2402.03300).

Shapes: B traces, M columns that hold their steps, K slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trueplex.errors import OptionError

NORMS = ("std", "none")
AGGREGATIONS = ("token", "trace", "constant")
STD_FLOOR = 1e-6  # as published
FARTHEST = 20.0  # a difference of log-probabilities beyond this is a ratio of e^20 anyway


def advantages(rewards: np.ndarray, norm: str = "std") -> np.ndarray:
    """Advantages [groups, G] of rewards [groups, G]: less the group's mean and, with ``std``, over its deviation.

    ``none`` leaves the deviation out (Dr. GRPO, arXiv 2503.20783). The deviation is the unbiased one. A NaN reward,
    which nobody could give, takes no part: its advantage is 0. A group of equal rewards has exactly 0 everywhere.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    known = np.isfinite(rewards)
    count = known.sum(1, keepdims=True)
    filled = np.where(known, rewards, 0.0)
    mean = filled.sum(1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(known, rewards - mean, 0.0)
    lowest, highest = np.where(known, rewards, np.inf).min(1), np.where(known, rewards, -np.inf).max(1)
    centred[~(highest > lowest)] = 0.0  # rounding of the mean must not be divided by a floor
    if norm == "none":
        return centred
    deviation = np.sqrt((centred**2).sum(1, keepdims=True) / np.maximum(count - 1, 1))
    return centred / (deviation + STD_FLOOR)


@dataclass(frozen=True, slots=True)
class Clip:
    """Where a ratio stops mattering: below 1 − low and above 1 + high, and above `dual` when the advantage is negative.

    ``high`` above ``low`` is DAPO's asymmetric clip (arXiv 2503.14476); ``dual`` None turns the dual clip off.

    Raises:
        OptionError: a value is out of range.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.low < 1 or not 0 < self.high < float("inf"):
            raise OptionError(f"the clip is {self.low} and {self.high}. Try: a share in (0, 1), and a positive number")
        if self.dual is not None and not 1 + self.high < self.dual < float("inf"):
            raise OptionError(
                f"the dual clip {self.dual} is not above 1 + {self.high}. Try: raise it, or turn it off by 0"
            )


class Surrogate(NamedTuple):
    """The loss of every slot, [B, M, K], and where a clip held it (which is where it has no gradient)."""

    loss: Tensor
    clipped: Tensor


def surrogate(new: Tensor, old: Tensor, advantage: Tensor, clip: Clip) -> Surrogate:
    """PPO's clipped loss of each slot; new and old [B, M, K] log-probabilities, advantage [B]."""
    gain = advantage[:, None, None]
    ratio = (new - old).clamp(-FARTHEST, FARTHEST).exp()
    plain, bounded = ratio * gain, ratio.clamp(1 - clip.low, 1 + clip.high) * gain
    objective = torch.minimum(plain, bounded)
    clipped = bounded < plain
    if clip.dual is not None:
        floor = clip.dual * gain
        held = (gain < 0) & (objective < floor)
        objective, clipped = torch.where(held, floor, objective), clipped | held
    return Surrogate(-objective, clipped)


def kl(new: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(new ‖ reference) of each slot: never negative, unbiased under `new`."""
    difference = (reference - new).clamp(-FARTHEST, FARTHEST)
    return difference.exp() - difference - 1


def kl_penalty(new: Tensor, old: Tensor, reference: Tensor) -> Tensor:
    """`kl` of each slot times its ratio, as it was drawn by `old`: its gradient is that of the divergence.

    Without the ratio the gradient is another divergence's (DeepSeek-V3.2, arXiv 2512.02556; TRL's default too).
    """
    return kl(new, reference) * (new - old).clamp(-FARTHEST, FARTHEST).exp()


@dataclass(frozen=True, slots=True)
class Totals:
    """What a whole update counts, over all processes: traces, their steps, and the most steps that one may have."""

    traces: int
    steps: int
    most: int


def step_weights(lengths: Sequence[int], kind: str, totals: Totals) -> Tensor:
    """How much one step of each trace counts in the loss, [B] float32.

    ``token``: every step alike (the paper's token-mean; steps are counted, not slots). ``trace``: every trace alike.
    ``constant``: divided by the most steps there may be, so that a trace's length cannot weaken its steps (Dr. GRPO).
    """
    if kind == "token":
        each = [1 / totals.steps] * len(lengths)
    elif kind == "trace":
        each = [1 / (length * totals.traces) for length in lengths]
    else:
        each = [1 / (totals.most * totals.traces)] * len(lengths)
    return torch.tensor(each, dtype=torch.float32)


def policy_loss(slot_loss: Tensor, drawn: Tensor, weights: Tensor) -> Tensor:
    """Sum over slots, then the weighted sum over steps: slot_loss and drawn [B, M, K], weights [B]."""
    return (slot_loss.masked_fill(~drawn, 0.0).sum((1, 2)) * weights).sum()
