"""Many `solve` calls in many threads: memory must stay flat, and every answer must be the one that a call alone gives.

    python bench/soak.py --calls 2000 --threads 8 --out results/soak.json

Calls go through a list of problems and seeds again and again; what each of them gives is measured first, alone. Memory
is the resident set of the process, and the highest after the first `SETTLED` calls is held against that at those. Time is
that of the processor, so that other work on the machine does not count, and the last quarter is held against the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch

import trueplex
from trueplex.evals.run import machine
from trueplex.files import write_json

SETTLED, ALLOWED = 100, 0.05
SLOWER = 1.5  # times the processor's seconds of the first quarter
PROBLEM = "Ann has {a} apples. Ann buys {b} more. How many apples are there now?"
WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"thinking": "discrete"},
    {"prune": "half:8"},
    {"verifier": "entropy"},
    {"verifier": "none"},
)


def asked(number: int, variety: int) -> tuple[str, dict[str, Any]]:
    """The problem and the options of a call."""
    number %= variety
    return PROBLEM.format(a=2 + number % 7, b=3 + number % 5), {
        "paths": 2,
        "max_tokens": 16,
        "seed": number,
        **WAYS[number % len(WAYS)],
    }


def told(solution: Any) -> str:
    """All that a solution says of its traces."""
    return json.dumps([solution.answer, [t.text for t in solution.traces], [t.scores for t in solution.traces]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--variety", type=int, default=20, help="different calls")
    parser.add_argument("--models", type=int, default=1, help="models; each thread keeps to one of them")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("trueplex").setLevel(logging.ERROR)
    models = [trueplex.load("reference", device="cpu") for _ in range(options.models)]
    alone = [told(trueplex.solve(models[0], text, **more)) for text, more in (asked(n, options.variety) for n in range(options.variety))]  # fmt: skip
    process, lock = psutil.Process(), threading.Lock()
    memory: list[int] = []
    spent: list[float] = [time.process_time()]
    errors: Counter[str] = Counter()
    differing = 0

    own = threading.local()
    numbers = itertools.count()

    def call(number: int) -> None:
        nonlocal differing
        if not hasattr(own, "model"):
            own.model = models[next(numbers) % len(models)]
        text, more = asked(number, options.variety)
        try:
            found = told(trueplex.solve(own.model, text, **more))
            wrong = found != alone[number % options.variety]
        except Exception as error:
            wrong, found = False, ""
            errors[f"{type(error).__name__}: {error}"[:200]] += 1
        with lock:
            differing += wrong
            spent.append(time.process_time())
            memory.append(process.memory_info().rss)

    with ThreadPoolExecutor(options.threads) as pool:
        list(pool.map(call, range(options.calls)))
    settled, highest = memory[min(SETTLED, len(memory)) - 1], max(memory[SETTLED:], default=memory[-1])
    ends = [spent[options.calls * part // 4] for part in range(5)]
    quarters = [(b - a) * 4 / options.calls for a, b in itertools.pairwise(ends)]
    result = {
        "calls": options.calls, "threads": options.threads, "models": options.models, "machine": machine(),
        "MB at call 100": round(settled / 1e6, 1), "MB at most after": round(highest / 1e6, 1), "MB at the end": round(memory[-1] / 1e6, 1),
        "growth": round(highest / settled - 1, 4), "allowed": ALLOWED, "differing": differing, "errors": dict(errors),
        "processor seconds a call, by quarter": [round(one, 4) for one in quarters],
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if options.out:
        write_json(options.out, result, indent=1)
    sys.exit(bool(errors or differing or highest > settled * (1 + ALLOWED) or quarters[-1] > SLOWER * quarters[0]))


if __name__ == "__main__":
    main()
