"""The cost of a thinking mode: tokens a second of each, and the sampling part of a step with a large vocabulary.

    python bench/modes.py --out results/modes-speed.json

One thread; a mode and its rival are timed in turn, several times, and the ratio is the median of the paired
ratios. The rival of sampling is what `model.generate` does between its logits and its ids, at the same options.
Prints two tables and, last, one JSON line. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from speed import engine_rate, paired, write
from trueplex.data.embedded.tasks import problems
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking, think
from trueplex.evals.run import machine
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt

TRACES, TOKENS, VOCABULARY = 64, 128, 150_000
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


def limited(thinking: Thinking) -> Thinking:
    return Thinking(thinking.mode, thinking.width, thinking.merge, thinking.sampling, None, Ending(TOKENS),
                    thinking.replacement, thinking.noise, thinking.strength)  # fmt: skip


def sampled(filters: Sampling) -> list[Thinking]:
    """The modes in which these options act: soft ones merge 10 tokens, and Dirichlet noise needs a top-k."""
    modes = [Thinking("discrete", sampling=filters), Thinking("multiplex", 3, sampling=filters)]
    if not filters.top_k or filters.top_p < 1:
        modes += [Thinking("soft", sampling=filters), Thinking("stochastic-soft", sampling=filters)]
    if filters.top_k:
        modes += [Thinking("stochastic-soft", noise="dirichlet", sampling=filters)]
    return modes


def rate(work: Callable[[], object]) -> float:
    """How often a second."""
    started = time.perf_counter()
    work()
    return 1 / (time.perf_counter() - started)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--repeats", type=int, default=7, help="paired runs of each comparison")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = load("reference", device="cpu")
    one = [make_prompt(problems("reference", "test", 1)[0], backbone)]

    def ours(thinking: Thinking) -> Callable[[], float]:
        return lambda: engine_rate(backbone, one, limited(thinking), True)

    modes = {name: paired(ours(mode), ours(Thinking("discrete")), options.repeats) for name, mode in MODES.items()}
    logits = torch.randn(TRACES, VOCABULARY) * 3
    sampling = {}
    for name, filters in FILTERS.items():
        for mode in sampled(filters):
            draws = torch.rand(TRACES, mode.draws(VOCABULARY))
            with torch.inference_mode():
                sampling[f"{mode.noise_kind or mode.mode}, {name}"] = paired(
                    lambda mode=mode, draws=draws: rate(lambda: think(logits, draws, mode)),
                    lambda filters=filters: rate(lambda: as_generate(logits, filters)),
                    options.repeats,
                )
    console = Console(width=110)
    for title, figures in (("tokens a second, against discrete", modes),
                           (f"sampling steps a second, {TRACES} rows of {VOCABULARY:,} tokens, against generate", sampling)):  # fmt: skip
        table = Table("mode", "rate", "rival", "ratio", "range", title=title)
        for name, f in figures.items():
            table.add_row(
                name,
                f"{f['first']:.3g}",
                f"{f['second']:.3g}",
                f"{f['ratio']:.2f}",
                f"{f['lowest']:.2f}–{f['highest']:.2f}",
            )
        console.print(table)
    write({"machine": machine(), "traces": TRACES, "tokens": TOKENS, "vocabulary": VOCABULARY, "modes / discrete": modes,
           "sampling / generate": sampling}, options.out)  # fmt: skip


if __name__ == "__main__":
    main()
