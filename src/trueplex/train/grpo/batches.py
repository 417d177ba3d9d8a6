"""Rollouts as tensors: micro-batches by tokens, and the padded arrays that training reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.thinking import Thinking
from trueplex.types import Trace

CLOSED_FOR_IT = ("thinking budget", "cold stop")  # then `</think>` was written, not drawn


@dataclass(slots=True, eq=False)
class Rollout:
    """A trace with what training adds to it.

    ``old`` and ``reference`` are log-probabilities [T, K]: of the policy that the step began with, where it
    has moved since, and of the model that training began with, where it is asked for.
    """

    trace: Trace
    prompt: tuple[int, ...]
    number: int  # of its problem within the step
    reward: float
    advantage: float = 0.0
    old: Tensor | None = None
    reference: Tensor | None = None

    def __len__(self) -> int:
        """Columns of the training forward: the last step is predicted, never read."""
        return len(self.prompt) + self.trace.tokens - 1


def micro_batches(rollouts: Sequence[Rollout], tokens: int) -> list[list[Rollout]]:
    """Rollouts of like length together, at most `tokens` padded columns a batch, or one rollout."""
    batches: list[list[Rollout]] = []
    for rollout in sorted(rollouts, key=len, reverse=True):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0]) <= tokens:
            batches[-1].append(rollout)
        else:
            batches.append([rollout])
    return batches


@dataclass(slots=True)
class Batch:
    """Padded tensors of B rollouts; N columns are read, the last M of them predict.

    ids, weights [B, N, K]: what is read (a prompt's token is one slot of weight 1). targets [B, M, K]: the ids that
    were drawn; drawn [B, M, K]: which slots were, so what padding, a slot repeated after a one-hot step, and a
    written `</think>` hold does not count. temperatures [B, M]. starts [B]: the column, of M, of each first step.
    """

    rollouts: list[Rollout]
    starts: list[int]
    ids: Tensor
    weights: Tensor
    targets: Tensor
    drawn: Tensor
    temperatures: Tensor

    def scatter(self, values: Sequence[Tensor]) -> Tensor:
        """Per-rollout values [T, K] as [B, M, K], zeros elsewhere."""
        out = torch.zeros(self.targets.shape, device=self.targets.device)
        for row, (start, value) in enumerate(zip(self.starts, values, strict=True)):
            out[row, start : start + len(value)] = value
        return out

    def gather(self, values: Tensor) -> list[Tensor]:
        """Values [B, M, K] as one [T, K] per rollout."""
        return [values[row, start : start + r.trace.tokens].clone()
                for row, (start, r) in enumerate(zip(self.starts, self.rollouts, strict=True))]  # fmt: skip


def collate(rollouts: Sequence[Rollout], thinking: Thinking, device: torch.device) -> Batch:
    """Pad rollouts behind their last column, where causal attention cannot see."""
    k, longest = thinking.k, max(map(len, rollouts))
    first = min(len(r.prompt) for r in rollouts) - 1  # the first column that predicts a step
    ids = np.zeros((len(rollouts), longest, k), dtype=np.int64)
    weights = np.zeros((len(rollouts), longest, k), dtype=np.float32)
    targets = np.zeros((len(rollouts), longest - first, k), dtype=np.int64)
    drawn = np.zeros(targets.shape, dtype=bool)
    temperatures = np.ones(targets.shape[:2], dtype=np.float32)
    weights[..., 0] = 1.0
    starts = []
    for row, rollout in enumerate(rollouts):
        trace, steps, begin = rollout.trace, rollout.trace.steps, len(rollout.prompt)
        assert steps is not None
        ids[row, :begin] = np.array(rollout.prompt)[:, None]
        ids[row, begin : len(rollout)], weights[row, begin : len(rollout)] = steps.ids[:-1], steps.weights[:-1]
        start = begin - 1 - first
        span = slice(start, start + trace.tokens)
        targets[row, span], drawn[row, span] = steps.ids, steps.weights > 0
        if trace.closing in CLOSED_FOR_IT:
            drawn[row, start + trace.thinking_tokens - 1] = False
        temperatures[row, span] = thinking.sampling.temperature
        temperatures[row, start + trace.thinking_tokens : span.stop] = thinking.answering.temperature
        starts.append(start)
    arrays = (torch.from_numpy(a).to(device) for a in (ids, weights, targets, drawn, temperatures))
    return Batch(list(rollouts), starts, *arrays)
