"""What a server costs: its throughput, clients included, against the same work by one scheduler, and the time to the first event.

    python bench/serve.py --out results/serve.json                              # the embedded model
    python bench/serve.py --model FOLDER --out results/serve.json               # beside it, under the folder's name

Wants an idle machine. The server runs in a process of its own; its clients, one a request, are threads here that share a
connection pool, so that their cost counts. Options are mixed. `bench/load.py` measures what many clients make of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

import trueplex
from server import started
from trueplex.evals.run import machine
from trueplex.evals.speed.pairs import ratio
from trueplex.files import write_json
from trueplex.solving.api import settings_of
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


def asked(http: httpx.Client, body: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Seconds, and the answer. A refusal ends the run: work that was not done must not count as done."""
    began = time.perf_counter()
    answer = http.post("/v1/solve", json=body).raise_for_status()
    return time.perf_counter() - began, answer.json()


def first_event(http: httpx.Client) -> float:
    """Seconds to the first event of an idle server, milliseconds of the client included; the rest is waited for, so that it is idle again."""
    began = time.perf_counter()
    body = {"problem": "What is 1 + 1?", "max_tokens": 4, "paths": 2, "stream": True}
    with http.stream("POST", "/v1/solve", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        seconds = time.perf_counter() - began
        for _ in lines:
            pass
    return seconds


class Alone:
    """The same work by one scheduler in this process, without a server."""

    def __init__(self, model: str) -> None:
        self.backbone = trueplex.load(model)

    def __call__(self, wanted: list[dict[str, Any]]) -> tuple[float, list[trueplex.Solution]]:
        """Seconds, and the solutions in order."""
        scheduler, scorers = Scheduler(self.backbone), dict[str, Any]()
        for body in wanted:
            settings = settings_of({k: v for k, v in body.items() if k != "problem"})  # type: ignore[arg-type]
            scorer, settings = choose_scorer(self.backbone, settings)
            scheduler.submit(
                Request(trueplex.Problem(body["problem"]), settings, scorers.setdefault(settings.verifier, scorer))
            )
        began = time.perf_counter()
        solved = {e.request: e.solution for e in scheduler.events() if isinstance(e, Solved)}
        return time.perf_counter() - began, [solved[n] for n in range(len(wanted))]


def served(http: httpx.Client, wanted: list[dict[str, Any]]) -> tuple[float, list[tuple[float, dict[str, Any]]]]:
    """Seconds until the last client has its answer, and what each was answered."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(wanted)) as threads:
        answered = list(threads.map(lambda body: asked(http, body), wanted))
    return time.perf_counter() - began, answered


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One server and its clients, and the same work without either, in turns: this machine is not the same from minute to minute."""
    wanted = bodies(options.requests, options.max_tokens)
    with (
        started(options.model) as (url, _),
        httpx.Client(base_url=url, timeout=1200, limits=httpx.Limits(max_connections=None)) as http,
    ):
        firsts = [first_event(http) for _ in range(22)][2:]
        asked(http, wanted[0])
        alone = Alone(options.model)
        alone(wanted[:1])
        ways: dict[str, Any] = {"server": lambda: served(http, wanted), "solve": lambda: alone(wanted)}
        turns = [
            {name: ways[name]() for name in (reversed(ways) if turn % 2 else ways)} for turn in range(options.turns)
        ]
    answered, solutions = (turns[0][name][1] for name in ways)
    seconds = {name: [turn[name][0] for turn in turns] for name in ways}
    told = ratio(seconds["solve"], seconds["server"])
    return {
        "configuration": {**{k: v for k, v in vars(options).items() if k != "out"}, "model": Path(options.model).name}, "machine": machine(), "load average": [round(one, 1) for one in os.getloadavg()],
        "equal to solve": sum([p["text"] for p in body["paths"]] == [t.text for t in s.traces] for (_, body), s in zip(answered, solutions, strict=True)),
        "tokens": sum(s.usage.thinking_tokens + s.usage.answer_tokens for s in solutions),
        "seconds": [round(one, 2) for one in seconds["server"]], "seconds of solve": [round(one, 2) for one in seconds["solve"]],
        "throughput against solve": {"median": told["ratio"], "lowest": told["lowest"], "highest": told["highest"]}, "goal of it": 0.9,
        "seconds of an answer, median": round(statistics.median(took for took, _ in answered), 3),
        "seconds to the first event of an idle server, median": round(statistics.median(firsts), 4), "goal of these": 0.1,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument(
        "--requests", type=int, default=32, help="as many clients ask at once, as solve has all of them at once, too"
    )
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3, help="of server and solve")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    figures = json.loads(options.out.read_text()) if options.out.exists() else {}
    figures[Path(options.model).name] = found = measured(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, figures, indent=1)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
