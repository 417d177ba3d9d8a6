"""Scores without training: the published definitions, live and stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import grown, prompts_for
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.solving.loop import Solved, stream
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Steps
from trueplex.verify.confidence import Confidence, ConfidenceScorer, parse

NAMES = ["deepconf:mean", "deepconf:tail@5", "deepconf:bottom@3", "deepconf:lowest@4", "logprob", "entropy"]
values = st.lists(st.floats(0, 30, width=32), min_size=1, max_size=60)


def steps_of(confidence: list[float]) -> Steps:
    n = len(confidence)
    arrays = (
        np.zeros((n, 2), dtype=np.int32),
        np.ones((n, 2), dtype=np.float32),
        np.full((n, 2), -0.5, dtype=np.float32),
    )
    return Steps(*arrays, np.full(n, 0.25, dtype=np.float32), np.array(confidence, dtype=np.float32))


def plain(confidence: list[float], kind: str, window: int) -> float:
    """As the paper words it, one group at a time."""
    if kind == "mean":
        return float(np.mean(confidence))
    if kind == "tail":
        return float(np.mean(confidence[-window:]))
    ends = range(window, len(confidence) + 1)
    found = sorted(float(np.mean(confidence[end - window : end])) for end in ends) or [float(np.mean(confidence))]
    return found[0] if kind == "lowest" else float(np.mean(found[: max(1, len(found) // 10)]))


@given(values, st.sampled_from(["mean", "tail", "bottom", "lowest"]), st.integers(1, 70), st.integers(1, 60))
def test_deepconf_is_the_published_definition(confidence: list[float], kind: str, window: int, tokens: int) -> None:
    score = Confidence("deepconf", kind, window)
    assert score(steps_of(confidence)) == pytest.approx(plain(confidence, kind, window), abs=1e-4)
    begun = confidence[:tokens]
    assert score(steps_of(confidence), tokens) == pytest.approx(plain(begun, kind, window), abs=1e-4)


def test_log_prob_and_entropy_are_between_0_and_1() -> None:
    assert Confidence("logprob")(steps_of([1, 2])) == pytest.approx(np.exp(-0.5))
    assert Confidence("entropy")(steps_of([1, 2])) == pytest.approx(np.exp(-0.25))


@pytest.mark.parametrize("name", NAMES)
def test_live_scores_are_those_of_the_stored_trace(qwen: Backbone, name: str) -> None:
    score = parse(name)
    scorer = ConfidenceScorer(score, 7)
    traces = grown(qwen, prompts_for(qwen), 3, Thinking(ending=Ending(30)), scorer=scorer)
    assert all(t.scores for t in traces)
    for trace in traces:
        for tokens, value in trace.scores:
            assert value == pytest.approx(score(trace.steps, tokens), rel=1e-6)
        assert trace.scores[-1][0] == trace.tokens and trace.probe_tokens == 0


def test_confidence_prunes_and_votes_without_a_verifier(qwen: Backbone) -> None:
    settings = Settings(
        paths=8, thinking=Thinking(ending=Ending(40)), verifier="deepconf:tail@8", prune="half:8", probe_every=8
    )
    scorer, settings = choose_scorer(qwen, settings)
    (solution,) = [e.solution for e in stream(qwen, [Problem("Hi")], settings, scorer) if isinstance(e, Solved)]
    assert sum(t.status.value == "pruned" for t in solution.traces) >= 5 and solution.usage.probe_tokens == 0


def test_spelling() -> None:
    assert parse("deepconf") == Confidence("deepconf", "tail", 2048)
    assert parse("deepconf:bottom@16") == Confidence("deepconf", "bottom", 16)
    assert parse("some/folder") is None and parse("auto") is None
    for text in (
        "deepconf:best",
        "deepconf:tail@",
        "deepconf:tail@x",
        "deepconf:tail@0",
        "deepconf:mean@5",
        "logprob:3",
    ):
        with pytest.raises(OptionError, match="Try:"):
            parse(text)
