"""The thinking modes: logits → Step, and a Step → the next input.

One shape for every mode: ids, weights, log-probs, each [B, K]. Slot 0 is the token that is emitted.

- `discrete`: one id, drawn. K = 1.
- `multiplex`: K ids drawn independently, with replacement unless asked otherwise; duplicates stay
  as separate slots; slot 0 is the first draw (Multiplex Thinking, arXiv 2601.08808, section 3).
- `soft`: the K likeliest ids that the filters keep, weighed by their probabilities; nothing is
  drawn; slot 0 is the heaviest (Soft Thinking, arXiv 2505.15778).
- `stochastic-soft`: the same under noise, Gumbel-softmax over the K kept ids or a Dirichlet over all
  that the filters keep, before the K heaviest are taken; slot 0 is the heaviest afterwards.

Each mode is a pure function of (logits, uniforms, options). Log-probs and entropy are those of the
full softmax(logits / T), before any filter or noise, which is what training recomputes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from trueplex.engine import sampling as draws
from trueplex.engine.distribution import Distribution
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import GAMMA_DRAWS, Sampling, draw, keep, ranked
from trueplex.errors import OptionError

MODES = ("discrete", "multiplex", "soft", "stochastic-soft")
AUTO = "auto"  # multiplex where thinking has tags, else discrete: `Thinking.resolved`
MERGES = ("weighted", "mean")
NOISES = ("gumbel", "dirichlet")
DEFAULT_WIDTH = {"discrete": 1, "multiplex": 3, "soft": 10, "stochastic-soft": 10}
CONFIDENCE_TOKENS = 20  # DeepConf looks at the 20 most likely tokens (arXiv 2508.15260)
MOST_DIRICHLET_TOKENS = 1024  # each takes GAMMA_DRAWS uniforms a step


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a trace thinks and answers, and when it ends.

    ``width`` is K: samples of a multiplex step (default 3) or tokens of a soft step (the published
    max_topk, default 10). ``merge`` and ``replacement`` belong to multiplex; ``noise`` and ``strength``
    (tau of ``gumbel``, alpha of ``dirichlet``; default 1) to stochastic-soft.

    Raises:
        OptionError: unknown mode, merge or noise, a value out of range, or an option that has no effect.
    """

    mode: str = "multiplex"
    width: int | None = None
    merge: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    answer_sampling: Sampling | None = None
    ending: Ending = field(default_factory=Ending)
    replacement: bool = True
    noise: str | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        if self.mode == AUTO:
            replace(self, mode="multiplex")  # what is refused there is refused here
            if self.width is not None or self.merge is not None or not self.replacement:
                raise OptionError("width, merge and replacement belong to multiplex thinking, which auto may not choose. Try: "
                                  "--thinking multiplex")  # fmt: skip
            return
        if self.mode not in MODES:
            raise OptionError(f"unknown thinking mode {self.mode!r}. Try: one of {', '.join((*MODES, AUTO))}")
        if self.width is not None and not 1 <= self.width <= 64:
            raise OptionError(f"width is {self.width}. Try: a number of samples a step from 1 to 64")
        if self.mode == "discrete" and self.width not in (None, 1):
            raise OptionError("width has no effect in discrete thinking. Try: drop it or choose another --thinking")
        if self.mode != "multiplex" and (self.merge is not None or not self.replacement):
            raise OptionError("merge and replacement have no effect outside multiplex thinking. Try: drop them or "
                              "--thinking multiplex")  # fmt: skip
        if self.mode != "stochastic-soft" and (self.noise is not None or self.strength is not None):
            raise OptionError("noise and its strength have no effect outside stochastic-soft thinking. Try: drop them or "
                              "--thinking stochastic-soft")  # fmt: skip
        if self.mode == "multiplex" and self.width == 1 and (self.merge is not None or not self.replacement):
            raise OptionError("one sample a step is merged with nothing, so merge and replacement have no effect. Try: drop them "
                              "or raise the width")  # fmt: skip
        if self.merge is not None and self.merge not in MERGES:
            raise OptionError(f"unknown merge {self.merge!r}. Try: one of {', '.join(MERGES)}")
        if self.noise is not None and self.noise not in NOISES:
            raise OptionError(f"unknown noise {self.noise!r}. Try: one of {', '.join(NOISES)}")
        if self.strength is not None and not 0 < self.strength < float("inf"):
            raise OptionError(f"the noise's strength is {self.strength}. Try: a positive number")
        self._refuse_what_greedy_ignores()
        top_k = self.sampling.top_k
        if top_k and self.width and self.mode != "multiplex" and self.width > top_k:
            raise OptionError(f"width {self.width} is more than the {top_k} tokens that top-k keeps. Try: lower the "
                              "width or raise top-k")  # fmt: skip
        ranked_only = self.mode == "soft" or self.noise_kind == "gumbel"
        if ranked_only and self.sampling.top_p == 1 and top_k >= (self.width or DEFAULT_WIDTH[self.mode]):
            raise OptionError(f"top-k {top_k} keeps no fewer tokens than the {self.k} that are merged, so it has no effect. "
                              "Try: drop it, lower it, or give a top-p, which is measured after it")  # fmt: skip
        if top_k and not self.replacement and self.k > top_k:
            raise OptionError(f"{self.k} samples without replacement are more than the {top_k} tokens that top-k keeps. "
                              "Try: lower the width or raise top-k")  # fmt: skip

    def _refuse_what_greedy_ignores(self) -> None:
        if self.sampling.temperature > 0:
            return
        if self.mode in ("soft", "stochastic-soft"):
            raise OptionError(f"temperature 0 leaves one token, and {self.mode} thinking merges several. Try: a positive "
                              "temperature or --thinking discrete")  # fmt: skip
        if self.mode == "multiplex" and ((self.width or 1) > 1 or self.merge or not self.replacement):
            raise OptionError("at temperature 0 all samples of a step are one token, so width, merge and replacement "
                              "have no effect. Try: drop them or raise the temperature")  # fmt: skip

    def fit(self, vocabulary: int) -> None:
        """Raise OptionError when these options cannot act with a vocabulary of this size."""
        if self.k > vocabulary and (self.mode != "multiplex" or not self.replacement):
            raise OptionError(f"width {self.k} is more than the {vocabulary} tokens of the vocabulary. Try: lower it")
        if self.noise_kind == "dirichlet" and self.candidates(vocabulary) > MOST_DIRICHLET_TOKENS:
            raise OptionError(
                f"Dirichlet noise draws for every token that the filters keep, here {self.candidates(vocabulary)}. Try: a "
                f"top-k of at most {MOST_DIRICHLET_TOKENS} (30 in the published runs)"
            )

    def resolved(self, tagged: bool) -> Thinking:
        """These options for a model whose thinking has tags or has none."""
        return replace(self, mode="multiplex" if tagged else "discrete") if self.mode == AUTO else self

    @property
    def k(self) -> int:
        """The number of slots K of every step."""
        width = self.width or DEFAULT_WIDTH[self.mode]
        return min(width, self.sampling.top_k) if self.sampling.top_k and "soft" in self.mode else width

    @property
    def answering(self) -> Sampling:
        return self.answer_sampling or self.sampling

    @property
    def drawing(self) -> Thinking | Sampling:
        """What of it says how a thinking step is drawn; a discrete one is drawn as an answer's is. Rows that differ in the rest share a draw."""
        return self.sampling if self.mode == "discrete" else replace(self, answer_sampling=None, ending=Ending())

    @property
    def merge_kind(self) -> str | None:
        return (self.merge or "weighted") if self.mode == "multiplex" else None

    @property
    def noise_kind(self) -> str | None:
        return (self.noise or "gumbel") if self.mode == "stochastic-soft" else None

    def candidates(self, vocabulary: int) -> int:
        """How many tokens Dirichlet noise acts on."""
        return min(self.sampling.top_k or vocabulary, vocabulary)

    def draws(self, vocabulary: int) -> int:
        """How many uniforms a step takes, for thinking or for the answer."""
        if self.noise_kind == "dirichlet":
            return self.candidates(vocabulary) * GAMMA_DRAWS
        return 1 if self.mode == "soft" else self.k


class Step(NamedTuple):
    """One decode step of B traces: ids [B, K] int64, weights and logps [B, K] float32.

    entropy [B] float32 in nats is that of the distribution drawn from; confidence [B] float32 is
    DeepConf's token confidence, minus the mean log-probability of the model's 20 most likely tokens at T = 1.
    """

    ids: Tensor
    weights: Tensor
    logps: Tensor
    entropy: Tensor
    confidence: Tensor


def think(logits: Tensor, uniforms: Tensor, thinking: Thinking) -> Step:
    """The thinking step of a mode: logits [B, V], uniforms [B, `thinking.draws(V)`]."""
    sampling, k = thinking.sampling, thinking.k
    if thinking.mode in ("discrete", "multiplex"):
        return multiplex(logits, uniforms[:, :k], sampling, thinking.merge or "weighted", thinking.replacement)
    if thinking.mode == "soft":
        return soft(logits, sampling, k)
    noisy = gumbel_soft if thinking.noise_kind == "gumbel" else dirichlet_soft
    return noisy(logits, uniforms, sampling, k, thinking.strength or 1.0)


def multiplex(logits: Tensor, uniforms: Tensor, sampling: Sampling, merge: str = "weighted",
              replacement: bool = True) -> Step:  # fmt: skip
    """Draw K ids a row; uniforms [B, K]. K = 1 is discrete.

    ``weighted``: w_j = p(k_j) / Σ p(k) over the K draws, p from the unfiltered softmax; ``mean``: 1 / K.
    """
    tokens = Distribution(logits, sampling.temperature)
    real = None
    if replacement and sampling.temperature and not sampling.filters:
        ids = tokens.draw(uniforms)
    else:
        kept, places = keep(tokens, sampling)
        if replacement:
            chosen = draw(kept, uniforms)
        else:
            chosen, real = draws.draw_without_replacement(kept, uniforms)
        ids = chosen if places is None else places.gather(-1, chosen)
    weights = torch.ones_like(uniforms) if merge == "mean" else tokens.logps(ids).exp()
    if real is not None:
        weights = weights * real
    return _step(tokens, ids, weights / weights.sum(-1, keepdim=True))


def soft(logits: Tensor, sampling: Sampling, width: int) -> Step:
    """The `width` likeliest kept ids, weighed by their renormalised probabilities; nothing is drawn."""
    tokens = Distribution(logits, sampling.temperature)
    top, ids = ranked(tokens, sampling, width)
    return _step(tokens, ids, top / top.sum(-1, keepdim=True))


def gumbel_soft(logits: Tensor, uniforms: Tensor, sampling: Sampling, width: int, tau: float) -> Step:
    """Soft weights under Gumbel-softmax: softmax((log p + g) / tau) over the kept ids; uniforms [B, ≥ width]."""
    tokens = Distribution(logits, sampling.temperature)
    top, ids = ranked(tokens, sampling, width)
    top = top / top.sum(-1, keepdim=True)
    noisy = torch.softmax((top.log() + draws.gumbel(uniforms[:, : top.shape[-1]])) / tau, dim=-1)
    weights, order = noisy.sort(dim=-1, descending=True)
    return _step(tokens, ids.gather(-1, order), weights)


def dirichlet_soft(logits: Tensor, uniforms: Tensor, sampling: Sampling, width: int, alpha: float) -> Step:
    """Soft weights drawn from Dirichlet(alpha · p) over the kept ids; the `width` heaviest, renormalised.

    uniforms [B, C · GAMMA_DRAWS] for the C ids that top-k keeps.
    """
    tokens = Distribution(logits, sampling.temperature)
    top, ids = ranked(tokens, sampling, tokens.vocabulary)
    shares = top / top.sum(-1, keepdim=True)
    shape = (alpha * shares).clamp(min=1e-30)
    logs = draws.log_gamma(shape, uniforms[:, : top.shape[-1] * GAMMA_DRAWS].unflatten(-1, (-1, GAMMA_DRAWS)))
    heavy, order = logs.masked_fill(shares == 0, float("-inf")).topk(width, dim=-1)
    return _step(tokens, ids.gather(-1, order), torch.softmax(heavy, dim=-1))


def _step(tokens: Distribution, ids: Tensor, weights: Tensor) -> Step:
    """The step with all that it remembers."""
    return Step(ids, weights, tokens.logps(ids), tokens.entropy, tokens.confidence(CONFIDENCE_TOKENS))


def widened(step: Step, width: int) -> Step:
    """The step with `width` slots: those that it lacks repeat slot 0 with weight 0."""
    missing = width - step.ids.shape[1]
    if not missing:
        return step
    ids, logps = (torch.cat([t, t[:, :1].expand(-1, missing)], 1) for t in (step.ids, step.logps))
    weights = torch.nn.functional.pad(step.weights, (0, missing))
    return Step(ids, weights, logps, step.entropy, step.confidence)


def one_hot(step: Step) -> Step:
    """The step made discrete: slot 0 in every slot, with weights 1, 0, 0 …"""
    weights = torch.zeros_like(step.weights)
    weights[:, 0] = 1.0
    first = [t[:, :1].expand_as(t).contiguous() for t in (step.ids, step.logps)]
    return Step(first[0], weights, first[1], step.entropy, step.confidence)


def retold(step: Step, logits: Tensor, sampling: Sampling) -> Step:
    """The same draws with the log-probabilities, entropy and confidence of other logits [B, V]."""
    return _step(Distribution(logits, sampling.temperature), step.ids, step.weights)


def choose(step: Step, other: Step, rows: Tensor) -> Step:
    """`step` with its rows [n] int64 replaced by the n rows of `other`."""
    return Step(*(a.index_copy(0, rows, b.to(a.dtype)) for a, b in zip(step, other, strict=True)))


def merged(embeddings: Tensor, weights: Tensor) -> Tensor:
    """Σ w E over the slots: embeddings [..., K, H], weights [..., K] → [..., H] in the embeddings' dtype.

    Summed in float32; a one-hot weight gives the plain embedding bit for bit.
    """
    return (embeddings.float() * weights.unsqueeze(-1)).sum(-2).to(embeddings.dtype)
