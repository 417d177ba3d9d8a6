"""Logits and uniforms → token ids. Randomness is an argument; nothing here draws a number.

Shapes: B rows, V tokens, K draws. All arithmetic is float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trueplex.engine.distribution import Distribution
from trueplex.errors import OptionError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one phase samples. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 keep all.

    Raises:
        OptionError: a value is out of range, or has no effect because sampling is greedy.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise OptionError(f"temperature is {self.temperature}. Try: 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"top-p is {self.top_p}. Try: a share in (0, 1]")
        if self.top_k < 0:
            raise OptionError(f"top-k is {self.top_k}. Try: 0 (keep all) or a positive count")
        if not 0 <= self.min_p < 1:
            raise OptionError(f"min-p is {self.min_p}. Try: a share in [0, 1)")
        if self.temperature == 0 and self.filters:
            raise OptionError("greedy sampling (temperature 0) ignores top-p, top-k and min-p. Try: drop them (of the answer: "
                              "--answer-top-p 1, --answer-top-k 0, --answer-min-p 0)")  # fmt: skip

    @property
    def filters(self) -> bool:
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [B, V] float32 of logits / T; at T = 0 those of T = 1, as drawing is by argmax."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature in (0, 1) else logits / temperature, dim=-1)


SORTED_AT_ONCE = (256, 4096)  # tokens ranked before all are: enough for nearly every top-p set of a large vocabulary


def ranked(tokens: Distribution, sampling: Sampling, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most likely tokens that the filters keep: probabilities [B, C], falling, and ids [B, C].

    Filters act in the published order of Soft Thinking: top-k; then top-p, the smallest set of the
    most likely tokens whose mass reaches top_p of what top-k kept; then min-p, relative to the
    likeliest. What they drop has probability 0; nothing is renormalised. C = min(count, top-k, V).
    """
    k = min(sampling.top_k or tokens.vocabulary, tokens.vocabulary)
    count = min(count, k)
    ids = tokens.top(k if sampling.top_k and sampling.top_p < 1 else count)
    top = tokens.logps(ids).exp()
    mass = top.sum(-1, keepdim=True) if sampling.top_k else torch.ones_like(top[..., :1])
    return filtered(top, sampling, mass)[..., :count], ids[..., :count]


def filtered(top: Tensor, sampling: Sampling, mass: Tensor) -> Tensor:
    """Falling probabilities [B, C] of all that top-k keeps, whose mass [B, 1] is, with 0 for what top-p and min-p drop."""
    if sampling.top_p < 1:
        top = top * (top.cumsum(-1) - top < sampling.top_p * mass)
    if sampling.min_p:
        top = top * (top >= sampling.min_p * top[..., :1])
    return top


def keep(tokens: Distribution, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """What may be drawn: weights [B, C], not renormalised, and ids [B, C].

    Ids are None when the weights still stand at their tokens. At temperature 0 that is the most likely token.
    """
    if sampling.temperature == 0:
        ids = tokens.argmax()
        return tokens.logps(ids).exp(), ids
    if sampling.top_k:
        return ranked(tokens, sampling, sampling.top_k)
    if sampling.top_p < 1:
        # A large vocabulary is sorted whole only where its most likely tokens do not reach the mass.
        for count in SORTED_AT_ONCE:
            if count < tokens.vocabulary:
                top, ids = ranked(tokens, sampling, count)
                if bool((top[..., -1] == 0).all()):
                    return top, ids
        return ranked(tokens, sampling, tokens.vocabulary)
    probs = tokens.all_logps().exp()
    if sampling.min_p:
        return probs * (probs >= sampling.min_p * probs.amax(-1, keepdim=True)), None
    return probs, None


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


def draw_without_replacement(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [B, K] drawn one after the other, each from what the ones before left, and whether each was.

    Where fewer than K tokens have weight, the slots left over repeat slot 0 and are marked as not drawn.
    Slot 0 is what `draw` gives for the same uniform.
    """
    left, ids, drawn = weights, [], []
    for slot in range(uniforms.shape[-1]):
        ids.append(draw(left, uniforms[:, slot : slot + 1]))
        drawn.append(left.sum(-1, keepdim=True) > 0)
        left = left.scatter(-1, ids[-1], 0.0)
    drawn[0] = torch.ones_like(drawn[0])
    chosen, real = torch.cat(ids, -1), torch.cat(drawn, -1)
    return torch.where(real, chosen, chosen[:, :1]), real


# -- noise ----------------------------------------------------------------------------------------

TINY = 2.0**-25  # half the resolution of a uniform: keeps logarithms finite
GAMMA_TRIES = 4  # each is accepted with more than 95 %: all four miss, and the first stands, in 6 of a million
GAMMA_DRAWS = 1 + 2 * GAMMA_TRIES  # uniforms that one gamma variable takes


def gumbel(uniforms: Tensor) -> Tensor:
    """Standard Gumbel variables of the uniforms' shape."""
    return -torch.log(-torch.log(uniforms.clamp(min=TINY)))


def log_gamma(shape: Tensor, uniforms: Tensor) -> Tensor:
    """Logarithms of Gamma(shape, 1) variables; shape [...] > 0, uniforms [..., GAMMA_DRAWS] → [...].

    Marsaglia and Tsang (2000) for shape + 1, with a fixed number of tries in place of a loop, then
    their boost: Gamma(a) = Gamma(a + 1) · U^(1/a), in logarithms because small shapes underflow.
    """
    # The inverse error function, as twice a uniform less one is exact in float32; PyTorch's ndtri is not vectorised.
    normal = math.sqrt(2) * torch.erfinv(2 * uniforms[..., 1 : 1 + GAMMA_TRIES].clamp(min=TINY) - 1)
    accept = torch.log(uniforms[..., 1 + GAMMA_TRIES :].clamp(min=TINY))
    d = (shape + 2 / 3).unsqueeze(-1)
    v = (1 + normal / torch.sqrt(9 * d)) ** 3
    logs = torch.log(v.clamp(min=1e-30))
    accepted = (v > 0) & (accept < 0.5 * normal**2 + d * (1 - v + logs))
    first = accepted.float().argmax(-1, keepdim=True)  # the first try when none was accepted
    value = torch.log(d.squeeze(-1)) + logs.gather(-1, first).squeeze(-1)
    return value + torch.log(uniforms[..., 0].clamp(min=TINY)) / shape
