"""Many clients at once, clients that vanish, and bodies that nobody meant: what a server makes of them.

    python bench/load.py --out results/serve-load.json        # ten minutes; `make load`
    python bench/load.py --seconds 3 --clients 12 --vanish 8 --fuzz 100 --out FILE

Mixed: clients ask for so many seconds, each one request after another out of a pool of every kind. What each of them
answers is asked first, of the idle server, and those of `/v1/solve` are held against `trueplex.solve`. A lost answer is one
that never came or broke off, a swapped one is about another problem or has another request's id.

Vanish: clients cut their connection at random moments, some within the body; the server is in this process, and its
steps are counted from when it lets a request go until its rows are free.

Fuzz: bodies made by the schemas of the endpoints and then spoilt, beside clients that ask well-formed requests.

The exit status is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from answers import SOLVE, Case, cases, differences, of_solve, read
from fuzzing import fuzzed
from server import started, within
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.serve.options import ServerOptions
from trueplex.serve.service import Service
from trueplex.serve.worker import Job
from trueplex.types import Trace

PARTS = ("mixed", "vanish", "fuzz")
PATIENCE = 300.0  # seconds after which an answer counts as lost
SETTLED, GROWTH, BUSY = (
    0.2,
    0.05,
    0.05,
)  # of the time before memory counts; how much it may grow then; 429s that are allowed
LONG = {
    "paths": 3,
    "temperature": 5.0,
    "thinking": "discrete",
    "max_tokens": 1500,
    "verifier": "none",
}  # of the embedded model: never ends by itself


class Asking:
    """One after another, requests of a pool, each answer held against what it is alone."""

    def __init__(
        self, http: httpx.AsyncClient, pool: Sequence[Case], expected: Sequence[Any], forbidden: str = ""
    ) -> None:
        self.http, self.pool, self.expected, self.forbidden = http, pool, expected, forbidden
        self.counts, self.places = Counter[str](), Counter[str]()
        self.different: list[Any] = []
        self.seconds: list[float] = []

    async def client(self, number: int, until: float) -> None:
        rng, asked = random.Random(number), 0
        while time.monotonic() < until:
            at, asked = rng.randrange(len(self.pool)), asked + 1
            wait = await self._one(at, f"client-{number}-{asked}")
            await asyncio.sleep(wait)

    async def _one(self, at: int, name: str) -> float:
        """One request, counted by how it went; the seconds after which the client may ask again."""
        case, began = self.pool[at], time.monotonic()
        try:
            reply = await self.http.post(case.path, json=case.body, headers={"x-request-id": name})
            if reply.status_code != 200:
                self.counts[str(reply.status_code)] += 1
                return float(reply.headers.get("retry-after", 0))
            found = read(case, reply.text)
        except (httpx.HTTPError, ValueError) as error:
            self.counts["lost"] += 1
            self.different.append(f"{type(error).__name__}: {error}"[:300])
            return 0.0
        self.seconds.append(time.monotonic() - began)
        self.counts["200"] += 1
        if reply.headers["x-request-id"] != name or (self.forbidden and re.search(self.forbidden, reply.text)):
            self.counts["swapped"] += 1
        if places := sorted(set(differences(self.expected[at], found))):
            self.counts["different"] += 1
            self.places.update(places)
            self.different.append({"body": case.body, "places": places, "alone": self.expected[at], "found": found})
        return 0.0


def connected(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None))


async def alone(url: str, pool: Sequence[Case]) -> list[Any]:
    """What each request is answered when nobody else asks."""
    async with connected(url) as http:
        return [read(case, (await http.post(case.path, json=case.body)).raise_for_status().text) for case in pool]


# -- mixed -------------------------------------------------------------------------------------------


async def resident(pid: int, until: float) -> list[float]:
    """Megabytes of a process, four times a second."""
    process, found = psutil.Process(pid), list[float]()
    while time.monotonic() < until:
        found.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(0.25)
    return found


async def mixed(url: str, pid: int, pool: Sequence[Case], clients: int, seconds: float) -> dict[str, Any]:
    expected = await alone(url, pool)
    async with connected(url) as http:
        asking, began = Asking(http, pool, expected), time.monotonic()
        until = began + seconds
        memory, *_ = await asyncio.gather(
            resident(pid, until), *(asking.client(number, until) for number in range(clients))
        )
        took = time.monotonic() - began
    settled = memory[round(SETTLED * len(memory)) :]
    counts, wanted = asking.counts, sum(n for name, n in asking.counts.items() if name.isdigit())
    return {
        "clients": clients, "seconds": round(took, 1), "requests": wanted, "statuses": {k: v for k, v in counts.items() if k.isdigit()},
        "lost": counts["lost"], "swapped": counts["swapped"], "different from alone": counts["different"], "where": dict(asking.places), "examples": asking.different[:3],
        "seconds of an answer, median": round(statistics.median(asking.seconds), 2) if asking.seconds else None,
        "MB settled": round(settled[0], 1), "MB at most after": round(max(settled), 1), "MB at the end": round(settled[-1], 1),
        "growth": round(max(settled) / settled[0] - 1, 4),
        "expected": expected,
    }  # fmt: skip


def against_solve(model: Backbone, pool: Sequence[Case], expected: Sequence[Any]) -> dict[str, int]:
    own = [(case, found) for case, found in zip(pool, expected, strict=True) if case.path == SOLVE]
    return {
        "compared with solve": len(own),
        "different from solve": sum(not of_solve(case, model, found) for case, found in own),
    }


# -- vanish ------------------------------------------------------------------------------------------


class Watch:
    """Counts, for each request that is let go, at the end of how many steps it still has rows; the step that runs then is one."""

    def __init__(self, service: Service) -> None:
        self.worker = service.worker
        self.gone: dict[Job, int] = {}
        self._cancel, scheduler = self.worker.cancel, self.worker._scheduler
        step = scheduler.step
        self.worker.cancel = self._let_go  # type: ignore[method-assign]

        def counted() -> Any:
            events = step()
            for job in list(self.gone):
                self.gone[job] += any(t.request == job.number for t in scheduler.batch.traces)
            return events

        scheduler.step = counted  # type: ignore[method-assign]

    def _let_go(self, job: Job) -> None:
        if job in self.worker.jobs and job.begun:
            self.gone[job] = 0
        self._cancel(job)

    @property
    def left(self) -> dict[str, int]:
        """What is still held of requests, which must be nothing."""
        worker, gc_objects = self.worker, (gc.collect(), gc.get_objects())[1]
        scheduler = worker._scheduler
        batch = scheduler.batch
        return {"jobs": len(worker.jobs) + len(worker.waiting) + len(worker._running) + len(worker._pending) + len(worker._alone), "runs": len(scheduler.runs),
                "rows": len(batch.traces), "entries": len(batch.waiting), "prompts": len(batch.prompt_tokens), "cache bytes": batch.cache_bytes,
                "Job objects": sum(type(one) is Job for one in gc_objects), "Trace objects": sum(type(one) is Trace for one in gc_objects)}  # fmt: skip


async def vanishing(url: str, number: int) -> None:
    """A client that asks for much, and cuts its connection at a moment of its own."""
    rng = random.Random(number)
    problem = f"Ann has {number} apples. How many are left?"
    path, body = rng.choice([(SOLVE, {"problem": problem, **LONG}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": problem}],
                             "temperature": 5.0, "max_tokens": 1500, "trueplex": {"paths": 3, "thinking": "discrete", "verifier": "none"}})])  # fmt: skip
    text = json.dumps({**body, "stream": rng.random() < 0.5}).encode()
    host, port = url.removeprefix("http://").split(":")
    await asyncio.sleep(rng.uniform(0, 1))
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n".encode()
    writer.write(head + (text[: len(text) // 2] if rng.random() < 0.1 else text))
    await asyncio.sleep(rng.uniform(0, 3))
    if rng.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


async def vanish(url: str, service: Service, watch: Watch, pool: Sequence[Case], clients: int) -> dict[str, Any]:
    """Clients that vanish, beside two that stay and whose answers must be what they are alone."""
    expected = await alone(url, pool)
    gone, process = list[int](), psutil.Process()
    async with connected(url) as http:
        asking = Asking(http, pool, expected)
        staying = [asyncio.ensure_future(asking.client(number, time.monotonic() + 4)) for number in range(2)]
        await asyncio.gather(*(vanishing(url, number) for number in range(clients)))
        left_at = time.monotonic()
        await asyncio.gather(*staying)
    while service.worker.jobs and time.monotonic() < left_at + PATIENCE:
        await asyncio.sleep(0.01)
    seconds = time.monotonic() - left_at
    await service.worker.call(lambda: None)  # what was cancelled last is dropped before this
    gone, watch.gone = list(watch.gone.values()), {}
    await asyncio.sleep(0.2)
    return {
        "clients": clients, "that had rows": len(gone), "steps with rows after they were let go, at most": max(gone, default=0),
        "seconds until the last was noticed": round(seconds, 2), "left": watch.left, "open files": process.num_fds(),
        "MB": round(process.memory_info().rss / 1e6, 1), "beside them": dict(asking.counts), "examples": asking.different[:3],
    }  # fmt: skip


# -- fuzz --------------------------------------------------------------------------------------------


async def fuzz(url: str, count: int, pool: Sequence[Case], seed: int) -> dict[str, Any]:
    expected = await alone(url, pool)
    rng, statuses, wrong, slowest = random.Random(seed), Counter[str](), list[Any](), 0.0
    asked = iter([(number, *fuzzed(rng, f"Zx{number}q")) for number in range(count)])
    async with connected(url) as http:

        async def client() -> None:
            nonlocal slowest
            for number, path, raw in asked:
                began = time.monotonic()
                try:
                    reply = await http.post(path, content=raw, headers={"content-type": "application/json"}, timeout=60)
                except httpx.HTTPError as error:
                    wrong.append(
                        {"path": path, "body": raw.decode("latin-1")[:500], "error": f"{type(error).__name__}: {error}"}
                    )
                    continue
                slowest = max(slowest, time.monotonic() - began)
                statuses[str(reply.status_code)] += 1
                if told := _unfit(reply, number):
                    wrong.append(
                        {
                            "path": path,
                            "body": raw.decode("latin-1")[:500],
                            "status": reply.status_code,
                            "why": told,
                            "answer": reply.text[:500],
                        }
                    )

        asking = Asking(http, pool, expected, r"Zx\d+q")
        beside = [asyncio.ensure_future(asking.client(number, float("inf"))) for number in range(2)]
        await asyncio.gather(*(client() for _ in range(8)))
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return {"bodies": count, "statuses": dict(sorted(statuses.items())), "unfit": len(wrong), "examples": wrong[:5], "slowest seconds": round(slowest, 2),
            "beside them": dict(asking.counts), "examples beside": asking.different[:3]}  # fmt: skip


def _unfit(reply: httpx.Response, number: int) -> str:
    """What is wrong with the answer to a fuzzed body; nothing, where it is an error of the right shape, or an answer."""
    if set(re.findall(r"Zx(\d+)q", reply.text)) - {str(number)}:
        return "another request's text"
    if reply.status_code == 200:
        return "failed in its stream" if '"code":"failed"' in reply.text else ""
    if not 400 <= reply.status_code < 500:
        return "status"
    try:
        error = reply.json()["error"]
        fits = (
            set(error) == {"message", "type", "param", "code"}
            and "Try: " in error["message"]
            and isinstance(error["type"], str)
        )
        return "" if fits else "shape"
    except (ValueError, KeyError, TypeError):
        return "shape"


# -- all of it ---------------------------------------------------------------------------------------


def missed(found: dict[str, Any]) -> list[str]:
    """The goals that are not met, of the parts that were measured."""
    goals: dict[str, bool] = {}
    if one := found.get("mixed"):
        statuses = one["statuses"]
        goals |= {
            "no error but 429": set(statuses) <= {"200", "429"} and not one["lost"],
            "at most 5 % of 429": statuses.get("429", 0) <= BUSY * one["requests"],
            "no swapped answer": not one["swapped"],
            "answers as alone": not one["different from alone"] and not one["different from solve"],
            "memory flat": one["growth"] <= GROWTH,
        }
    if two := found.get("vanish"):
        goals["rows free within a step"] = two["steps with rows after they were let go, at most"] <= 1
        goals["nothing leaks"] = not any(two["left"].values())
        goals["those beside are answered"] = set(two["beside them"]) == {"200"}
    if three := found.get("fuzz"):
        goals["fuzzed bodies are refused well"] = not three["unfit"]
        goals["those beside fuzzed ones are answered"] = set(three["beside them"]) == {"200"}
    return [name for name, met in goals.items() if not met]


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part, on a server of its own."""
    if name == "mixed":
        pool = cases(options.variety, options.max_tokens)
        with started(options.model) as (url, pid):
            found = asyncio.run(mixed(url, pid, pool, options.clients, options.seconds))
        return found | against_solve(load(options.model, device="cpu"), pool, found.pop("expected"))
    if name == "vanish":
        with within(load(options.model, device="cpu"), ServerOptions()) as (url, service):
            return asyncio.run(vanish(url, service, Watch(service), cases(6, options.max_tokens), options.vanish))
    with started(options.model, "--max-tokens", "16", "--max-paths", "4", "--paths", "1") as (url, _):
        return asyncio.run(fuzz(url, options.fuzz, cases(6, 16), options.seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--vanish", type=int, default=50)
    parser.add_argument("--fuzz", type=int, default=5000)
    parser.add_argument("--variety", type=int, default=60, help="different requests")
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=PARTS, help="one part; the others stay in the file as they are")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.only and options.out.exists() else {}
    for name in [options.only] if options.only else PARTS:
        found[name] = measured(name, options)
        print(json.dumps({name: {k: v for k, v in found[name].items() if "examples" not in k}}, indent=1))
    found |= {
        "configuration": {k: v for k, v in vars(options).items() if k not in ("out", "only")},
        "machine": machine(),
        "missed": missed(found),
    }
    write_json(options.out, json.loads(json.dumps(found, default=str)), indent=1)
    print("missed:", ", ".join(found["missed"]) or "nothing")
    sys.exit(bool(found["missed"]))


if __name__ == "__main__":
    main()
