"""The thinking modes: logits → Step, and a Step → the next input.

One shape for every mode: ids, weights, log-probs, each [B, K]. Discrete is K = 1. A *multiplex*
step draws K ids independently, with replacement, and merges their embeddings (Multiplex Thinking,
arXiv 2601.08808, section 3); duplicates stay as separate slots. Slot 0, the first draw, is the
token that is emitted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from trueplex.engine.sampling import Sampling, draw, keep, log_softmax
from trueplex.errors import OptionError

MODES = ("discrete", "multiplex")
MERGES = ("weighted", "mean")


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a trace thinks and answers, up to which length.

    ``width`` and ``merge`` default to 3 and ``weighted`` for multiplex, and belong to it alone.
    ``max_tokens`` bounds thinking and answer together.

    Raises:
        OptionError: unknown mode or merge, width below 1, or an option that could not act.
    """

    mode: str = "multiplex"
    width: int | None = None
    merge: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    answer_sampling: Sampling | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise OptionError(f"unknown thinking mode {self.mode!r}; mend: one of {', '.join(MODES)}")
        if self.mode == "discrete" and (self.width not in (None, 1) or self.merge is not None):
            raise OptionError("width and merge act only in multiplex thinking; mend: drop them or --thinking multiplex")
        if self.width is not None and not 1 <= self.width <= 64:
            raise OptionError(f"width is {self.width}; mend: a number of samples a step from 1 to 64")
        if self.merge is not None and self.merge not in MERGES:
            raise OptionError(f"unknown merge {self.merge!r}; mend: one of {', '.join(MERGES)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise OptionError(f"max-tokens is {self.max_tokens}; mend: at least 1")

    @property
    def k(self) -> int:
        """The number of slots K of every step."""
        return 1 if self.mode == "discrete" else self.width or 3

    @property
    def answering(self) -> Sampling:
        return self.answer_sampling or self.sampling


class Step(NamedTuple):
    """One decode step of B traces: ids [B, K] int64, weights and logps [B, K], entropy [B], float32."""

    ids: Tensor
    weights: Tensor
    logps: Tensor
    entropy: Tensor


def think(logits: Tensor, uniforms: Tensor, sampling: Sampling, merge: str | None) -> Step:
    """Draw K ids a row and weigh them; logits [B, V], uniforms [B, K].

    ``weighted``: w_j = p(k_j) / Σ p(k); ``mean``: 1 / K. Log-probs and entropy are those of the
    full softmax(logits / T), before any filter, which is what training recomputes.
    """
    logps = log_softmax(logits, sampling.temperature)
    probs = logps.exp()
    entropy = torch.special.entr(probs).sum(-1)
    ids = draw(keep(probs, sampling), uniforms)
    if merge == "mean" or ids.shape[-1] == 1:
        weights = torch.full_like(uniforms, 1.0 / ids.shape[-1])
    else:
        weights = probs.gather(-1, ids)
        weights = weights / weights.sum(-1, keepdim=True)
    return Step(ids, weights, logps.gather(-1, ids), entropy)


def one_hot(step: Step, rows: Tensor) -> Step:
    """The step with the given rows [B] bool made discrete: slot 0 in every slot, with weight 1, 0, 0 …"""
    if step.ids.shape[-1] == 1:
        return step
    rows = rows[:, None]
    first = torch.zeros_like(step.weights)
    first[:, 0] = 1.0
    return Step(
        torch.where(rows, step.ids[:, :1], step.ids),
        torch.where(rows, first, step.weights),
        torch.where(rows, step.logps[:, :1], step.logps),
        step.entropy,
    )


def choose(step: Step, other: Step, rows: Tensor) -> Step:
    """`other` in the given rows [B] bool, `step` elsewhere."""
    wide = rows[:, None]
    return Step(
        *(torch.where(wide if a.dim() == 2 else rows, b, a) for a, b in zip(step, other, strict=True)),
    )


def merged(embeddings: Tensor, weights: Tensor) -> Tensor:
    """Σ w E over the slots: embeddings [..., K, H], weights [..., K] → [..., H] in the embeddings' dtype.

    Summed in float32; a one-hot weight gives the plain embedding bit for bit.
    """
    return (embeddings.float() * weights.unsqueeze(-1)).sum(-2).to(embeddings.dtype)
