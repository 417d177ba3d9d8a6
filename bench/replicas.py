"""Replicas of the embedded model on Ray: whether 20 kills lose or repeat anything (they must not), and how much faster two replicas are than one.

    python bench/replicas.py --out results/replicas.json          # all; minutes on an idle machine with two cores
    python bench/replicas.py --out FILE --only throughput

Kills: 20 at random moments of rollouts, also while a replica loads its model. Serve: 100 clients ask Ray Serve, one of its
two replicas is killed, and a client whose connection broke asks again; an answer is wrong where it is not that of `solve`.
Throughput: the rate is of tokens between the first answer of the last replica and the last answer of the first, so that
loading does not count; runs of one and of two take turns, and so do plain processes without Ray, which say what the machine gives.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_worker_niceness", "0")  # beside other jobs Ray's own 15 would measure those
import argparse
import concurrent.futures
import contextlib
import json
import random
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psutil

import trueplex
from trueplex.cli.groups import ModelOptions
from trueplex.data.embedded import tasks
from trueplex.data.traces import read, read_traces
from trueplex.engine.thinking import Thinking
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.models.load import load
from trueplex.scale import runs
from trueplex.scale.cluster import Cluster
from trueplex.scale.replica import Done, Job, Work
from trueplex.scale.serving import Served, serving
from trueplex.scale.spread import Here, Runner, Said
from trueplex.serve.options import ServerOptions
from trueplex.solving import rollouts
from trueplex.solving.settings import Settings
from trueplex.types import Problem

SETTINGS = Settings(8, Thinking("multiplex"), "none", rows=32, select="majority")
Answer = tuple[float, int, int]  # seconds, process, tokens
PAUSE = 6.0  # most seconds between two kills


class Killer(threading.Thread):
    """Kills a random replica at random moments: every second one soon after an answer, so that not all fall while models load."""

    def __init__(self, kills: int) -> None:
        super().__init__(daemon=True)
        self.left, self.over, self.answered = kills, threading.Event(), threading.Event()

    def run(self) -> None:
        draw = random.Random(0)
        while self.left and not self.over.wait(draw.uniform(0.0, PAUSE)):
            if self.left % 2:
                self.answered.clear()
                self.answered.wait()
                time.sleep(draw.uniform(0.0, 1.0))
            replicas = _processes("ray::MapWorker")
            if replicas:
                os.kill(draw.choice(replicas), signal.SIGKILL)
                self.left -= 1


def _processes(name: str) -> list[int]:
    """Processes below this one, by how their command line begins."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()[:1]).startswith(name):
                found.append(process.pid)
    return found


def kills(count: int, out: Path, seed: int = 0) -> dict[str, Any]:
    """Rollouts by two replicas of which one after another is killed, against one process that is left in peace."""
    problems = tasks.problems("chain-easy", "test", 24, seed)
    whole = _drawn(rollouts.rollout(load("reference"), problems, SETTINGS, out / "one"))
    killer, started = Killer(count), time.monotonic()
    rounds = 0
    with Cluster(replicas=2, gpus=0) as cluster:
        killer.start()
        while killer.left or not rounds:  # a run may end before all kills are spent: another one begins
            rounds += 1
            path = runs.rollout(cluster, Job(ModelOptions(threads=1).load, SETTINGS), problems, out / f"two-{rounds}", lambda done, tokens: killer.answered.set())  # fmt: skip
            stored = [(row["problem"], row["index"]) for row in read(path, ("problem", "index"))]
            drawn = _drawn(path)
            found = {"lost": len(whole.keys() - drawn.keys()), "repeated": len(stored) - len(set(stored)),
                      "other draws": sum(drawn[key] != whole[key] for key in drawn)}  # fmt: skip
            print(json.dumps({"run": rounds, "kills left": killer.left, **found}), flush=True)
            if any(found.values()):
                break
    killer.over.set()
    return {"kills": count - killer.left, "runs": rounds, "traces of a run": len(whole), **found, "seconds": round(time.monotonic() - started, 1)}  # fmt: skip


def _drawn(path: Path) -> dict[tuple[str, int], Any]:
    return {(t.problem.text, t.index): t.steps.ids.tolist() for t, _ in read_traces(path) if t.steps}


# -- Ray Serve ---------------------------------------------------------------------------------------


def serve(clients: int) -> dict[str, Any]:
    """Two replicas behind one address, one killed in the middle: what each client is answered, and who had to ask again."""
    problems = [p.text for p in tasks.problems("chain-easy", "test", clients, 0)]
    expected = [s.answer for s in trueplex.solve(load("reference"), problems, paths=4, verifier="none", max_tokens=96)]
    port = _free_port()
    options = ServerOptions(defaults={"paths": 4, "verifier": "none"}, max_waiting=1000)
    what = Served(ModelOptions(threads=1).load, options, "127.0.0.1", port, 2, 2, 5.0)
    left = random.Random(0).uniform(0.3, 0.6) * clients  # answers before the kill
    with (
        Cluster(replicas=2, gpus=0) as cluster,
        serving(cluster, what),
        concurrent.futures.ThreadPoolExecutor(clients) as pool,
    ):
        asked = [pool.submit(_ask, f"http://127.0.0.1:{port}", problem) for problem in problems]
        while sum(one.done() for one in asked) < left:
            time.sleep(0.01)
        most = sum(not one.done() for one in asked)
        os.kill(_processes("ray::ServeReplica")[0], signal.SIGKILL)
        answers = [one.result() for one in asked]
    wrong = sum(answer != right for (answer, _), right in zip(answers, expected, strict=True))
    again = sum(again > 0 for _, again in answers)
    return {
        "clients": clients,
        "killed": 1,
        "in flight when it was killed": most,
        "wrong answers": wrong,
        "asked again": again,
    }


def _ask(address: str, problem: str) -> tuple[str | None, int]:
    """The answer, and how often it had to be asked again because its replica was gone."""
    for attempt in range(200):
        try:
            reply = httpx.post(f"{address}/v1/solve", json={"problem": problem, "max_tokens": 96}, timeout=600)
            if reply.status_code == 200:
                return reply.json()["answer"], attempt
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise RuntimeError("never answered")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


# -- throughput --------------------------------------------------------------------------------------


class Timed:
    """A runner whose answers are timed: (seconds, process, tokens)."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.answers, self.pids = runner, list[Answer](), dict[int, int]()
        self.replicas, self.accelerated = runner.replicas, runner.accelerated

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        for number, said in self.runner.run(job, work):
            if isinstance(said, Done):
                self.answers.append((time.monotonic(), self.pids[number], sum(row["tokens"] for row in said.rows)))
            else:
                self.pids[number] = said.pid
            yield number, said


def rate(answers: Sequence[Answer]) -> float:
    """Tokens a second while all processes were at work."""
    by_process: dict[int, list[float]] = {}
    for at, pid, _ in answers:
        by_process.setdefault(pid, []).append(at)
    first, last = max(min(ats) for ats in by_process.values()), min(max(ats) for ats in by_process.values())
    return sum(tokens for at, _, tokens in answers if first < at <= last) / (last - first)


def on_ray(replicas: int, turn: int, out: Path) -> list[Answer]:
    """The answers of replicas of one thread each."""
    with Cluster(replicas=replicas, gpus=0) as cluster:
        return drawn(Timed(cluster), tasks.problems("chain-easy", "test", 40 * replicas, turn), out)


def plainly(processes: int, turn: int, out: Path) -> list[Answer]:
    """The answers of as many processes that know nothing of one another: what the machine itself gives two at once."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        parts = [pool.submit(_alone, tasks.problems("chain-easy", "test", 40, 2 * turn + n), out / str(n)) for n in range(processes)]  # fmt: skip
        return [answer for part in parts for answer in part.result()]


def _alone(problems: Sequence[Problem], out: Path) -> list[Answer]:
    return drawn(Timed(Here()), problems, out)


def drawn(timed: Timed, problems: Sequence[Problem], out: Path) -> list[Answer]:
    runs.rollout(timed, Job(ModelOptions(threads=1).load, SETTINGS), problems, out, lambda done, tokens: None)
    return timed.answers


def throughput(turns: int, out: Path) -> dict[str, Any]:
    """Tokens a second of one replica on Ray and of two, and of one plain process and of two, of one thread each, in turns."""
    ways = {
        "one": (on_ray, 1),
        "two": (on_ray, 2),
        "one plain process": (plainly, 1),
        "two plain processes": (plainly, 2),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name, (draw, count) in ways.items():
            rates[name].append(round(rate(draw(count, turn, out / f"{turn} {name}")), 1))
            print(json.dumps({name: rates[name][-1], "load": os.getloadavg()[0]}), flush=True)
    one, two, alone, beside = (statistics.median(of) for of in rates.values())
    return {"tokens a second": rates, "ratio of medians": round(two / one, 3), "of plain processes": round(beside / alone, 3),
            "load average": [round(load, 1) for load in os.getloadavg()]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--only", choices=["kills", "serve", "throughput"])
    asked = parser.parse_args()
    figures = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "kills": lambda: kills(asked.kills, Path(folder) / "kills"),
            "serve": lambda: serve(asked.clients),
            "throughput": lambda: throughput(asked.turns, Path(folder) / "rates"),
        }
        for name, measure in parts.items():
            if asked.only in (None, name):
                figures[name] = {**measure(), "ray": version("ray")}
                print(json.dumps({name: figures[name]}), flush=True)
                write_json(asked.out, figures | {"machine": machine()}, indent=1)


if __name__ == "__main__":
    main()
