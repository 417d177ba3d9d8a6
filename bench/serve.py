"""Many clients at once against a server: errors, answers against `solve`, throughput against `solve`, time to the first event.

    python bench/serve.py --clients 200 --requests 400 --out results/serve.json
    python bench/serve.py --model FOLDER --clients 16 --requests 32 --max-tokens 100 --out OUT.json

The server runs in a process of its own; its clients are threads here, so that their cost counts. Options are mixed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

import trueplex
from trueplex.solving.events import Solved
from trueplex.solving.request import Request
from trueplex.solving.scheduler import Scheduler
from trueplex.solving.scorers import choose_scorer

WAYS = [
    {"paths": 4},
    {"paths": 2, "thinking": "discrete"},
    {"paths": 1},
    {"paths": 3, "temperature": 0.7},
    {"paths": 4, "verifier": "none"},
]


def bodies(count: int, most: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    texts = [
        f"Ann has {rng.randint(2, 60)} apples. Ann buys {rng.randint(2, 30)} more. How many apples are there now?"
        for _ in range(count)
    ]
    return [{"problem": text, "seed": n % 7, "max_tokens": most, **WAYS[n % len(WAYS)]} for n, text in enumerate(texts)]


def started(model: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "trueplex", "serve", "--model", model, "--port", "0", "--quiet"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if "serving" in line:
            return server, line.split()[-1]
    raise RuntimeError("the server did not start")


def asked(url: str, body: dict[str, Any]) -> tuple[int, float, dict[str, Any]]:
    began = time.perf_counter()
    answer = httpx.post(f"{url}/v1/solve", json=body, timeout=1200)
    return answer.status_code, time.perf_counter() - began, answer.json()


def first_event(url: str) -> float:
    """Seconds to the first event of an idle server, milliseconds of the client included."""
    began = time.perf_counter()
    body = {"problem": "What is 1 + 1?", "max_tokens": 4, "paths": 2, "stream": True}
    with httpx.stream("POST", f"{url}/v1/solve", json=body, timeout=60) as stream:
        next(stream.iter_lines())
        return time.perf_counter() - began


def alone(model: str, wanted: list[dict[str, Any]]) -> tuple[float, list[trueplex.Solution]]:
    """The same work by one scheduler in this process, without a server."""
    from trueplex.solving.api import settings_of

    backbone = trueplex.load(model)
    scheduler, scorers = Scheduler(backbone), dict[str, Any]()
    for body in wanted:
        settings = settings_of({k: v for k, v in body.items() if k != "problem"})  # type: ignore[arg-type]
        scorer, settings = choose_scorer(backbone, settings)
        scheduler.submit(
            Request(trueplex.Problem(body["problem"]), settings, scorers.setdefault(settings.verifier, scorer))
        )
    began = time.perf_counter()
    solved = {e.request: e.solution for e in scheduler.events() if isinstance(e, Solved)}
    return time.perf_counter() - began, [solved[n] for n in range(len(wanted))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    wanted = bodies(options.requests, options.max_tokens)
    server, url = started(options.model)
    try:
        firsts = [first_event(url) for _ in range(12)][2:]
        memory = psutil.Process(server.pid)
        asked(url, wanted[0])
        before, began = memory.memory_info().rss, time.perf_counter()
        with ThreadPoolExecutor(options.clients) as threads:
            answered = list(threads.map(lambda body: asked(url, body), wanted))
        seconds, after = time.perf_counter() - began, memory.memory_info().rss
    finally:
        server.terminate()
        server.wait(60)
    by_itself, solutions = alone(options.model, wanted)
    good = [n for n, (status, _, _) in enumerate(answered) if status == 200]
    texts = [[t.text for t in s.traces] for s in solutions]
    equal = sum([p["text"] for p in answered[n][2]["paths"]] == texts[n] for n in good)
    tokens = sum(s.usage.thinking_tokens + s.usage.answer_tokens for s in solutions)
    found = {
        "model": options.model, "clients": options.clients, "requests": options.requests, "max_tokens": options.max_tokens,
        "cores": os.cpu_count(), "statuses": {str(s): sum(a[0] == s for a in answered) for s in {a[0] for a in answered}},
        "equal_to_solve": equal, "seconds": seconds, "solve_seconds": by_itself, "throughput_against_solve": by_itself / seconds * len(good) / len(wanted),
        "tokens_per_second": tokens / seconds, "p50_latency": statistics.median(a[1] for a in answered),
        "p50_first_event_idle": statistics.median(firsts), "memory_before": before, "memory_after": after,
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
