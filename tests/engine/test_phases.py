"""Law 12: where thinking opens and closes, by sequences of ids, whoever writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from conftest import grown, prompts_for
from trueplex.engine.grow import start
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.markers import Markers, completed
from trueplex.types import Prompt, Trace

MULTIPLEX = Thinking("multiplex", 3, ending=Ending(30))


def placed(backbone: Backbone, thinking: str) -> list[Prompt]:
    return [replace(prompt, thinking=thinking) for prompt in prompts_for(backbone)]


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Backbone]:
    """The model, as if other ids opened and closed its thinking."""

    def mark(backbone: Backbone, start: tuple[int, ...], end: tuple[int, ...]) -> Backbone:
        monkeypatch.setattr(backbone, "markers", Markers((start,), (end,)))
        return backbone

    return mark


def emitted(trace: Trace) -> list[int]:
    return trace.steps.ids[:, 0].tolist()


def one_hot(trace: Trace, since: int, until: int | None = None) -> bool:
    return bool((trace.steps.weights[since:until, 0] == 1).all())


def test_a_thought_that_the_prompt_closed_is_all_answer(qwen: Backbone) -> None:
    greedy = replace(MULTIPLEX, answer_sampling=Sampling(0))
    for trace in grown(qwen, placed(qwen, "closed"), 3, greedy):
        assert trace.thinking_tokens == 0 and trace.answer_tokens == trace.tokens and trace.closing == "prompt"
        assert one_hot(trace, 0)
    plain = grown(qwen, placed(qwen, "closed"), 3, Thinking("discrete", sampling=Sampling(0), ending=Ending(30)))
    texts = {t.problem.text: emitted(t) for t in plain}
    assert all(emitted(t) == texts[t.problem.text] for t in grown(qwen, placed(qwen, "closed"), 3, greedy))


def test_a_model_that_never_opens_its_thinking_is_answering(marked, qwen: Backbone) -> None:
    other = marked(qwen, (10**6,), (qwen.think_end,))  # an id that is never written
    for trace in grown(other, placed(other, "model"), 3, MULTIPLEX):
        assert trace.thinking_tokens == 0 and trace.closing == "" and one_hot(trace, 0)


def test_what_the_model_opens_itself_it_thinks_from_there(marked, qwen: Backbone) -> None:
    """The opener is a pair of ids that the answer phase is known to write; from then on steps merge."""
    greedy = replace(MULTIPLEX, answer_sampling=Sampling(0), sampling=Sampling(2.0))
    answers = {t.problem.text: emitted(t) for t in grown(qwen, placed(qwen, "closed"), 1, greedy)}
    for number, prompt in enumerate(placed(qwen, "model")):
        opener = tuple(answers[prompt.problem.text][2:4])
        other = marked(qwen, opener, (qwen.think_end,))
        at = next(i for i in range(2, 9) if tuple(answers[prompt.problem.text][i - 2 : i]) == opener)
        for trace in grown(other, [prompt], 4, greedy):
            assert one_hot(trace, 0, at), number
            until = trace.thinking_tokens - 1 if trace.closing else trace.tokens
            assert (trace.steps.weights[at:until] < 1).any(1).mean() > 0.8
            assert trace.thinking_tokens > at


@pytest.mark.parametrize("ids", [2, 3])
def test_a_marker_of_several_ids_closes_thinking_whole_and_not_in_part(marked, qwen: Backbone, ids: int) -> None:
    whole = grown(qwen, placed(qwen, "open"), 3, MULTIPLEX)
    trace = max(whole, key=lambda t: t.thinking_tokens)
    end = tuple(emitted(trace)[4 : 4 + ids])
    other = marked(qwen, (3,), end)
    prompt = next(p for p in placed(qwen, "open") if p.problem == trace.problem)
    (closed,) = (t for t in grown(other, [prompt], 3, MULTIPLEX) if t.index == trace.index)
    assert closed.closing == "model" and closed.thinking_tokens == 4 + ids
    assert emitted(closed)[: 4 + ids] == emitted(trace)[: 4 + ids]
    assert one_hot(closed, closed.thinking_tokens - 1)


@pytest.mark.parametrize("stride", [1, 7])
def test_a_budget_writes_a_marker_of_several_ids_as_the_last_of_the_thinking(
    marked, qwen: Backbone, stride: int
) -> None:
    end = (40, 41, 42)
    other = marked(qwen, (3,), end)
    thinking = replace(MULTIPLEX, ending=Ending(24, think_tokens=12))
    traces = grown(other, placed(other, "open"), 3, thinking, stride=stride)
    cut = [t for t in traces if t.closing == "thinking budget"]
    assert len(cut) > 4
    for trace in cut:
        assert trace.thinking_tokens == 12 and tuple(emitted(trace)[9:12]) == end and one_hot(trace, 9)


@pytest.mark.parametrize("tokens", [9, 10, 11, 12, 13])
def test_a_trace_that_is_suspended_within_a_marker_goes_on_writing_it(marked, qwen: Backbone, tokens: int) -> None:
    other = marked(qwen, (3,), (40, 41, 42))
    for ending in (Ending(24, think_tokens=12), Ending(24, cold_entropy=1e9, cold_steps=10)):
        thinking = replace(MULTIPLEX, ending=ending)
        whole = {(t.problem.text, t.index): t for t in grown(other, placed(other, "open"), 2, thinking)}
        batch, finished = start(other, placed(other, "open"), 2, thinking, seed=6), []
        batch.admit()
        finished += batch.advance(tokens)
        resumed = finished + batch.snapshot()
        for trace in finished + grown(other, placed(other, "open"), 2, thinking, resumed=resumed):
            one = whole[trace.problem.text, trace.index]
            assert emitted(trace) == emitted(one)
            assert (trace.closing, trace.thinking_tokens) == (one.closing, one.thinking_tokens)


def test_sequences_are_found_at_the_end_alone() -> None:
    recent = np.array([[-1, -1, 7], [5, 6, 7], [6, 7, 5], [-1, 6, 7]])
    assert completed(recent, ((6, 7),)).tolist() == [False, True, False, True]
    assert completed(recent, ((7,), (6, 7, 5))).tolist() == [True, True, True, True]
    assert not completed(recent, ()).any()
    assert Markers(((1, 2),), ((9,),)).opened([0, 1, 2, 3]) and not Markers(((1, 2),), ((9,),)).opened([1, 0, 2])
