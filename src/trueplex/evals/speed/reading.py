"""Prompts: how fast they are read, and how long running traces wait while one is."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from trueplex.engine.batch import Batch
from trueplex.engine.grow import start
from trueplex.engine.limits import Ending
from trueplex.engine.slots import Entry
from trueplex.engine.thinking import Thinking
from trueplex.evals.speed import rivals
from trueplex.evals.speed.bench import Bench, endless
from trueplex.evals.speed.pairs import paired
from trueplex.evals.speed.roofline import synchronise
from trueplex.types import Problem, Prompt, Trace

LENGTHS = (512, 4000)  # tokens of a prompt
BEFORE, BEHIND = 16, 4  # steps of running traces, before a long prompt comes and behind its entrance


def prefill(bench: Bench) -> dict[str, Any]:
    """Tokens a second of reading a prompt against the model's own forward pass, and steps while a long one is admitted."""
    most = bench.backbone.max_positions - BEFORE - BEHIND - 1
    lengths = sorted({min(length, most, 8 * bench.tokens if bench.tokens < 64 else length) for length in LENGTHS})
    rates = {}
    for length in lengths:
        prompt = long_prompt(bench, length)
        rates[f"reading {length} tokens, engine / forward pass"] = paired(
            lambda prompt=prompt: _read(bench, prompt),  # type: ignore[misc]
            lambda prompt=prompt: _forward(bench, prompt),  # type: ignore[misc]
            bench.repeats,
        )
    return {"rates": rates, "steps while a prompt is admitted": _admitted(bench, lengths[-1])}


def long_prompt(bench: Bench, length: int) -> Prompt:
    """So many tokens: a problem's own, over and over."""
    ids = (bench.prompts[0].ids * (length // len(bench.prompts[0].ids) + 1))[:length]
    return Prompt(Problem(f"{length} tokens"), tuple(ids), "")


def _read(bench: Bench, prompt: Prompt) -> float:
    with endless(bench.backbone):
        batch = start(bench.backbone, [prompt], 1, bench.thinking("discrete"), bench.seed)
        begun = time.perf_counter()
        batch.admit()
        synchronise(bench.backbone.device)
    return len(prompt.ids) / (time.perf_counter() - begun)


def _forward(bench: Bench, prompt: Prompt) -> float:
    with rivals.untouched(bench.backbone) as model, torch.inference_mode():
        begun = time.perf_counter()
        model(torch.tensor([prompt.ids], device=bench.backbone.device), use_cache=True, logits_to_keep=1)
        synchronise(bench.backbone.device)
    return len(prompt.ids) / (time.perf_counter() - begun)


def _admitted(bench: Bench, length: int) -> dict[str, float]:
    """Milliseconds of a step of the running traces: the median before, and from when a prompt of so many tokens comes."""
    rows, short, long = max(bench.rows), bench.prompts[0], long_prompt(bench, length)
    thinking = Thinking("discrete", ending=Ending(BEFORE + length))  # nothing ends before it was read
    with endless(bench.backbone):
        batch = Batch(bench.backbone, rows + 1, chunked=True)
        batch.submit(Entry(0, short, thinking, [Trace(short.problem, i, bench.seed) for i in range(rows)]))
        seconds = [_step(batch) for _ in range(BEFORE)]
        batch.submit(Entry(1, long, thinking, [Trace(long.problem, 0, bench.seed, request=1)]))
        while len(batch.traces) == rows:
            seconds.append(_step(batch))
        seconds += [_step(batch) for _ in range(BEHIND)]
    median, after = statistics.median(seconds[1:BEFORE]), sorted(seconds[BEFORE:])
    figures = {"median": median, "95th percentile": after[int(0.95 * len(after))], "longest": after[-1]}
    return {"tokens": length, "rows": rows, **{f"{name}, ms": round(1000 * s, 3) for name, s in figures.items()},
            "95th percentile / median": round(figures["95th percentile"] / median, 2)}  # fmt: skip


def _step(batch: Any) -> float:
    """Seconds until every running trace has its next token, as one who reads them along sees it."""
    begun = time.perf_counter()
    batch.admit()
    batch.make_room(1)
    batch.advance(1)
    return time.perf_counter() - begun
