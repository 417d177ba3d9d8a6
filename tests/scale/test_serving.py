"""The server on two replicas: each answer is that of `solve`, also while one of them is killed. Skipped without Ray Serve."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("ray.serve")
httpx = pytest.importorskip("httpx")
psutil = pytest.importorskip("psutil")

import trueplex  # noqa: E402
from trueplex.cli.groups import ModelOptions  # noqa: E402
from trueplex.data.embedded import tasks  # noqa: E402
from trueplex.models.load import load  # noqa: E402
from trueplex.scale.cluster import Cluster  # noqa: E402
from trueplex.scale.serving import Served, serving  # noqa: E402
from trueplex.serve.options import ServerOptions  # noqa: E402

pytestmark = pytest.mark.slow
CLIENTS = 8  # `python bench/replicas.py --only serve` has a hundred


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ServerOptions(defaults={"paths": 4, "verifier": "none"}, max_waiting=1000)
    with Cluster(replicas=2, gpus=0) as cluster:
        served = Served(ModelOptions(threads=1).load, options, "127.0.0.1", port, 2, 2, 5.0)
        with serving(cluster, served):
            yield f"http://127.0.0.1:{port}"


def replicas() -> list[int]:
    """The processes of the replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[0].startswith("ray::ServeReplica"):
                found.append(process.pid)
        except (psutil.Error, IndexError):
            continue
    return found


def ask(address: str, problem: str) -> tuple[str | None, int]:
    """The answer, and how often it had to be asked again because its replica was gone."""
    for attempt in range(100):
        try:
            reply = httpx.post(f"{address}/v1/solve", json={"problem": problem, "max_tokens": 96}, timeout=300)
            if reply.status_code == 200:
                return reply.json()["answer"], attempt
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("never answered")


def test_no_answer_is_wrong_when_a_replica_dies(address: str) -> None:
    problems = [p.text for p in tasks.problems("chain-easy", "test", CLIENTS, 0)]
    thinking = trueplex.Thinking("multiplex", ending=trueplex.Ending(96))
    expected = [s.answer for s in trueplex.solve(load("reference"), problems, paths=4, verifier="none", thinking=thinking)]  # fmt: skip
    before = replicas()
    assert len(before) == 2
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        asked = [pool.submit(ask, address, problem) for problem in problems]
        time.sleep(1.0)
        os.kill(before[0], signal.SIGKILL)
        answers = [one.result() for one in asked]
    assert [answer for answer, _ in answers] == expected
    print(f"{CLIENTS} clients, {sum(again > 0 for _, again in answers)} asked again")
    assert httpx.get(f"{address}/health", timeout=60).json() == {"status": "ok"}
