"""One thread, one scheduler, many clients: who goes away frees rows, who fails fails alone, and nobody changes another's answer."""

from __future__ import annotations

import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
import torch

import trueplex
from served import PROBLEM, Served
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.serve.worker import Job
from trueplex.solving.events import Solved
from trueplex.solving.request import Request
from trueplex.solving.scheduler import Scheduler
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Trace
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer

TEXTS = [f"Ann has {n} apples. Ann buys {n + 2} more. How many apples are there now?" for n in range(2, 8)]


def rows(served: Served) -> int:
    return served.service.worker.load.rows


def test_clients_that_vanish_free_their_rows_within_a_step_and_leave_the_others_alone(
    served: Served, reference: Backbone
) -> None:
    body = {"problem": PROBLEM, "paths": 3, "seed": 3, "max_tokens": 60}
    expected = [t.text for t in trueplex.solve(reference, PROBLEM, paths=3, seed=3, max_tokens=60).traces]
    steps = []
    scheduler = served.service.worker._scheduler
    step = scheduler.step
    scheduler.step = lambda: (steps.append(len(scheduler.runs)), step())[1]
    rng = random.Random(4)
    host, port = served.url.removeprefix("http://").split(":")

    def vanish(number: int) -> None:
        """Half of them ask for a stream; each leaves at a moment of its own."""
        connection = socket.create_connection((host, int(port)))
        text = f'{{"problem": "{TEXTS[number % 6]}", "max_tokens": 2000, "thinking": "discrete", "temperature": 5, "stream": {str(number % 2 == 0).lower()}}}'
        connection.sendall(
            f"POST /v1/solve HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()
        )
        connection.settimeout(0.05)
        try:
            if rng.random() < 0.8:
                connection.recv(rng.choice((1, 400)))
        except TimeoutError:
            pass
        connection.close()

    with ThreadPoolExecutor(10) as threads:
        kept = threads.submit(served.post, "/v1/solve", body)
        list(threads.map(vanish, range(12)))
        assert [p["text"] for p in kept.result().json()["paths"]] == expected
    served.until(lambda: not served.service.worker.jobs)
    before = len(steps)
    served.until(lambda: rows(served) == 0)
    assert len(steps) <= before + 2  # one that had begun, and one more
    served.until(lambda: not scheduler)
    assert not scheduler.batch.waiting and not scheduler.batch.prompt_tokens and not served.service.worker._running
    served.until(lambda: served.service.worker.load.cache_bytes == 0)  # also where no later request takes their place
    assert served.service.worker.load.share == 0 and not scheduler.batch._rows.slots.entries.any()
    scheduler.step = step


def test_a_failing_request_fails_alone(served: Served, reference: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails begins again, request by request; the answers of the others are what they would have been."""
    from trueplex.solving import run

    reading = run.read_answer

    def failing(trace: object, backbone: object, kind: object) -> None:
        if threading.current_thread().name == "trueplex-model" and any(
            r.prompt.problem.text == "bad" for r in served.service.worker._scheduler.runs.values()
        ):
            raise RuntimeError("user text that the log must not hold")
        reading(trace, backbone, kind)

    good = {"problem": PROBLEM, "paths": 2, "seed": 1, "max_tokens": 40}
    expected = [t.text for t in trueplex.solve(reference, PROBLEM, paths=2, seed=1, max_tokens=40).traces]
    monkeypatch.setattr(run, "read_answer", failing)
    with ThreadPoolExecutor(3) as threads:
        bad = threads.submit(served.post, "/v1/solve", {"problem": "bad", "paths": 2, "max_tokens": 60})
        streamed = threads.submit(served.post, "/v1/chat/completions", {"messages": [{"role": "user", "content": PROBLEM}], "stream": True,
                                  "seed": 1, "max_tokens": 40, "trueplex": {"paths": 1, "verifier": "none"}})  # fmt: skip
        whole = served.post("/v1/solve", good)
        assert bad.result().status_code == 500 and bad.result().json()["error"]["type"] == "server_error"
    assert [p["text"] for p in whole.json()["paths"]] == expected
    assert streamed.result().text.rstrip().endswith("[DONE]") and '"error"' not in streamed.result().text
    assert served.post("/v1/solve", good).status_code == 200


def test_many_clients_of_mixed_options_get_what_each_would_get_alone(served: Served, reference: Backbone) -> None:
    options = [{"paths": 2, "thinking": "discrete"}, {"paths": 3, "prune": "half:8", "probe_every": 8, "temperature": 2.0}, {"paths": 1, "temperature": 0.5},
               {"paths": 2, "verifier": "deepconf", "thinking": "soft"}, {"paths": 2, "probe_every": 5}, {"paths": 2, "width": 2}]  # fmt: skip
    bodies = [
        {"problem": text, "seed": n, "max_tokens": 40, **own}
        for n, (text, own) in enumerate(zip(TEXTS, options, strict=True))
    ]
    with ThreadPoolExecutor(12) as threads:
        answered = list(threads.map(lambda b: served.post("/v1/solve", b).json(), bodies * 2))
    for body, told in zip(bodies * 2, answered, strict=True):
        own = trueplex.solve(reference, body["problem"], **{k: v for k, v in body.items() if k != "problem"})
        assert [p["text"] for p in told["paths"]] == [t.text for t in own.traces]
        assert [p["score"] for p in told["paths"]] == pytest.approx([t.score for t in own.traces], abs=1e-4)
        assert told["answer"] == own.answer


def test_a_stream_that_tells_little_is_told_little() -> None:
    """Lines of status stand 32 tokens apart, and every token of every path was copied for them."""
    job = Job(Request(Problem(PROBLEM)), every=32)
    told = []
    for tokens in range(1, 100):
        if job.due(Trace(job.request.problem, 0, 0, tokens=tokens)):
            job.grown[0] = tokens
            told.append(tokens)
    assert told == [1, 32, 64, 96]


def test_scorers_of_different_cadence_may_read_by_one_probe(qwen: Backbone) -> None:
    """The later one's wishes replaced the earlier one's, whose paths then had no score."""
    torch.manual_seed(1)
    verifier = OneTokenVerifier(qwen, rank=4).eval().requires_grad_(False)
    settings = Settings(paths=2, verifier="v", thinking=Thinking("discrete", ending=Ending(21)))
    scheduler = Scheduler(qwen)
    for every in (6, 9):
        scheduler.submit(Request(Problem("What is 2 + 2?"), settings, OneTokenScorer(verifier, every)))
    solved = [e.solution for e in scheduler.events() if isinstance(e, Solved)]
    assert len(solved) == 2 and all(t.scores for s in solved for t in s.traces)


@pytest.mark.parametrize("stride", [1, 5])
def test_a_short_stride_changes_no_trace_and_no_look(qwen: Backbone, stride: int) -> None:
    torch.manual_seed(2)
    verifier = OneTokenVerifier(qwen, rank=4).eval().requires_grad_(False)
    settings = Settings(paths=6, verifier="v", prune="half:12", thinking=Thinking("multiplex", ending=Ending(40)))
    solutions = []
    for most in (None, stride):
        scheduler = Scheduler(qwen, stride=most)
        scheduler.submit(Request(Problem("What is 2 + 2?"), settings, OneTokenScorer(verifier, 6)))
        scheduler.submit(Request(Problem("Find it."), replace(settings, prune="none"), OneTokenScorer(verifier, 7)))
        solutions.append([e.solution for e in scheduler.events() if isinstance(e, Solved)])
    whole, short = ({s.problem.text: s for s in found} for found in solutions)
    for name, one in whole.items():
        for a, b in zip(one.traces, short[name].traces, strict=True):
            assert np.array_equal(a.steps.ids, b.steps.ids) and (a.status, a.tokens) == (b.status, b.tokens)
            assert [at for at, _ in a.scores] == [at for at, _ in b.scores]
            assert np.allclose([s for _, s in a.scores], [s for _, s in b.scores], atol=1e-4)


def test_options_that_nobody_follows_give_their_place_away(qwen: Backbone) -> None:
    """A server sees ever new options; what is kept of them may not grow with their number."""
    scheduler = Scheduler(qwen, rows=4)
    for number in range(12):
        settings = Settings(
            paths=2, verifier="none", thinking=Thinking("discrete", ending=Ending(4 + number, stop=(f"{number}",)))
        )
        scheduler.submit(Request(Problem("Find it."), settings))
    solved, groups = [], set[int]()
    for event in scheduler.events():
        solved += [event.solution] if isinstance(event, Solved) else []
        groups.add(len(scheduler.batch._sample._groups))
    assert len(solved) == 12 and len(scheduler.batch._sample.options) <= 4
    assert groups == {1}, "where they end has no part in how rows are drawn"
    for s in solved:
        assert all(t.tokens <= s.config["max_tokens"] for t in s.traces)


def test_too_many_are_told_to_come_back(closed: Served) -> None:
    body = {"problem": PROBLEM, "paths": 4, "max_tokens": 300, "temperature": 5, "thinking": "discrete"}
    headers = {"authorization": "Bearer first"}
    with ThreadPoolExecutor(6) as threads:
        answered = list(
            threads.map(
                lambda _: httpx.post(f"{closed.url}/v1/solve", json=body, headers=headers, timeout=60), range(6)
            )
        )
    refused = [a for a in answered if a.status_code != 200]
    assert refused and {a.status_code for a in refused} == {429}
    assert all(int(a.headers["retry-after"]) > 0 and a.json()["error"]["code"] == "queue_full" for a in refused)
    answers = {a.json()["answer"] for a in answered if a.status_code == 200}
    assert len(answers) == 1
