"""What sampling costs: against `model.generate`'s, as a share of a step, and by thinking mode."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking, think
from trueplex.evals.speed import rivals
from trueplex.evals.speed.bench import Bench, whole
from trueplex.evals.speed.pairs import Rate, alternate, paired, ratio
from trueplex.evals.speed.roofline import timed

MODES = {
    "multiplex K=2": Thinking("multiplex", 2),
    "multiplex K=3": Thinking("multiplex", 3),
    "multiplex K=6": Thinking("multiplex", 6),
    "multiplex K=3, mean": Thinking("multiplex", 3, "mean"),
    "multiplex K=3, without replacement": Thinking("multiplex", 3, replacement=False),
    "soft": Thinking("soft"),
    "stochastic-soft, Gumbel": Thinking("stochastic-soft"),
    "stochastic-soft, Dirichlet": Thinking("stochastic-soft", noise="dirichlet", sampling=Sampling(top_k=30)),
}
FILTERS = {
    "none": Sampling(),
    "T 0.6": Sampling(0.6),
    "top-k 30": Sampling(top_k=30),
    "top-p 0.95": Sampling(top_p=0.95),
    "T 0.6, top-k 30, top-p 0.95, min-p 0.001": Sampling(0.6, 0.95, 30, 0.001),
}


def sample(bench: Bench) -> dict[str, Any]:
    """Sampling steps a second against what `model.generate` does between its logits and its ids, at the same options."""
    device, rows = bench.backbone.device, max(bench.rows)
    generator = torch.Generator().manual_seed(bench.seed)
    logits = (
        random_logits(rows, bench.vocabulary, generator).to(device) if bench.vocabulary else own_logits(bench, rows)
    )
    vocabulary, found = logits.shape[-1], {}
    with torch.inference_mode():
        for name, filters in FILTERS.items():
            for mode in _sampled(filters):
                draws = torch.rand(rows, mode.draws(vocabulary), generator=generator).to(device)
                found[f"{mode.noise_kind or mode.mode}, {name}"] = paired(
                    lambda mode=mode, draws=draws: 1 / timed(lambda: think(logits, draws, mode), device),  # type: ignore[misc]
                    lambda filters=filters: 1 / timed(lambda: as_generate(logits, filters), device),  # type: ignore[misc]
                    bench.repeats,
                )
    own = found["multiplex, none"]["first"] * vocabulary / bench.backbone.config.vocab_size
    run = min((whole(bench, "multiplex", rows) for _ in range(2)), key=lambda r: r.decoding)
    return {"vocabulary": vocabulary, "sampling / generate": found, "sampling's share of a step": round(1 / own / (run.decoding / bench.tokens), 3)}  # fmt: skip


def random_logits(rows: int, vocabulary: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, vocabulary] float32, flatter than a model's: filters keep far more tokens than they would of a model."""
    return torch.randn(rows, vocabulary, generator=generator) * 3


def own_logits(bench: Bench, rows: int) -> torch.Tensor:
    """[rows, V] in the model's dtype: what it says at the last places of the prompts, one behind the other."""
    ids = [i for prompt in bench.prompts for i in prompt.ids]
    text = torch.tensor([ids * (rows // len(ids) + 1)], device=bench.backbone.device)
    with rivals.untouched(bench.backbone) as model, torch.inference_mode():
        return model(text, use_cache=False, logits_to_keep=rows).logits[0]


def _sampled(filters: Sampling) -> list[Thinking]:
    """The modes in which these options act: soft ones merge 10 tokens, and Dirichlet noise wants a top-k."""
    modes = [Thinking("discrete", sampling=filters), Thinking("multiplex", 3, sampling=filters)]
    if not filters.top_k or filters.top_p < 1:
        modes += [Thinking("soft", sampling=filters), Thinking("stochastic-soft", sampling=filters)]
    if filters.top_k:
        modes += [Thinking("stochastic-soft", noise="dirichlet", sampling=filters)]
    return modes


def as_generate(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Ids as `model.generate` samples them: a float copy, its warpers, softmax, multinomial."""
    warpers = LogitsProcessorList()
    if sampling.temperature != 1:
        warpers.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(MinPLogitsWarper(sampling.min_p))
    scores = warpers(None, logits.to(copy=True, dtype=torch.float32))
    return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)


def modes(bench: Bench) -> dict[str, Any]:
    """Tokens a second of every thinking mode, against discrete."""
    rows = max(bench.rows)

    def rate(thinking: Thinking) -> Rate:
        options = {name: getattr(thinking, name) for name in ("width", "merge", "replacement", "noise", "sampling")}
        return lambda: whole(bench, thinking.mode, rows, **options).rate

    found = alternate(
        {"discrete": rate(Thinking("discrete")), **{n: rate(m) for n, m in MODES.items()}}, {}, bench.repeats
    )
    return {"modes / discrete": {name: ratio(found[name], found["discrete"]) for name in MODES}}
