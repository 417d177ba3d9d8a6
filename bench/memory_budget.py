"""More paths than the memory for KV holds: a run under a budget, against one of as many rows as fit it at their full length.

    python bench/memory_budget.py --model ./my-model.gguf --memory 2 --out results/real-memory/my-model.json

Both decode the same traces, none of which ends before its limit, and must draw the same. `make memory-budget MODEL=…` is this.
A run that ended is kept in ``--runs``, so the command goes on after an interruption with the other one.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cells
from trueplex.engine.batch import Batch
from trueplex.engine.grow import grow
from trueplex.engine.memory import PROBES, gib
from trueplex.engine.slots import Entry
from trueplex.evals.run import machine
from trueplex.evals.speed.bench import Bench, endless
from trueplex.files import write_json
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import rounded
from trueplex.models.load import load
from trueplex.types import Trace


def fitting(backbone: Backbone, prompt: int, tokens: int, budget: int) -> int:
    """How many rows of full length a budget holds behind a prompt that is stored once, with a layer of a lane twice."""
    each, once = backbone.row_bytes(rounded(tokens + PROBES)), backbone.row_bytes(rounded(prompt))
    return int((budget - 2 * once) / (each * (1 + 1 / backbone.sizes.parts)))


def decode(bench: Bench, paths: int, rows: int, memory: int | None) -> dict[str, Any]:
    """What a run took and drew; a line of progress a stride."""
    began, tokens, suspended, ids = time.perf_counter(), 0, 0, dict[int, list[int]]()
    with endless(bench.backbone):
        batch = Batch(bench.backbone, rows, memory)
        prompt, traces = (
            bench.prompts[0],
            [Trace(bench.prompts[0].problem, index, bench.seed) for index in range(paths)],
        )
        batch.submit(Entry(0, prompt, bench.thinking("discrete"), traces, together=False))
        waiting = frozenset[int]()
        for stopped in grow(batch):
            for trace in stopped:
                tokens, ids[trace.index] = tokens + trace.tokens, trace.steps.ids[:, 0].tolist()
            now = frozenset(trace.index for trace in batch.suspended)
            suspended, waiting = suspended + len(now - waiting), now
            print(f"{time.perf_counter() - began:7.0f} s: {len(batch.traces)} running, {len(now)} suspended, {len(ids)} of {paths} ended", flush=True)  # fmt: skip
    return {"rows": rows, "tokens": tokens, "seconds": round(time.perf_counter() - began, 1), "suspended": suspended,
            "peak_bytes": batch.peak_bytes, "ids": [ids[i] for i in sorted(ids)]}  # fmt: skip


def alike(a: list[list[int]], b: list[list[int]]) -> dict[str, Any]:
    """Traces that are equal in two runs, and the shortest beginning in which two are."""
    shared = [
        next((n for n, (x, y) in enumerate(zip(s, t, strict=True)) if x != y), len(s))
        for s, t in zip(a, b, strict=True)
    ]
    return {"equal": sum(n == len(s) for n, s in zip(shared, a, strict=True)), "tokens alike, at least": min(shared),
            "tokens alike, median": sorted(shared)[len(shared) // 2]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--memory", type=float, default=2.0, help="GiB of KV")
    parser.add_argument("--paths", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--runs", type=Path, default=Path("runs/memory-budget"), help="where runs are kept")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    backbone = load(given.model, dtype=given.dtype)
    bench, budget = Bench(backbone, tokens=given.tokens), int(given.memory * 2**30)
    rows = min(given.paths, fitting(backbone, len(bench.prompts[0].ids), given.tokens, budget))
    print(f"{rows} rows of {given.tokens} tokens fit {gib(budget)}, of {given.paths} paths", flush=True)
    whole, found = {"budget": (given.paths, budget), "as many rows as fit": (rows, None)}, dict[str, Any]()
    for name, (most, memory) in whole.items():
        kept = given.runs / f"{name.replace(' ', '-')}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, decode(bench, given.paths, most, memory))
        found[name] = json.loads(kept.read_text())
    drawn = [run.pop("ids") for run in found.values()]
    rates = [run["tokens"] / run["seconds"] for run in found.values()]
    cells.write(
        {"machine": machine(), "model": Path(given.model).name, "dtype": str(backbone.dtype).removeprefix("torch."), "paths": given.paths,
         "tokens": given.tokens, "prompt_tokens": len(bench.prompts[0].ids), "budget_bytes": budget, "runs": found,
         "rate, budget / as many rows as fit": round(rates[0] / rates[1], 3), **alike(*drawn)}, given.out,
    )  # fmt: skip


if __name__ == "__main__":
    main()
