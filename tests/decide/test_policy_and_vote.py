"""Decisions over plain numbers: which traces are pruned, which answer wins, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trueplex.decide import voting
from trueplex.decide.pruning import parse
from trueplex.decide.rules import Standing
from trueplex.errors import OptionError
from trueplex.types import Problem, Status, Trace

scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def running(values: list[float], tokens: int, problem: str = "p") -> list[Trace]:
    return [Trace(Problem(problem), i, 0, tokens=tokens, scores=[(tokens, s)]) for i, s in enumerate(values)]


def look(text: str, live: list[Trace], stopped: list[Trace] | tuple[()] = ()) -> list[Trace]:
    return [stop.trace for stop in parse(text)(Standing(live, stopped))]


def stopped(answers: list[tuple[str | None, float]], status: Status = Status.FINISHED) -> list[Trace]:
    return [Trace(Problem("p"), i, 0, status, scores=[(1, s)], answer=a) for i, (a, s) in enumerate(answers)]


@given(scores)
def test_half_prunes_the_lower_half_when_due_and_only_then(values: list[float]) -> None:
    policy = parse("half:32")
    assert policy.stride == 32
    assert look("half:32", running(values, 31)) == [] and look("half:32", running(values, 0)) == []
    traces = running(values, 64)
    stops = policy(Standing(traces))
    assert len(stops) == len(values) // 2 and {stop.reason for stop in stops} <= {"half:32"}
    assert {(s.status, s.reason) for s in stops} <= {(Status.PRUNED, "half:32")}
    assert all(t.status is Status.RUNNING and not t.reason for t in traces), "a decision changes no trace"
    pruned = [s.trace for s in stops]
    kept = [t for t in traces if t not in pruned]
    if pruned:
        assert min(t.score for t in kept) >= max(t.score for t in pruned)


@given(scores, st.floats(0.05, 0.95), st.integers(1, 50))
def test_every_rule_leaves_one(values: list[float], share: float, n: int) -> None:
    for text in (
        f"keep:{share}@10",
        f"drop:{n}@10",
        "stop:10",
        f"keep-top:{min(n, 3)}@10",
        "floor:1.0",
        f"half:10+drop:{n}@10+floor:0.9",
    ):
        assert len(look(text, running(values, 10))) < len(values), text
    for text in ("half:10/3", "keep:0.1@10/3", "drop:9@10/3", "keep-top:3@10"):
        kept = len(values) - len(look(text, running(values, 10)))
        assert kept >= min(3, len(values))


def test_rules_as_stated() -> None:
    values = [0.9, 0.1, 0.5, 0.7]
    gone = lambda text, tokens=40: sorted(t.index for t in look(text, running(values, tokens)))  # noqa: E731
    assert gone("keep:0.75@20") == [1]
    assert gone("drop:3@40") == [1, 2, 3]
    assert gone("stop:40") == [1, 2, 3] and gone("stop:20") == []
    assert gone("keep-top:3@40") == [1] and gone("keep-top:3@20") == gone("keep-top:4@40") == []
    assert parse("keep-top:3@40").stride == 40
    assert gone("floor:0.6", 7) == [1, 2]
    assert gone("half:40+floor:0.8") == [1, 2, 3]
    assert parse("half:300+keep:0.5@200").stride == 100
    assert parse("none").stride == 0 and look("none", running(values, 32)) == []


def test_ties_go_by_index_not_by_luck() -> None:
    assert [t.index for t in look("half:8", running([0.5] * 4, 8)[::-1])] == [2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "half",
        "half:0",
        "half:x",
        "keep:2@3",
        "keep:0.5",
        "drop:1",
        "floor:-1",
        "floor:nan",
        "best:3",
        "",
        "half:3+",
        "none+half:3",
        "half:3/0",
        "deepconf",
        "deepconf:mid",
        "deepconf:low@0",
        "deepconf:low@3/x",
        "consensus:0.4",
        "consensus:2",
        "keep-top",
        "keep-top:8",
        "keep-top:0@8",
        "keep-top:8@x",
        "retain:64",
        "retain:64@64",
        "none+auto",
        "auto:16",
    ],
)
def test_malformed_pruning_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(OptionError, match="half:EVERY"):
        parse(text)


@pytest.mark.parametrize("score", [None, float("nan")])
def test_pruning_needs_a_score_for_every_trace(score: float | None) -> None:
    traces = running([0.5, 0.6], 8)
    traces[1].scores = [] if score is None else [(8, score)]
    with pytest.raises(OptionError, match="trace 1 has score"):
        look("half:8", traces)


def test_votes_group_by_value_and_weigh_by_score() -> None:
    traces = stopped([("7", 0.1), ("07", 0.1), ("8", 0.9), (None, 1.0), ("7.0", 0.1)])
    assert [(v.answer, v.paths) for v in voting.majority(traces)] == [("7", 3), ("8", 1)]
    assert [v.answer for v in voting.weighted(traces)] == ["8", "7"]
    assert voting.weighted(traces)[1].weight == pytest.approx(0.3)
    assert voting.best(traces)[0].answer == "8"


def test_pruned_and_truncated_traces_do_not_vote() -> None:
    traces = stopped([("7", 0.9)]) + stopped([("8", 0.9)], Status.PRUNED) + stopped([("8", 0.9)], Status.TRUNCATED)
    assert [v.answer for v in voting.majority(traces)] == ["7"]
    assert voting.majority([]) == []


def test_ties_are_won_by_paths_then_by_the_first_path() -> None:
    assert [v.answer for v in voting.majority(stopped([("2", 0.5), ("1", 0.5)]))] == ["2", "1"]
    assert [v.answer for v in voting.weighted(stopped([("1", 0.5), ("2", 0.25), ("2", 0.25)]))] == ["2", "1"]


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3"]), st.floats(0.01, 1)), min_size=1, max_size=30))
def test_equal_scores_make_every_weighted_vote_a_majority(pairs: list[tuple[str, float]]) -> None:
    traces = stopped([(a, 0.5) for a, _ in pairs])
    assert [v.answer for v in voting.weighted(traces)] == [v.answer for v in voting.majority(traces)]
    top = max(pairs, key=lambda p: p[1])[1]
    chosen = voting.best(stopped(pairs))[0]
    assert chosen.weight == top and any(a == chosen.answer and s == top for a, s in pairs)


def test_a_vote_by_score_without_scores_is_refused() -> None:
    with pytest.raises(OptionError, match="has score None"):
        voting.weighted([Trace(Problem("p"), 0, 0, Status.FINISHED, answer="1")])
    with pytest.raises(OptionError, match="unknown selector"):
        voting.selector("luck")
