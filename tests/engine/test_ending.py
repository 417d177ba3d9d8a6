"""Endings: budgets, cold stops, stop strings, limits; and traces that are laid aside and gone on with."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import SEED, grown, prompts_for, slow
from trueplex.engine.grow import start
from trueplex.engine.limits import Ending, StopStrings
from trueplex.engine.replay import replay
from trueplex.engine.sampling import Sampling
from trueplex.engine.slots import Slots
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.solving.loop import Solved, Stopped, stream
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Status, Trace

EVERY_MODE = [
    Thinking("discrete"), Thinking("multiplex", 3), Thinking("soft", 4), Thinking("stochastic-soft", 4),
    Thinking("stochastic-soft", 4, noise="dirichlet"),
]  # fmt: skip


def run(backbone: Backbone, thinking: Thinking, paths: int = 3, stride: int = 7) -> list[Trace]:
    return grown(backbone, prompts_for(backbone), paths, thinking, stride=stride)


def ended(mode: Thinking, ending: Ending, **changes: object) -> Thinking:
    return Thinking(mode.mode, mode.width, mode.merge, ending=ending, noise=mode.noise, **changes)


@pytest.mark.parametrize("mode", EVERY_MODE, ids=lambda t: f"{t.mode}-{t.noise_kind}")
def test_a_thinking_budget_closes_thinking_and_keeps_room_for_the_answer(qwen: Backbone, mode: Thinking) -> None:
    for trace in run(qwen, ended(mode, Ending(20, think_tokens=8))):
        assert trace.thinking_tokens <= 8
        if not trace.closing:  # the model ended the sequence while it thought
            assert trace.reason == "end of sequence"
            continue
        at = trace.thinking_tokens - 1
        assert trace.steps.ids[at, 0] == qwen.think_end and trace.steps.weights[at, 0] == 1
        assert (trace.steps.weights[at:, 0] == 1).all() and trace.steps.consensus[at:].all()
        assert trace.tokens <= 20 and trace.reason in ("token limit", "end of sequence")
    assert {t.closing for t in run(qwen, ended(mode, Ending(20, think_tokens=8)))} >= {"thinking budget"}


def test_a_forced_close_remembers_the_models_own_log_prob(qwen: Backbone) -> None:
    thinking = ended(EVERY_MODE[1], Ending(12, think_tokens=5), sampling=Sampling(0.8))
    prompts = {p.problem.text: p for p in prompts_for(qwen)}
    for trace in run(qwen, thinking):
        again = replay(qwen, prompts[trace.problem.text].ids, trace.steps, 0.8).cpu().numpy()
        kept = trace.steps.weights > 0
        assert np.abs(again - trace.steps.logps)[kept].max() < 2e-4


@given(st.integers(1, 60), st.integers(2, 80), st.lists(st.integers(2, 90), min_size=1, max_size=5))
def test_budgets_leave_an_answer_wherever_the_positions_end(think: int, most: int, room: list[int]) -> None:
    if think >= most:
        with pytest.raises(OptionError, match="leaves no answer"):
            Ending(most, think)
        return
    limits, budgets = Ending(most, think).limits(np.array(room), 4096)
    assert (limits <= most).all() and (limits <= np.array(room)).all()
    assert (budgets >= 1).all() and (budgets <= think).all()
    kept = np.minimum(most - think, limits - 1)
    assert (limits - budgets >= kept).all()


def plain_cold(entropy: list[float], threshold: float, length: int) -> int | None:
    """The published rule: a counter of consecutive low steps that a high one resets."""
    run = 0
    for at, value in enumerate(entropy):
        run = run + 1 if value < threshold else 0
        if run >= length:
            return at
    return None


@given(st.lists(st.floats(0, 2), min_size=1, max_size=30), st.floats(0.1, 2), st.integers(1, 6))
def test_cold_stop_is_the_published_counter(entropy: list[float], threshold: float, length: int) -> None:
    rules, slots, first = Ending(cold_entropy=threshold, cold_steps=length), Slots(None), None
    slots.reserve(1)
    slots.cold_entropy[0], slots.cold_steps[0] = threshold, rules.most_cold_steps
    for at, value in enumerate(entropy):
        assert slots.cold[0] == rules.cold_run(np.array(entropy[:at]))  # as a resumed trace counts it
        cold = slots.cool(np.array([value]))
        if cold[0] and first is None:
            first = at
    assert first == plain_cold(entropy, threshold, length)


def test_cold_stop_closes_thinking_where_the_entropy_stayed_low(qwen: Backbone) -> None:
    plain = run(qwen, Thinking("multiplex", 3, ending=Ending(40)))
    threshold = float(np.quantile(np.concatenate([t.steps.entropy for t in plain]), 0.7))
    cold = run(qwen, Thinking("multiplex", 3, ending=Ending(40, cold_entropy=threshold, cold_steps=3)))
    stopped = [t for t in cold if t.closing == "cold stop"]
    assert stopped
    for trace in stopped:
        assert plain_cold(trace.steps.entropy.tolist(), threshold, 3) == trace.thinking_tokens - 1
        before = next(t for t in plain if (t.problem, t.index) == (trace.problem, trace.index))
        assert np.array_equal(
            before.steps.ids[: trace.thinking_tokens - 1], trace.steps.ids[: trace.thinking_tokens - 1]
        )


def test_stop_strings_span_tokens(qwen: Backbone) -> None:
    """For every way in which a text that was really written can be cut out of it."""
    plain = run(qwen, Thinking("discrete", ending=Ending(30)), paths=2)
    text = qwen.decode(plain[0].steps.ids[:, 0].tolist())
    found = 0
    for first in range(0, 24, 3):
        wanted = text[first : first + 4]
        if "\ufffd" in wanted or not wanted.isascii():
            continue
        traces = run(qwen, Thinking("discrete", ending=Ending(30, stop=(wanted,))), paths=2)
        for trace, whole in zip(traces, plain, strict=False):
            whole = next(t for t in plain if (t.problem, t.index) == (trace.problem, trace.index))
            ids = whole.steps.ids[:, 0].tolist()
            ends = [n for n in range(1, len(ids) + 1) if wanted in qwen.decode(ids[:n])]
            expected = (ends[0], "stop string", Status.FINISHED) if ends else (whole.tokens, whole.reason, whole.status)
            if ends and (whole.tokens, whole.reason) == (ends[0], "end of sequence"):  # the model ended it there itself
                expected = (ends[0], "end of sequence", Status.FINISHED)
            assert (trace.tokens, trace.reason, trace.status) == expected
            found += bool(ends)
    assert found >= 4


def test_stop_strings_look_no_further_than_they_must(qwen: Backbone) -> None:
    stops = StopStrings(qwen.tokenizer, ("ab", "é"))
    assert stops.reach == 2
    ids = qwen.tokenizer("xab", add_special_tokens=False)["input_ids"][-2:]
    nothing = torch.tensor([[-1, -1], [-1, ids[-1]]])
    assert not stops.ended(nothing).any()


def test_a_time_limit_stops_a_trace_and_says_so(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("trueplex.clock._clock", [lambda: float(next(clock))])
    traces = run(qwen, Thinking("discrete", ending=Ending(40, max_seconds=15)))
    late = [t for t in traces if t.reason == "time limit"]
    assert late and all(t.status is Status.TRUNCATED and t.tokens < 40 for t in late)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ending(0), "max-tokens is 0"),
        (lambda: Ending(think_tokens=-1), "think-tokens is -1"),
        (lambda: Ending(10, 10), "leaves no answer"),
        (lambda: Ending(cold_steps=3), "without a cold-entropy"),
        (lambda: Ending(cold_entropy=0.0), "cold-entropy is 0"),
        (lambda: Ending(stop=("",)), "stop string is empty"),
        (lambda: Ending(max_seconds=float("nan")), "max-seconds is nan"),
    ],
)
def test_endings_that_cannot_act_are_refused(make, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        make()


def test_a_model_without_think_end_cannot_be_closed(qwen: Backbone) -> None:
    other = copy.copy(qwen)
    other.think_end = other.markers = None
    for thinking in (Thinking(ending=Ending(9, think_tokens=3)), Thinking(answer_sampling=Sampling(0.5))):
        with pytest.raises(OptionError, match="nothing that closes its thinking"):
            start(other, prompts_for(qwen), 1, thinking)
    with pytest.raises(OptionError, match="within the model's 40 tokens"):
        start(qwen, prompts_for(qwen), 1, Thinking(ending=Ending(think_tokens=50)))


# -- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode",
    [*EVERY_MODE[:2], *slow(EVERY_MODE[2:])],
    ids=lambda t: f"{t.mode}-{t.noise_kind}",
)
def test_a_trace_that_was_laid_aside_goes_on_as_if_never_stopped(backbone: Backbone, mode: Thinking) -> None:
    thinking = ended(mode, Ending(30, think_tokens=16))
    whole = {(t.problem.text, t.index): t for t in run(backbone, thinking)}
    for strides in (1, 3):  # while all think, and when some answer
        batch, finished = start(backbone, prompts_for(backbone), 3, thinking, seed=SEED), []
        for _ in range(strides):
            batch.admit()
            finished += batch.advance(7)
        suspended = batch.snapshot()
        assert suspended and all(len(t.steps) == t.tokens and t.status is Status.RUNNING for t in suspended)
        traces = finished + grown(backbone, prompts_for(backbone), 3, thinking, resumed=finished + suspended)
        assert len(traces) == 9
        pairs = [(trace, whole[trace.problem.text, trace.index]) for trace in traces]
        apart = [
            parting(trace, other) for trace, other in pairs if not np.array_equal(trace.steps.ids, other.steps.ids)
        ]
        assert len(apart) <= (
            mode.noise is not None
        )  # Dirichlet noise makes more of rounding, which another batch changes
        for trace, other in pairs:
            if not np.array_equal(trace.steps.ids, other.steps.ids):
                continue
            assert np.allclose(trace.steps.weights, other.steps.weights, atol=1e-3)
            assert (trace.tokens, trace.thinking_tokens, trace.closing, trace.reason) == (
                other.tokens, other.thinking_tokens, other.closing, other.reason,
            )  # fmt: skip


def parting(one: Trace, other: Trace) -> int:
    """The step at which two traces part, before which they are alike."""
    at = int((one.steps.ids != other.steps.ids[: len(one.steps)]).any(1).argmax())
    assert at > 0 and np.allclose(one.steps.weights[:at], other.steps.weights[:at], atol=1e-3)
    return at


def test_an_interrupt_at_any_forward_pass_can_be_gone_on_from(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [p.problem for p in prompts_for(qwen)]
    settings = Settings(paths=3, thinking=Thinking(ending=Ending(70)), verifier="none")
    whole = {(t.problem.text, t.index): t for t in _stopped(stream(qwen, problems, settings))}
    forward, calls = type(qwen).decode_pass, 0

    for cut in (2, 9, 40, 55):  # in the first stride of 32 tokens, and within the second
        calls = 0

        def interrupted(self: Backbone, *arguments: object, cut: int = cut, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == cut:
                raise KeyboardInterrupt
            return forward(self, *arguments, **named)

        monkeypatch.setattr(type(qwen), "decode_pass", interrupted)
        events, kept = stream(qwen, problems, settings), []
        with pytest.raises(KeyboardInterrupt):
            for event in events:
                if isinstance(event, Stopped):
                    kept.append(event.trace)
        monkeypatch.undo()
        kept += events.unfinished()
        last = list(stream(qwen, problems, settings, resumed=kept))
        traces = [t for e in last if isinstance(e, Solved) for t in e.solution.traces]
        assert len(traces) == 9 and len([e for e in last if isinstance(e, Solved)]) == 3
        for trace in traces:
            assert trace.steps.ids.tolist() == whole[trace.problem.text, trace.index].steps.ids.tolist()
            assert trace.answer == whole[trace.problem.text, trace.index].answer


def _stopped(events) -> list[Trace]:
    return [e.trace for e in events if isinstance(e, Stopped)]


def test_a_run_of_low_entropy_goes_on_across_the_break(qwen: Backbone) -> None:
    ending = Ending(40, cold_entropy=1e9, cold_steps=9)  # every step is cold: the ninth closes
    batch = start(qwen, prompts_for(qwen), 2, Thinking(ending=ending), seed=SEED)
    batch.admit()
    batch.advance(5)
    again = grown(qwen, prompts_for(qwen), 2, Thinking(ending=ending), stride=5, resumed=batch.snapshot())
    assert {t.thinking_tokens for t in again if t.closing == "cold stop"} == {9}


def test_traces_of_other_options_are_not_gone_on_with(qwen: Backbone) -> None:
    prompts = prompts_for(qwen)[:1]
    batch = start(qwen, prompts, 2, Thinking("multiplex", 3, ending=Ending(20)))
    batch.admit()
    batch.advance(4)
    suspended = batch.snapshot()
    for other in (
        {"paths": 2, "thinking": Thinking("multiplex", 2)},
        {"paths": 1, "thinking": Thinking()},
        {"paths": 2, "thinking": Thinking(), "seed": 3},
    ):
        with pytest.raises(OptionError, match="resume with the options"):
            start(qwen, prompts, resumed=suspended, **other)


def test_a_trace_that_is_stopped_is_counted_not_grown(qwen: Backbone) -> None:
    problem, settings = Problem("Hi"), Settings(paths=3, thinking=Thinking(ending=Ending(9)), verifier="none")
    first = _stopped(stream(qwen, [problem], settings))
    events = list(stream(qwen, [problem], settings, resumed=first))
    assert len(events) == 1 and events[0].solution.usage.thinking_tokens == sum(t.thinking_tokens for t in first)
