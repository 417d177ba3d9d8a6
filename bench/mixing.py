"""The cost of mixing requests with different options in one batch: four different ones against four equal ones.

    python bench/mixing.py --model FOLDER --name HuggingFaceTB/SmolLM2-135M-Instruct --bf16 --tokens 24 --repeats 3 --out results/mixing.json

Four requests of 16 paths share 64 rows: all of them discrete, or one each of discrete, multiplex K = 3, soft K = 4 and discrete
with top-p. As the widest one sets the cost of a step, each kind is also measured by itself. Whole runs
are timed in turn, several times, and ratios are medians of pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from trueplex.engine.batch import Batch
from trueplex.engine.grow import grow
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.slots import Entry
from trueplex.engine.thinking import Thinking
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.types import Problem, Trace

PATHS, TEXTS = (
    16,
    (
        "How many positive divisors does 196 have?",
        "What is 17 times 23?",
        "Ann has 3 apples and buys 4.",
        "Add 5 and 8.",
    ),
)


def kinds(tokens: int) -> dict[str, Thinking]:
    """Four different thinking modes; no trace ends before its limit."""
    end = Ending(tokens)
    return {
        "discrete": Thinking("discrete", ending=end),
        "multiplex": Thinking("multiplex", 3, ending=end),
        "soft": Thinking("soft", 4, ending=end),
        "top-p": Thinking("discrete", sampling=Sampling(0.8, 0.95), ending=end),
    }


def seconds(backbone: Backbone, chosen: list[Thinking]) -> float:
    """How long four requests take together."""
    batch = Batch(backbone, 4 * PATHS)
    for number, (text, thinking) in enumerate(zip(TEXTS, chosen, strict=True)):
        problem = Problem(text)
        traces = [Trace(problem, index, 0, request=number) for index in range(PATHS)]
        batch.submit(Entry(number, make_prompt(problem, backbone), thinking, traces))
    started = time.perf_counter()
    for _ in grow(batch, 32):
        pass
    return time.perf_counter() - started


def measure(backbone: Backbone, tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds of four equal requests of each kind, and of the four kinds together, in turn."""
    backbone.ends, backbone.markers = frozenset(), None
    asked = kinds(tokens)
    runs = {name: [thinking] * 4 for name, thinking in asked.items()} | {"mixed": list(asked.values())}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):  # the first warms up
        for name, chosen in runs.items():
            spent = seconds(backbone, chosen)
            if repeat:
                found[name].append(spent)
    equal = [statistics.mean(found[name][i] for name in asked) for i in range(repeats)]
    ratios = [mixed / mean for mixed, mean in zip(found["mixed"], equal, strict=True)]
    return {
        "seconds": {name: round(statistics.median(times), 3) for name, times in found.items()},
        "mixed over the mean of four equal ones": {"median": round(statistics.median(ratios), 3), "all": [round(r, 3) for r in ratios]},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--name", help="the model's public name, for the results file")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    backbone = load(options.model, dtype=torch.bfloat16 if options.bf16 else None)
    result = {"model": options.name or options.model, "dtype": str(backbone.dtype).removeprefix("torch."), "rows": 4 * PATHS,
              "tokens": options.tokens, "machine": machine(), **measure(backbone, options.tokens, options.repeats)}  # fmt: skip
    print(result)
    if options.out:
        write_json(options.out, result, indent=1)


if __name__ == "__main__":
    main()
