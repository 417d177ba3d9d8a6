"""Peak memory of decoding, each size in a process of its own, and seconds from a cold start."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.evals.speed.bench import Bench, endless
from trueplex.evals.speed.reading import long_prompt
from trueplex.models.backbone import Backbone

LONG, TOKENS = 400, 64  # tokens of the prompt, and of every trace
PEAK = Path("/proc/self/clear_refs")  # what is written there resets the peak of a process

Load = Callable[[], Backbone]


def memory(bench: Bench, load: Load) -> dict[str, Any]:
    """Megabytes above the loaded model, of traces of 64 tokens behind a prompt of 400; ``load`` loads the same model again."""
    sizes = {f"{rows} traces": (rows, 1) for rows in bench.rows}
    rows = max(bench.rows)
    sizes[f"{rows} traces, then {rows} of a second problem"] = (rows, 2)
    if bench.backbone.device.type == "cuda":
        return {"memory": {name: _peak(bench, *size) for name, size in sizes.items()}}
    spawned = multiprocessing.get_context("spawn")
    found = {}
    for name, size in sizes.items():
        with spawned.Pool(1) as pool:
            found[name] = pool.apply(_fresh, (load, torch.get_num_threads(), *size))
    return {"memory": found}


def _fresh(load: Load, threads: int, rows: int, count: int) -> dict[str, int]:
    torch.set_num_threads(threads)
    return _peak(Bench(load()), rows, count)


def _peak(bench: Bench, rows: int, count: int) -> dict[str, int]:
    """Megabytes before decoding, at its peak, and held by the KV cache at its peak."""
    backbone, cuda = bench.backbone, bench.backbone.device.type == "cuda"
    prompts = [
        replace(p, problem=replace(p.problem, text=f"{i}")) for i, p in enumerate([long_prompt(bench, LONG)] * count)
    ]
    with endless(backbone):
        # what the first pass allots for good does not count
        for _ in grow(start(backbone, prompts[:1], 1, Thinking("discrete", ending=Ending(2)))):
            pass
        gc.collect()
        before = _begin_cuda() if cuda else _begin()
        batch = start(backbone, prompts, rows, Thinking(ending=Ending(TOKENS)).resolved(True), rows=rows)
        for _ in grow(batch, 16):
            pass
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else _resident("VmHWM")
    return {"before_mb": round(before), "peak_mb": round(peak), "cache_mb": round(batch.peak_bytes / 2**20)}


def _begin_cuda() -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def _begin() -> float:
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # loading left freed pages, in which small peaks would hide
    PEAK.write_text("5")  # resets VmHWM
    return _resident("VmRSS")


def _resident(what: str) -> float:
    """Megabytes of this process by /proc: VmRSS now, VmHWM at its peak since it was last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def cold_start(bench: Bench) -> dict[str, Any]:
    """Seconds of whole commands, from a cold start."""
    model = ("--model", bench.backbone.name, "--dtype", str(bench.backbone.dtype).removeprefix("torch."))
    solve = ("solve", bench.prompts[0].problem.text, *model, "--json", "--quiet")
    return {"seconds from a cold start": {
        "trueplex --help": min(_seconds("--help") for _ in range(3)), "trueplex solve, 16 paths": _seconds(*solve)}}  # fmt: skip


def _seconds(*arguments: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "trueplex", *arguments], capture_output=True, check=True, env=environment)
    return round(time.perf_counter() - begun, 2)
