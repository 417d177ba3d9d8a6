"""Laws of policies, votes and adaptive sampling over many cases: order never matters, ties go by index, one trace is left."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_policy_and_vote import running

from trueplex.decide import adaptive, alarms, voting
from trueplex.decide.pruning import parse
from trueplex.decide.retention import retained, share_for
from trueplex.decide.rules import Standing
from trueplex.decide.simulate import simulate, spent
from trueplex.types import Problem, Status, Trace

SELECTORS = ("majority", "weighted", "weighted:2", "weighted:odds", "best", "top:0.3")
SPARING = (
    "half:8",
    "half:8/3",
    "keep:0.3@8",
    "drop:5@8",
    "stop:8",
    "keep-top:3@8",
    "retain:9000@8",
    "floor:0.9",
    "half:8+keep-top:2@8+floor:1.0",
)
ENDING = ("consensus:0.5", "consensus:0.8+half:8", "deepconf:low@8/3", "deepconf:high@4/2+floor:0.5")
# Few different scores, so that ties are common; and any score at all.
one_score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
many_scores = st.lists(one_score, min_size=1, max_size=24)
pairs = st.lists(st.tuples(st.sampled_from(["1", "2", "3", None]), one_score), max_size=24)


def stopped_after(found: list[tuple[str | None, float]], first: int = 0) -> list[Trace]:
    return [
        Trace(Problem("p"), first + i, 0, Status.FINISHED, tokens=8, scores=[(4, s), (8, s)], answer=a)
        for i, (a, s) in enumerate(found)
    ]


def shuffled(traces: list[Trace], seed: int) -> list[Trace]:
    return random.Random(seed).sample(traces, len(traces))


@given(st.sampled_from(SPARING + ENDING), many_scores, pairs, st.integers(0, 999))
def test_the_order_of_traces_never_matters_to_a_policy(rule: str, values: list[float], done: list, seed: int) -> None:
    stopped = stopped_after(done)
    live = running(values, 8)
    for trace in live:
        trace.index += len(stopped)
    asked = [(live, stopped), (shuffled(live, seed), shuffled(stopped, seed + 1))]
    found = [{(s.trace.index, s.status, s.reason) for s in parse(rule)(Standing(*each))} for each in asked]
    assert found[0] == found[1]


@given(pairs, st.sampled_from(SELECTORS), st.integers(0, 999))
def test_the_order_of_traces_never_matters_to_a_vote(done: list, name: str, seed: int) -> None:
    traces = stopped_after(done)
    assert voting.selector(name)(traces) == voting.selector(name)(shuffled(traces, seed))
    assert adaptive.sure(traces) == adaptive.sure(shuffled(traces, seed))
    assert adaptive.parse("auto:40").more(traces) == adaptive.parse("auto:40").more(shuffled(traces, seed))


@given(st.sampled_from(SPARING), many_scores, pairs)
def test_every_rule_but_consensus_and_deepconf_leaves_a_live_trace(rule: str, values: list[float], done: list) -> None:
    live = running(values, 8)
    stops = parse(rule)(Standing(live, stopped_after(done, len(live))))
    assert len(stops) < len(live) and len({s.trace.index for s in stops}) == len(stops)
    best = min(live, key=lambda t: (-(t.score or 0), t.index))
    assert best not in [s.trace for s in stops], "the best trace, of equal ones the first, is always left"


@given(st.sampled_from(("half:8", "keep:0.3@8", "drop:5@8", "stop:8", "keep-top:3@8", "floor:0.9")), many_scores)
def test_what_is_pruned_never_scores_above_what_is_kept_and_ties_go_by_index(rule: str, values: list[float]) -> None:
    live = running(values, 8)
    pruned = [s.trace for s in parse(rule)(Standing(live))]
    kept = [t for t in live if t not in pruned]
    assert all((-(k.score or 0), k.index) < (-(p.score or 0), p.index) for k in kept for p in pruned)


@given(st.integers(1, 12), many_scores, st.sampled_from([7, 8, 9]))
def test_keep_top_keeps_so_many_once(number: int, values: list[float], tokens: int) -> None:
    stops = parse(f"keep-top:{number}@8")(Standing(running(values, tokens)))
    assert len(stops) == (max(0, len(values) - number) if tokens == 8 else 0)
    if number == 1:
        same = parse("stop:8")(Standing(running(values, tokens)))
        assert [s.trace.index for s in stops] == [s.trace.index for s in same]


@given(pairs, many_scores)
def test_consensus_stops_all_or_none(done: list, values: list[float]) -> None:
    live = running(values, 8)
    stops = parse("consensus:0.6")(Standing(live, stopped_after(done, len(live))))
    assert len(stops) in (0, len(live))
    assert not stops or any(a is not None for a, _ in done), "without an answer there is no consensus"


@given(pairs, pairs)
def test_a_vote_counts_every_candidate_once_and_ties_go_by_paths_then_index(done: list, pruned: list) -> None:
    traces = stopped_after(done)
    others = stopped_after(pruned, len(traces))
    for trace in others:
        trace.status = Status.PRUNED
    for name in ("majority", "weighted", "best"):
        votes = voting.selector(name)([*traces, *others])
        assert sum(v.paths for v in votes) == sum(a is not None for a, _ in done)
        first = {a: i for i, (a, _) in reversed(list(enumerate(done)))}
        order = [(-v.weight, -v.paths, first[v.answer]) for v in votes]
        assert order == sorted(order)


@given(pairs, st.integers(9, 200))
def test_adaptive_sampling_doubles_and_never_passes_its_limit(done: list, limit: int) -> None:
    asked = adaptive.parse(f"auto:{limit}")
    more = asked.more(stopped_after(done))
    assert 0 <= more <= max(0, limit - len(done)) and more in (0, len(done), limit - len(done))
    assert 0 <= adaptive.sure(stopped_after(done)) <= 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 5))
def test_a_larger_lead_is_never_less_sure(leader: int, other: int, more: int) -> None:
    done = [*[("1", 1.0)] * leader, *[("2", 1.0)] * min(leader, other)]
    wider = [*done, *[("1", 1.0)] * more]
    assert adaptive.sure(stopped_after(wider)) >= adaptive.sure(stopped_after(done)) - 1e-12


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3"]), st.lists(one_score, min_size=1, max_size=6)), min_size=16, max_size=16),
       st.sampled_from(("none", "half:4/4", "keep-top:3@8", "keep:0.5@4+consensus:0.7", "deepconf:low@4/4", "drop:1@8")),
       st.integers(0, 999))  # fmt: skip
def test_a_simulation_spends_no_more_and_does_not_depend_on_order(grown: list, rule: str, seed: int) -> None:
    whole = [Trace(Problem("p"), i, 0, Status.FINISHED, tokens=4 * len(s), thinking_tokens=4 * len(s), answer=a,
                   scores=[(4 * (n + 1), x) for n, x in enumerate(s)]) for i, (a, s) in enumerate(grown)]  # fmt: skip
    policy = parse(rule)
    schedule = adaptive.schedule_of(16, policy)
    left = simulate(whole, policy, schedule, 4)
    again = simulate(shuffled(whole, seed), parse(rule), schedule, 4)
    seen = [[(t.index, t.status, t.tokens, t.reason) for t in traces] for traces in (left, again)]
    assert seen[0] == seen[1] and spent(left) <= spent(whole)
    for trace in left:
        assert trace.reason in (rule.split("+") if trace.status is Status.PRUNED else [""])
    assert all(t.status is Status.FINISHED and not t.reason for t in whole), "stored traces stay as they are"
    if "deepconf" not in rule and "consensus" not in rule:
        assert any(t.status is Status.FINISHED for t in left)


@given(st.sampled_from(("half:4/4", "keep-top:3@8", "consensus:0.7", "none")),
       st.lists(st.tuples(st.sampled_from(["1", "2"]), one_score), min_size=20, max_size=20))  # fmt: skip
def test_auto_means_the_same_wherever_it_is_written(rule: str, found: list) -> None:
    whole = stopped_after(found)
    with_auto = parse("auto" if rule == "none" else f"{rule}+auto")
    first = simulate(whole, with_auto, adaptive.schedule_of(20, with_auto), 4)
    second = simulate(whole, parse(rule), adaptive.schedule_of("auto:20", parse(rule)), 4)
    assert [(t.index, t.status, t.tokens) for t in first] == [(t.index, t.status, t.tokens) for t in second]


@given(st.lists(st.lists(one_score, min_size=1, max_size=6), min_size=1, max_size=8))
def test_alarms_change_nothing_and_name_a_live_trace_at_most_once(grown: list[list[float]]) -> None:
    traces = [Trace(Problem("p"), i, 0, tokens=10 * len(s), scores=[(10 * (n + 1), x) for n, x in enumerate(s)])
              for i, s in enumerate(grown)]  # fmt: skip
    found = alarms.raised([alarms.parse("fall:0.3@20"), alarms.parse("under:0.3@10=run")], traces)
    assert len({r.trace.index for r in found}) == len(found)
    assert all(r.reason and r.trace.status is Status.RUNNING and not r.trace.reason for r in found)


def test_pruning_as_published_by_stop() -> None:
    """64 traces to 8 at 2,048 tokens, once."""
    live = running([i / 64 for i in range(64)], 2048)
    assert sorted(s.trace.index for s in parse("keep-top:8@2048")(Standing(live))) == list(range(56))
    assert parse("keep-top:8@2048")(Standing(running([0.5] * 64, 4096))) == []


def test_the_retention_rule_is_the_published_one() -> None:
    """Its two examples, with coefficients of two or three digits; and for so many paths, what they then spend."""
    assert 1 / share_for(158 * 1024, 2048, 8650) == pytest.approx(9.63, rel=0.03)
    assert 1 / share_for(275 * 1024, 3 * 1024, 12_000) == pytest.approx(3.36, rel=0.03)
    share = retained(10**6, 2048, 12_000) / 10**6
    assert share_for(10**6 * (2048 + share * (12_000 - 2048)), 2048, 12_000) == share == 1 / 32  # no fewer
    assert retained(64, 2048, 40_000) == 32  # and no more
    kept = [retained(n, 2048, 12_000) for n in (16, 64, 256)]
    for n, keeps in zip((16, 64, 256), kept, strict=True):
        spent = n * 2048 + keeps * (12_000 - 2048)
        assert share_for(spent, 2048, 12_000) == pytest.approx(keeps / n, abs=1 / n)
    live = running([i / 64 for i in range(64)], 2048)
    assert sorted(s.trace.index for s in parse("retain:12000@2048")(Standing(live))) == list(range(64 - kept[1]))
    assert retained(64, 4096, 12_000) < kept[1] < retained(64, 2048, 16_000)
