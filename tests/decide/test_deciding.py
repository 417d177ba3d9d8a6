"""Rules with a memory, adaptive sampling, alarms, budgets and the third state: plain numbers first, then live runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_policy_and_vote import look, running, stopped

import trueplex
from conftest import SEED, TEXTS, prompts_for
from trueplex.data.embedded import tasks
from trueplex.decide import adaptive, alarms, voting
from trueplex.decide.budget import Budget
from trueplex.decide.calibration import Calibration, band_of, condition, features, safe_threshold, way_of_thinking
from trueplex.decide.pruning import parse
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError, VerifierError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Advanced, AlarmRaised, Solved, Stopped, stream
from trueplex.solving.settings import Settings, configuration
from trueplex.types import Problem, Solution, Status, Trace, Vote
from trueplex.verify.confidence import Confidence, ConfidenceScorer

# -- rules ----------------------------------------------------------------------------------------


def scored(index: int, scores: list[float], status: Status = Status.RUNNING, answer: str | None = None) -> Trace:
    """A trace scored after every 10 tokens."""
    pairs = [(10 * (i + 1), s) for i, s in enumerate(scores)]
    return Trace(Problem("p"), index, 0, status, tokens=10 * len(scores), scores=pairs, answer=answer)


def test_deepconf_sets_its_bar_by_the_lowest_scores_of_the_warm_up() -> None:
    """Of lows 1 … 5, high (keeps 90 %) must take the 10th percentile, 1.4, and low the 90th, 4.6 (numpy's rule)."""
    warm = [scored(i, [9.0, 1.0 + i, 9.0], Status.FINISHED, "1") for i in range(5)]
    for kind, bar in (("high", np.percentile([1, 2, 3, 4, 5], 10)), ("low", np.percentile([1, 2, 3, 4, 5], 90))):
        rule = parse(f"deepconf:{kind}@10/5").rules[0]
        assert rule.bar(warm) == pytest.approx(bar)
        live = [scored(5, [bar + 0.1]), scored(6, [bar - 0.1]), scored(7, [0.0])]
        assert [t.index for t in look(f"deepconf:{kind}@10/5", live, warm)] == [6, 7]
        assert look(f"deepconf:{kind}@11/5", live, warm) == []  # not before so many tokens
        assert look(f"deepconf:{kind}@10/5", live, warm[:4]) == []  # not before the warm-up is over
        voters = parse(f"deepconf:{kind}@10/5").voters([*warm, live[1]])
        assert [t.index for t in voters] == [t.index for t in warm if t.scores[1][1] >= bar] + [6]


def test_consensus_counts_running_traces_as_opposition() -> None:
    done = stopped([("7", 0.9), ("7", 0.9), ("8", 0.2)])
    assert look("consensus:0.8", [], done) == []  # nothing to stop
    live = running([0.2], 5)
    assert look("consensus:0.8", live, done) == live  # 1.8 of 2.2
    assert look("consensus:0.8", running([0.3], 5), done) == []  # 1.8 of 2.3
    assert look("consensus:0.5", live, []) == [] and look("consensus:0.5", live, stopped([(None, 1.0)])) == []
    assert parse("consensus:0.9").settled(done) and not parse("consensus:0.91").settled(done)
    assert not parse("half:3").settled(done)


@given(st.lists(st.tuples(st.sampled_from("123"), st.floats(0.01, 1)), min_size=1, max_size=12),
       st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.floats(0.5, 1))  # fmt: skip
def test_a_consensus_cannot_be_overturned_by_those_it_stops(pairs: list, runners: list[float], share: float) -> None:
    done, live = stopped(pairs), running(runners, 5)
    if look(f"consensus:{share}", live, done):
        leader = voting.weighted(done)[0]
        rivals = [v.weight for v in voting.weighted(done)[1:]]
        assert leader.weight >= max(rivals, default=0.0) + sum(runners) - 1e-9 or share == 0.5


@pytest.mark.parametrize(
    ("rule", "paths", "longest"),
    [("half:64", 8, 64), ("half:64", 1, 100), ("half:9/8", 8, 100), ("stop:64", 8, 64), ("keep-top:8@64", 8, 100), ("keep-top:2@64", 8, 64), ("retain:999@64", 8, 64), ("retain:9999@64", 1, 99), ("floor:0.5", 1, 100),
     ("deepconf:high", 64, 640), ("deepconf:low@8", 16, 640), ("consensus:0.5", 1, 9), ("keep:0.9@32", 8, 99)],
)  # fmt: skip
def test_a_rule_without_effect_is_refused(rule: str, paths: int, longest: int) -> None:
    """DeepConf in several engines was silently inactive: its window was longer than the traces."""
    with pytest.raises(OptionError, match="has no effect here"):
        parse(rule).check(paths, longest)
    parse("half:8+stop:9+keep-top:3@9+floor:0.1+deepconf:low@8/4+consensus:0.5").check(8, 10)


def test_a_floor_above_every_score_is_refused() -> None:
    with pytest.raises(OptionError, match="above every score"):
        parse("floor:1.5").check(4, 100)
    parse("floor:1.5").check(4, 100, math.inf)


# -- selectors ------------------------------------------------------------------------------------


def test_selectors_as_stated() -> None:
    traces = stopped([("1", 0.6), ("1", 0.6), ("2", 0.9), ("3", 0.1)])
    by = {name: [v.answer for v in voting.selector(name)(traces)] for name in
          ("majority", "weighted", "weighted:2", "weighted:9", "weighted:odds", "best", "top:0.25", "top:0.5")}  # fmt: skip
    assert by["weighted"][0] == "1" and by["weighted:2"][0] == "2" and by["weighted:9"][0] == "2"
    assert by["weighted:odds"][0] == "2" and by["best"][0] == "2" and by["top:0.25"] == ["2"]
    assert by["top:0.5"] == ["2", "1"]  # of the two equal scores the lower index stays
    weights = {v.answer: v.weight for v in voting.selector("weighted:odds")(traces)}
    assert weights["1"] == pytest.approx(2 * math.log(0.6 / 0.4)) and weights["3"] == 0
    assert voting.selector("weighted:1")(traces) == voting.weighted(traces)


@pytest.mark.parametrize(
    "name", ["weighted:0", "weighted:x", "top", "top:0", "top:1", "best:2", "majority:1", "weighted:"]
)
def test_unknown_selectors_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="top:SHARE"):
        voting.selector(name)


# -- adaptive sampling ----------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from([("1", 1.0), ("2", 1.0), ("2", 0.5)]), min_size=1, max_size=64))
def test_the_vote_is_settled_by_the_mass_of_a_beta_distribution(pairs: list[tuple[str, float]]) -> None:
    votes = [v.weight for v in voting.weighted(stopped(pairs))]
    first, second = [*votes, 0.0][:2]
    assert adaptive.sure(stopped(pairs)) == pytest.approx(stats.beta.sf(0.5, 1 + first, 1 + second), abs=1e-9)


def test_auto_begins_few_and_doubles_while_the_vote_is_open() -> None:
    auto = adaptive.parse("auto:40")
    assert (auto.first, auto.most) == (8, 40)
    assert auto.more(stopped([("1", 1.0)] * 8)) == 0
    split = stopped([("1", 1.0), ("2", 1.0)] * 20)
    assert [auto.more(split[:n]) for n in (8, 16, 32, 40)] == [8, 16, 8, 0]
    assert auto.more(stopped([(None, 1.0)] * 8)) == 8  # no vote yet settles nothing
    fixed = adaptive.parse("12")
    assert (fixed.first, fixed.more(split[:12])) == (12, 0)


@pytest.mark.parametrize("paths", ["0", "-1", "auto:", "auto:8", "auto:x", "many", "1.5", "auto:²"])
def test_malformed_paths_are_refused(paths: str) -> None:
    with pytest.raises(OptionError, match="paths is"):
        adaptive.parse(paths)


def test_a_warm_up_comes_first() -> None:
    warm = Settings(paths=20, prune="deepconf:low@8/6").schedule
    assert warm.first == 6 and warm.more(stopped([("1", 1.0)] * 6)) == 14 and warm.more(stopped([("1", 1.0)] * 20)) == 0
    with pytest.raises(OptionError, match="warm-up of its own"):
        Settings(paths="auto", prune="deepconf:low@8/6")
    with pytest.raises(OptionError, match="warm-up of its own"):
        Settings(paths=20, prune="deepconf:low@8/6+auto")


def test_auto_in_the_policy_is_auto_in_the_number_of_paths() -> None:
    policy = parse("half:4/4+auto")
    assert policy.adaptive and [r.spelled for r in policy.rules] == ["half:4/4"] and policy.stride == 4
    assert parse("auto").adaptive and not parse("auto").rules and not parse("half:4/4").adaptive
    same = Settings(paths="auto:40", prune="half:4/4").schedule
    assert (
        Settings(paths=40, prune="half:4/4+auto").schedule == same == Settings(paths="auto:40", prune="auto").schedule
    )
    with pytest.raises(OptionError, match="auto starts with 8"):
        Settings(paths=8, prune="auto")


def test_a_calibration_does_not_care_where_auto_is_written() -> None:
    options = {"thinking": "discrete", "width": 1, "merge": None, "replacement": None, "noise": None, "strength": None,
               "sampling": {"temperature": 1.0}, "answer_sampling": {}, "ending": {"stop": ["x"]}, "select": "weighted",
               "verifier": "some/folder"}  # fmt: skip
    asked = condition({**options, "paths": 40, "prune": "auto+half:4/4"})
    assert asked == condition({**options, "paths": "auto:40", "prune": "half:4/4"})
    assert asked.verifier == "trained" and asked.stored()["ending"] == {"stop": ("x",)}
    assert condition(asked.stored()) == asked and hash(condition(asked.stored())) == hash(asked)


# -- alarms ---------------------------------------------------------------------------------------


def test_alarms_as_stated() -> None:
    fall, under = alarms.parse("fall:0.4@20"), alarms.parse("under:0.3@20=run")
    assert fall(scored(0, [0.9, 0.7, 0.5])) and not fall(scored(0, [0.9, 0.7, 0.6, 0.5]))
    assert not fall(scored(0, [])) and not under(scored(0, [])) and under.scope == "run"
    assert under(scored(0, [0.9, 0.2, 0.2, 0.1])) and not under(scored(0, [0.9, 0.2, 0.1]))
    assert not under(scored(0, [0.2, 0.1])), "only 10 tokens lie between the first score and now"


def no_sevens(trace: Trace) -> str | None:
    return "a seven" if trace.index == 7 else None


@pytest.mark.parametrize("text", ["fall", "fall:0.4", "fall:0@3", "under:0.3@0", "loud:1@2", "fall:0.4@3=all",
                                  "call:math", "call:nowhere:f", "call:math:pi", "under:nan@3"])  # fmt: skip
def test_malformed_alarms_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="cannot read alarm"):
        alarms.parse(text)


def test_a_trace_raises_the_first_alarm_that_applies() -> None:
    rules = [alarms.parse("under:0.3@20=problem"), alarms.parse("fall:0.4@20")]
    low, fell, fine = scored(0, [0.9, 0.2, 0.2, 0.1]), scored(1, [0.9, 0.9, 0.5]), scored(2, [0.9, 0.9])
    found = alarms.raised(rules, [fell, low, fine])
    assert [(r.trace.index, r.alarm) for r in found] == [(1, rules[1]), (0, rules[0])]
    assert "fell by 0.40" in found[0].reason and "under 0.3 for 20 tokens" in found[1].reason
    assert all(t.status is Status.RUNNING and not t.reason for t in (low, fell, fine))


# -- calibration ----------------------------------------------------------------------------------

WAY = way_of_thinking({"thinking": "discrete", "width": 1, "merge": None, "replacement": None, "noise": None, "strength": None,
                       "sampling": {}, "answer_sampling": {}, "ending": {"stop": ("a", "b")}})  # fmt: skip


def test_the_promised_error_holds() -> None:
    """Confidence is right on average; of 300 calibrations, at most about DELTA may promise too much."""
    rng, broken, given_any = np.random.default_rng(0), 0, 0
    for _ in range(300):
        confidence = rng.beta(6, 1, 400)
        threshold = safe_threshold([(float(c), bool(rng.random() < c)) for c in confidence], 0.1)
        if threshold is not None:
            given_any += 1
            sample = rng.beta(6, 1, 20_000)
            broken += float(np.mean(1 - sample[sample >= threshold])) > 0.1
    assert given_any > 250 and broken / given_any <= 0.05


def test_too_few_problems_promise_nothing_and_none_is_ever_promised_by_luck() -> None:
    assert safe_threshold([(0.9, True)] * 28, 0.1) is None  # 0.9 ** 28 > 0.05
    assert safe_threshold([(0.9, True)] * 29, 0.1) == 0.9
    assert safe_threshold([(0.9, False)] * 500, 0.1) is None


def test_the_band_leaves_the_middle_uncertain() -> None:
    pairs = [(i / 1000, i % 1000 > 700 or (i > 300 and i % 2 == 0)) for i in range(1000)]
    band = band_of(pairs, 0.1)
    assert 0.25 < band.low < 0.4 and 0.6 < band.high < 0.75
    assert [band.state(s) for s in (0.1, 0.5, 0.9)] == ["doubted", "uncertain", "trusted"]
    nothing = band_of([(0.5, True), (0.5, False)], 0.1)
    assert nothing.state(0.99) == "uncertain" == nothing.state(0.01)


def test_a_calibration_survives_its_file_and_is_refused_elsewhere(tmp_path) -> None:
    asked = condition({**WAY.stored(), "verifier": "auto", "paths": 8, "prune": "none", "select": "majority"})
    made = Calibration({"majority": [0.1, 1.0, 0.5], asked: [0.0, 1.0, 0.5]}, {asked: [(0.5, True)]}, {WAY: band_of([], 0.1)},
                       {"model": "m"})  # fmt: skip
    made.save(tmp_path)
    assert Calibration.read(tmp_path) == made
    assert Calibration.read(tmp_path / "no") is None
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(VerifierError, match="calibrate"):
        Calibration.read(tmp_path)


def test_calibrations_of_version_0_2_are_read_as_they_were(tmp_path) -> None:
    """Their keys were the options as JSON; nothing is lost, and what is written again has the same keys."""
    paths = list(Path(trueplex.__file__).parent.glob("reference/**/calibration.json"))
    assert paths
    for path in paths:
        told = json.loads(path.read_text())
        found = Calibration.read(path.parent)
        assert found is not None and len(found.held) == len(told["held"]) and len(found.votes) == len(told["votes"])
        found.save(tmp_path)
        again = json.loads((tmp_path / "calibration.json").read_text())
        assert {k: again[k] for k in ("votes", "held", "bands")} == {k: told[k] for k in ("votes", "held", "bands")}


@given(st.integers(1, 30), st.integers(0, 30))
def test_more_agreement_is_more_confidence(leading: int, others: int) -> None:
    made = Calibration({"majority": [0.0, 1.0, 0.0]}, {})
    votes = lambda n: [Vote("1", float(n), n)] + ([Vote("2", float(others), others)] if others else [])  # noqa: E731
    low, high = (made.confidence("majority", votes(n), []) for n in (leading, leading + 1))
    assert low is not None and high is not None and 0 < low < high < 1
    assert made.confidence("best", votes(1), []) is None and len(features(votes(3), stopped([("1", 0.5)]))) == 4


# -- in the decode loop ---------------------------------------------------------------------------

THINKING = Thinking("multiplex", 2, ending=Ending(24))
SURE = Settings(paths=6, thinking=THINKING, verifier="deepconf:mean", probe_every=4, seed=SEED)


def solve(backbone: Backbone, options: Settings, texts: tuple[str, ...] = TEXTS[:2]) -> list:
    scorer = ConfidenceScorer(Confidence("deepconf", "mean"), options.probe_every)
    return list(stream(backbone, [Problem(t) for t in texts], options, scorer))


def solutions(events: list) -> dict[str, Solution]:
    return {e.solution.problem.text: e.solution for e in events if isinstance(e, Solved)}


def thought(events: list) -> dict[tuple[str, int], list]:
    return {(e.trace.problem.text, e.trace.index): e.trace.steps.ids.tolist() for e in events if isinstance(e, Stopped)}


def test_waves_think_what_one_wave_would(qwen: Backbone) -> None:
    """Law 4: a trace's tokens belong to it, in whatever wave, batch or order it is begun."""
    once = thought(solve(qwen, replace(SURE, paths=20)))
    for options in (replace(SURE, paths="auto:20"), replace(SURE, paths=20, prune="deepconf:high@23/8"),
                    replace(SURE, paths=20, rows=7)):  # fmt: skip
        events = solve(qwen, options)
        grown = thought(events)
        assert set(grown) == set(once)
        assert all(ids == once[name][: len(ids)] for name, ids in grown.items())
    reads = {text: s.usage.prompt_tokens for text, s in solutions(events).items()}
    ids = {p.problem.text: len(p.ids) for p in prompts_for(qwen)[:2]}
    assert all(reads[text] % ids[text] == 0 and reads[text] > ids[text] for text in reads), (
        "prompts are read once a wave"
    )


def test_a_budget_of_tokens_is_never_overspent(qwen: Backbone) -> None:
    free = solutions(solve(qwen, SURE))
    whole = sum(t.tokens for s in free.values() for t in s.traces)
    for tokens in (1, 13, 100, whole - 1):
        solved = solutions(solve(qwen, replace(SURE, budget=Budget(tokens=tokens))))
        spent = sum(t.tokens + t.probe_tokens for s in solved.values() for t in s.traces)
        assert set(solved) == set(free) and spent <= tokens and spent > tokens - 12 - 1
        reasons = {t.reason for s in solved.values() for t in s.traces if t.status is Status.TRUNCATED}
        assert "token budget" in reasons or spent == 0
    assert (
        solutions(solve(qwen, replace(SURE, budget=Budget(tokens=whole))))[TEXTS[0]].traces[0].reason != "token budget"
    )


def test_a_budget_of_seconds_ends_the_run(qwen: Backbone) -> None:
    endless = Thinking(sampling=Sampling(0.01), ending=Ending(4000))  # likeliest words go round and round
    free = solutions(solve(qwen, replace(SURE, thinking=replace(endless, ending=Ending(400)))))
    assert any(t.tokens == 400 for s in free.values() for t in s.traces)
    solved = solutions(solve(qwen, replace(SURE, thinking=endless, budget=Budget(seconds=0.3))))
    traces = [t for s in solved.values() for t in s.traces]
    assert len(solved) == 2 and any("time" in t.reason for t in traces)
    assert all(t.tokens < 4000 for t in traces)


def test_a_budget_of_paths_goes_in_the_order_of_the_problems(qwen: Backbone) -> None:
    solved = solutions(solve(qwen, replace(SURE, budget=Budget(paths=8))))
    assert [len(solved[text].traces) for text in TEXTS[:2]] == [6, 2]
    solved = solutions(solve(qwen, replace(SURE, budget=Budget(paths=6))))
    assert solved[TEXTS[1]].state == "none" and solved[TEXTS[1]].usage.prompt_tokens == 0


def test_alarms_stop_what_they_say(qwen: Backbone) -> None:
    for scope in ("trace", "problem"):
        events = solve(qwen, replace(SURE, paths=8, alarms=(f"call:{__name__}:no_sevens={scope}",)))
        rang = [e for e in events if isinstance(e, AlarmRaised)]
        assert [(e.problem.text, e.alarm.index, e.alarm.stopped) for e in rang] == [
            (TEXTS[0], 7, scope),
            (TEXTS[1], 7, scope),
        ]
        solution = solutions(events)[TEXTS[0]]
        assert [a.why for a in solution.alarms] == ["a seven"]
        alarmed = [t.index for t in solution.traces if t.reason == "alarm: a seven"]
        assert alarmed == ([7] if scope == "trace" else [t.index for t in solution.traces if t.tokens == 4])
        assert all(t.status is Status.PRUNED for t in solution.traces if t.index in alarmed)
    events = solve(qwen, replace(SURE, paths=8, alarms=(f"call:{__name__}:no_sevens=run",)))
    assert len([e for e in events if isinstance(e, AlarmRaised)]) == 1 and len(solutions(events)) == 2


def test_alarms_of_ones_own_may_be_functions_and_their_mistakes_are_told(qwen: Backbone) -> None:
    events = solve(qwen, replace(SURE, paths=8, alarms=(no_sevens,)))
    assert {(e.alarm.index, e.alarm.why) for e in events if isinstance(e, AlarmRaised)} == {(7, "a seven")}
    assert solutions(events)[TEXTS[0]].config["alarms"] == ["call:no_sevens"]

    def broken(trace: Trace) -> str | None:
        raise KeyError("there is no such thing")

    with pytest.raises(OptionError, match=r"'broken' failed on trace 0 at 4 tokens: KeyError"):
        solve(qwen, replace(SURE, alarms=(broken,)))


@pytest.mark.parametrize(("alarm", "why"), [("fall:0.1@3", "one score in 3 tokens"), ("under:0.3@24", "no trace is longer than 24"),
                                            ("fall:0.5@99", "no trace is longer"), ("under:0.3@18", "no trace is longer"),
                                            ("call:none", "call:MODULE:FUNCTION")])  # fmt: skip
def test_alarms_that_could_never_ring_are_refused(qwen: Backbone, alarm: str, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        solve(qwen, replace(SURE, alarms=(alarm,)))
    assert "stop every trace" in str(alarms.parse("under:1.5@8").inert(4, 99, 1.0))
    assert alarms.parse("under:0.5@16").inert(4, 24, 1.0) is None
    assert alarms.parse("fall:1.5@32").inert(4, 99, 1.0) and not alarms.parse("fall:1.5@32").inert(4, 99, math.inf)


def test_an_alarm_of_the_whole_run_is_told_with_every_problem_it_ended(qwen: Backbone) -> None:
    solved = solutions(solve(qwen, replace(SURE, paths=8, alarms=(f"call:{__name__}:no_sevens=run",))))
    assert [[a.why for a in s.alarms] for s in solved.values()] == [["a seven"]] * len(solved)


def test_rows_that_a_policy_frees_are_refilled(qwen: Backbone) -> None:
    """A problem enters while the one before it thins out: the batch is never less than half full while others wait."""
    texts = tuple(f"Problem {i}" for i in range(6))
    settings = replace(SURE, paths=48, prune="half:4", thinking=Thinking("discrete", ending=Ending(40)))
    scorer = ConfidenceScorer(Confidence("deepconf", "mean"), 4)
    events = stream(qwen, [Problem(t) for t in texts], settings, scorer)
    batch = events.scheduler.batch
    live = [len(batch.traces) for event in events if isinstance(event, Advanced) and batch.waiting]
    assert len(live) > 2 and min(live) >= 48
    assert batch.rows == 96


def test_a_run_may_say_that_it_does_not_know(qwen: Backbone) -> None:
    model = load("reference", device="cpu")
    problem = tasks.problems("chain-easy", "validation", 1)[0]
    run = configuration(Settings(paths=4, verifier="logprob", select="weighted"), model)
    unsure = Calibration({"weighted": [-9.0, 0, 0, 0, 0]}, {condition(run): []})
    for least, state in ((None, "answered"), (0.5, "uncertain")):
        options = Settings(paths=4, verifier="logprob", abstain_below=least)
        events = stream(model, [problem], options, ConfidenceScorer(Confidence("logprob"), 32), calibration=unsure)
        (solution,) = [e.solution for e in events if isinstance(e, Solved)]
        assert (solution.state, solution.abstained) == (state, state == "uncertain")
        assert solution.votes and solution.confidence < 0.001 and solution.config["calibrated"]
        assert solution.answer == (solution.votes[0].answer if state == "answered" else None)
    # What was learned of this very way to run goes before what was learned of the selector.
    sure = Calibration({**unsure.votes, condition(run): [9.0, 0, 0, 0, 0]}, unsure.held)
    events = stream(
        model,
        [problem],
        Settings(paths=4, verifier="logprob"),
        ConfidenceScorer(Confidence("logprob"), 32),
        calibration=sure,
    )
    assert [e.solution.confidence > 0.999 for e in events if isinstance(e, Solved)] == [True]
    with pytest.raises(OptionError, match="needs a calibration"):
        solve(qwen, replace(SURE, max_error=0.1))


@pytest.mark.parametrize("options", [{"abstain_below": 0.0}, {"max_error": 1.0}, {"abstain_below": 0.5, "max_error": 0.1},
                                     {"verifier": "none", "alarms": ("fall:0.5@3",)}, {"verifier": "none", "prune": "deepconf:low"}])  # fmt: skip
def test_contradictory_decisions_are_refused(options: dict) -> None:
    with pytest.raises(OptionError):
        Settings(**{"paths": 32, **options})
    with pytest.raises(OptionError):
        Budget(tokens=0)
