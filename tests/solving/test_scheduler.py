"""Requests of unlike options in one batch: each gets what it would get alone (laws 4 and 14), and what it asked for alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from trueplex.decide.budget import Budget
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.solving.events import Advanced, Event, Solved, Stopped
from trueplex.solving.request import Account, Request
from trueplex.solving.run import Run
from trueplex.solving.scheduler import Scheduler
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Solution, Status, Trace
from trueplex.verify.confidence import Confidence, ConfidenceScorer
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer

SCORE_ERROR = 1e-4
SHORT = Ending(36, think_tokens=20)


def verifier_of(backbone: Backbone, seed: int) -> OneTokenVerifier:
    torch.manual_seed(seed)
    verifier = OneTokenVerifier(backbone, rank=4)
    with torch.no_grad():
        for parameter in verifier.parameters():
            parameter.normal_(0, 0.1)
    return verifier.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def requests(backbones) -> list[Request]:
    """Every thinking mode, several widths, phases, limits, cadences, policies and scorers, two verifiers among them."""
    qwen = backbones("qwen3")
    one, two = (OneTokenScorer(verifier_of(qwen, seed), every) for seed, every in ((1, 6), (2, 9)))
    tail = ConfidenceScorer(Confidence("deepconf", "tail", 8), 5)
    half = Settings(paths=6, verifier="v", prune="half:12", seed=4)
    return [
        Request(Problem("What is 2 + 2?"), replace(half, thinking=Thinking("multiplex", 3, ending=SHORT)), one),
        Request(Problem("Find it."), replace(half, prune="none", thinking=Thinking("discrete", ending=Ending(31))), two),
        Request(Problem("Find it."), Settings(paths=3, verifier="none", thinking=Thinking("soft", 5, ending=SHORT))),
        Request(Problem("Count to ten, please."), Settings(paths=5, verifier="deepconf", prune="drop:1@10", probe_every=5,
                thinking=Thinking("stochastic-soft", 4, sampling=Sampling(0.8), ending=Ending(33, cold_entropy=4.0, cold_steps=5)))
                , tail),
        Request(Problem("Hi"), Settings(paths=4, verifier="none", select="majority",
                thinking=Thinking("multiplex", 2, "mean", Sampling(1.3, 0.9), Sampling(0), Ending(29, stop=("e",))))),
        Request(Problem("What is 2 + 2?"), replace(half, seed=9, thinking=Thinking("multiplex", 6, ending=Ending(25))), one),
    ]  # fmt: skip


def run(scheduler: Scheduler, late: dict[int, Request] | None = None) -> dict[int, Solution]:
    """Solutions by request id; the late requests are submitted at those turns."""
    solved, turn = {}, 0
    while scheduler:
        for event in scheduler.step():
            if isinstance(event, Solved):
                solved[event.request] = event.solution
        turn += 1
        if late and turn in late:
            scheduler.submit(late.pop(turn))
    assert not late
    return solved


def alone(backbone: Backbone, request: Request) -> Solution:
    scheduler = Scheduler(backbone)
    scheduler.submit(request)
    return run(scheduler)[0]


def assert_same(a: Solution, b: Solution) -> None:
    assert (
        a.answer == b.answer
        and [v.answer for v in a.votes] == [v.answer for v in b.votes]
        and len(a.traces) == len(b.traces)
    )
    for one, two in zip(a.traces, b.traces, strict=True):
        assert np.array_equal(one.steps.ids, two.steps.ids)
        assert np.allclose(one.steps.weights, two.steps.weights, atol=1e-3)
        for name in ("index", "status", "reason", "closing", "tokens", "thinking_tokens", "probe_tokens", "text"):
            assert getattr(one, name) == getattr(two, name), name
        assert [at for at, _ in one.scores] == [at for at, _ in two.scores]
        assert np.allclose([s for _, s in one.scores], [s for _, s in two.scores], atol=SCORE_ERROR, rtol=SCORE_ERROR)
    assert a.usage == b.usage


@pytest.mark.parametrize("order", [1, -1])
def test_law_4_unlike_requests_in_one_batch_get_what_they_get_alone(
    qwen: Backbone, requests: list[Request], order: int
) -> None:
    chosen = requests[::order]
    scheduler = Scheduler(qwen)
    assert [scheduler.submit(request) for request in chosen] == list(range(len(chosen)))
    together = run(scheduler)
    for number, request in enumerate(chosen):
        assert_same(together[number], alone(qwen, request))


def test_law_4_a_request_that_comes_later_changes_nothing_and_gets_the_same(
    qwen: Backbone, requests: list[Request]
) -> None:
    scheduler = Scheduler(qwen, rows=12)  # some have to wait for rows
    for request in requests[:3]:
        scheduler.submit(request)
    solved = run(scheduler, {1: requests[3], 2: requests[4], 3: requests[5]})
    for number, request in enumerate(requests):
        assert_same(solved[number], alone(qwen, request))


def test_a_cancelled_request_frees_its_rows_at_once_and_leaves_the_others_alone(
    qwen: Backbone, requests: list[Request]
) -> None:
    scheduler = Scheduler(qwen)
    for request in requests:
        scheduler.submit(request)
    scheduler.step()
    running = len(scheduler.batch.traces)
    gone = scheduler.cancel(1)
    assert len(gone) == 6 and {t.reason for t in gone if t.status is Status.TRUNCATED} <= {"cancelled", "token limit"}
    assert len(scheduler.batch.traces) == running - 6 and 1 not in {t.request for t in scheduler.batch.traces}
    assert scheduler.cancel(1) == [] and scheduler.cancel(99) == []
    solved = run(scheduler)
    assert set(solved) == {0, 2, 3, 4, 5}
    assert_same(solved[5], alone(qwen, requests[5]))


def test_a_request_that_waits_can_be_cancelled(qwen: Backbone, requests: list[Request]) -> None:
    scheduler = Scheduler(qwen, rows=6)
    scheduler.submit(requests[0])
    scheduler.submit(requests[1])
    scheduler.step()
    scheduler.cancel(1)
    never = scheduler.submit(requests[2])
    scheduler.cancel(never)  # before its first step
    assert set(run(scheduler)) == {0}


def test_budgets_belong_to_accounts(qwen: Backbone, requests: list[Request]) -> None:
    """One that runs out of tokens is voted on as it stands; another in the same batch goes on to its end."""
    poor = replace(requests[1], account=Account(Budget(tokens=70)))
    scheduler = Scheduler(qwen)
    scheduler.submit(poor)
    scheduler.submit(requests[2])
    solved = run(scheduler)
    usage = solved[0].usage
    assert usage.thinking_tokens + usage.answer_tokens + usage.probe_tokens <= 70
    assert {t.reason for t in solved[0].traces} == {"token budget"}
    assert_same(solved[1], alone(qwen, requests[2]))
    assert_same(solved[0], alone(qwen, replace(poor, account=Account(Budget(tokens=70)))))


def test_every_trace_is_told_once_and_running_ones_while_they_run(qwen: Backbone, requests: list[Request]) -> None:
    scheduler, events = Scheduler(qwen), list[Event]()
    for request in requests:
        scheduler.submit(request)
    while scheduler:
        events += scheduler.step()
    stopped = [(e.trace.request, e.trace.index) for e in events if isinstance(e, Stopped)]
    assert len(stopped) == len(set(stopped)) == sum(int(r.settings.paths) for r in requests)
    assert any(isinstance(e, Advanced) and len({t.request for t in e.traces}) == len(requests) for e in events)


def test_an_interrupt_loses_no_event_that_came_before_it(qwen: Backbone, requests: list[Request], monkeypatch) -> None:
    """Traces that stop in one step are told one by one: what breaks off behind the first has told the first."""
    stop, told = Run.stop, []

    def breaking(self: Run, trace: Trace) -> None:
        if len(told) == 2:
            raise KeyboardInterrupt
        stop(self, trace)

    monkeypatch.setattr(Run, "stop", breaking)
    scheduler = Scheduler(qwen)
    scheduler.submit(
        replace(requests[2], settings=replace(requests[2].settings, thinking=Thinking("discrete", ending=Ending(8))))
    )
    with pytest.raises(KeyboardInterrupt):
        for event in scheduler.events():
            if isinstance(event, Stopped):
                told.append(event)
    assert len(told) == 2


def test_what_a_request_cannot_have_is_refused_when_it_is_submitted(qwen: Backbone, requests: list[Request]) -> None:
    scheduler = Scheduler(qwen)
    for wrong, says in (
        (Settings(prune="half:4"), "need a scorer"),
        (Settings(thinking=Thinking(ending=Ending(think_tokens=50))), "within the model's 40 tokens"),
        (Settings(max_error=0.1), "needs a calibration"),
        (Settings(rows=4), "a scheduler's"),
    ):
        with pytest.raises(OptionError, match=says):
            scheduler.submit(Request(Problem("Hi"), wrong))
    assert not scheduler and scheduler.submit(requests[2]) == 0  # a refused request takes no number
    assert math.isinf(Account(Budget()).paths)
