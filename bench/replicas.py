"""Replicas of the embedded model on Ray: whether 20 kills lose or repeat anything (they must not), and how much faster two replicas are than one.

    python bench/replicas.py --out results/replicas.json          # both; minutes on an idle machine with two cores
    python bench/replicas.py --out FILE --only throughput

Replicas are killed at random moments, also while one loads its model. The rate is of tokens between the first answer of
the last replica and the last answer of the first, so that loading does not count; runs of one and of two take turns.
"""

from __future__ import annotations

import os

os.environ.setdefault("RAY_worker_niceness", "0")  # beside other jobs Ray's own 15 would measure those
import argparse
import json
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

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
from trueplex.scale.spread import Said
from trueplex.solving import rollouts
from trueplex.solving.settings import Settings

SETTINGS = Settings(8, Thinking("multiplex"), "none", rows=32, select="majority")
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
            replicas = [p.pid for p in psutil.Process().children(recursive=True) if _is_replica(p)]
            if replicas:
                os.kill(draw.choice(replicas), signal.SIGKILL)
                self.left -= 1


def _is_replica(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[:1] != [] and process.cmdline()[0].startswith("ray::MapWorker")
    except psutil.Error:
        return False


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


class Timed:
    """A cluster whose answers are timed: (seconds, number of the work, tokens)."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.answers, self.pids = cluster, list[tuple[float, int, int]](), dict[int, int]()
        self.replicas, self.accelerated = cluster.replicas, cluster.accelerated

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        for number, said in self.cluster.run(job, work):
            if isinstance(said, Done):
                self.answers.append((time.monotonic(), number, sum(row["tokens"] for row in said.rows)))
            else:
                self.pids[number] = said.pid
            yield number, said

    def rate(self) -> float:
        """Tokens a second while all replicas were at work."""
        by_replica: dict[int, list[float]] = {}
        for at, number, _ in self.answers:
            by_replica.setdefault(self.pids[number], []).append(at)
        first, last = max(min(ats) for ats in by_replica.values()), min(max(ats) for ats in by_replica.values())
        return sum(tokens for at, _, tokens in self.answers if first < at <= last) / (last - first)


def throughput(turns: int, out: Path) -> dict[str, Any]:
    """Tokens a second of one replica and of two, of one thread each, in turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(turns):
        for replicas in rates:
            problems = tasks.problems("chain-easy", "test", 40 * replicas, turn)
            with Cluster(replicas=replicas, gpus=0) as cluster:
                timed = Timed(cluster)
                runs.rollout(timed, Job(ModelOptions(threads=1).load, SETTINGS), problems, out / f"{turn}-{replicas}", lambda done, tokens: None)  # fmt: skip
            rates[replicas].append(round(timed.rate(), 1))
            print(json.dumps({"replicas": replicas, "tokens a second": rates[replicas][-1], "load": os.getloadavg()[0]}), flush=True)  # fmt: skip
    one, two = (statistics.median(rates[replicas]) for replicas in (1, 2))
    return {"tokens a second": {"one": rates[1], "two": rates[2]}, "ratio of medians": round(two / one, 3),
            "load average": [round(load, 1) for load in os.getloadavg()]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=["kills", "throughput"])
    asked = parser.parse_args()
    figures = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        if asked.only != "throughput":
            figures["kills"] = kills(asked.kills, Path(folder) / "kills")
            write_json(asked.out, figures | {"machine": machine()}, indent=1)
        if asked.only != "kills":
            figures["throughput"] = throughput(asked.turns, Path(folder) / "rates")
            write_json(asked.out, figures | {"machine": machine()}, indent=1)


if __name__ == "__main__":
    main()
