"""Figures from stored traces: closed forms, scipy, the votes themselves, and a kill at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from conftest import stored_trace
from trueplex.decide import pruning, voting
from trueplex.decide.adaptive import PathSchedule
from trueplex.decide.simulate import simulate
from trueplex.errors import OptionError
from trueplex.evals.budget import Spent, at_budget, equal_budgets
from trueplex.evals.methods import METHODS, choose
from trueplex.evals.metrics import figure, interval, paired, pass_at
from trueplex.evals.samples import gather, outcomes
from trueplex.evals.summary import of_size, summarise
from trueplex.types import Status, Steps, Trace


def random_traces(seed: int, problems: int = 5, paths: int = 8) -> list[Trace]:
    rng = np.random.default_rng(seed)
    traces = []
    for p in range(problems):
        for i in range(paths):
            answer = [None, "4", "4.0", "5", "6", r"\frac{12}{2}"][rng.integers(6)]
            trace = stored_trace(i, answer, answer in ("4", "4.0"), round(float(rng.random()), 1), f"problem {p}")
            trace.status = Status.TRUNCATED if answer is None and rng.random() < 0.5 else Status.FINISHED
            traces.append(trace)
    return traces


# -- closed forms --------------------------------------------------------------------------------------------


@given(st.integers(1, 4096), st.data())
def test_pass_at_k_is_the_hypergeometric_chance_up_to_1024_and_beyond(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, min(n, 1024)))
    assert pass_at(n, right, k) == pytest.approx(1 - stats.hypergeom.pmf(0, n, right, k), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_agree_with_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.beta(0.5, 0.5, 120)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=5000, method="percentile", rng=rng).confidence_interval
    assert interval(values.tolist(), draws=5000) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert interval([0.25] * 9) == (0.25, 0.25)


def test_a_paired_difference_counts_wins_ties_and_losses() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    one, other = (rng.random(200) < hard + 0.1).astype(float), (rng.random(200) < hard).astype(float)
    found = paired(one.tolist(), other.tolist())
    assert found["mean"] == pytest.approx(one.mean() - other.mean(), abs=1e-4)
    assert (found["win"], found["tie"], found["loss"]) == (
        (one > other).sum(),
        (one == other).sum(),
        (one < other).sum(),
    )
    theirs = stats.bootstrap((one, other), lambda a, b, axis: np.mean(a - b, axis=axis), paired=True, n_resamples=5000,
                             method="percentile", rng=rng).confidence_interval  # fmt: skip
    assert (found["low"], found["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    with pytest.raises(ValueError):
        paired([1.0, 0.0], [1.0, 0.0, 1.0])


# -- methods -------------------------------------------------------------------------------------------------

VOTES = ("majority", "weighted", "best", "weighted:2", "weighted:0.5", "weighted:odds", "top:0.5", "top:0.1")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(VOTES), st.sampled_from([1, 3, 8]))
def test_methods_vote_as_the_selectors_do(seed: int, name: str, size: int) -> None:
    traces = random_traces(seed)
    chosen = choose([name], True)[0]
    for one in gather([replace(t) for t in traces]):
        own = sorted((t for t in traces if t.problem == one.problem), key=lambda t: t.index)
        groups = [own[i : i + size] for i in range(0, len(own) - size + 1, size)]
        votes = [voting.selector(name)(g) for g in groups]
        expected = np.mean([bool(v) and v[0].answer in ("4", "4.0") for v in votes])
        assert of_size([one], chosen, size).right == pytest.approx([expected])


def test_a_method_pays_for_the_probes_that_it_reads() -> None:
    traces = [stored_trace(i) for i in range(3)]
    for t in traces:
        t.probe_tokens = 2
    assert (
        METHODS["majority"](traces).tokens == 15 and METHODS["weighted"](traces).tokens == 18
    )  # one look each, of two
    (one,) = gather(traces, {"entropy": None})
    assert METHODS["best"](one.views["entropy"]).tokens == 15  # an untrained score reads what is there anyway
    assert [t.score for t in one.views["entropy"]] == pytest.approx([np.exp(-t.steps.entropy.mean()) for t in traces])


def scored_traces(seed: int, paths: int = 12) -> list[Trace]:
    """Traces of one problem, 5 to 30 tokens long, with scores every 4 tokens and at their end."""
    rng = np.random.default_rng(seed)
    traces = []
    for i in range(paths):
        answer = ["4", "5", "6"][rng.integers(3)]
        trace = stored_trace(i, answer, answer == "4", 0.5, "2 + 2")
        trace.tokens = int(rng.integers(5, 30))
        trace.steps = Steps(*(np.resize(a, (trace.tokens, *a.shape[1:])) for a in trace.steps.arrays()))
        looks = [*range(4, trace.tokens, 4), trace.tokens]
        trace.scores = [(at, round(float(rng.random()), 2)) for at in looks]
        trace.status, trace.probe_tokens = Status.FINISHED, len(looks)
        traces.append(trace)
    return traces


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["weighted", "best", "majority"]),
    st.sampled_from(["half:4", "half:8/2", "floor:0.3", "deepconf:low@4/3", "consensus:0.6", "drop:2@4+stop:12"]),
)
def test_a_vote_behind_a_policy_is_that_of_the_run(seed: int, name: str, prune: str) -> None:
    """`simulate` is held to the decode loop in test_simulate.py; here the method is held to it and to the selectors."""
    (one,) = gather(scored_traces(seed))
    chosen = choose([f"{name}~{prune}"], True, 4)[0]
    rule = pruning.parse(prune)
    for first in (0, 6):
        group = [replace(t, index=t.index - first) for t in one.traces[first : first + 6]]
        if name == "majority" and not rule.needs_scores:  # such a run has no scorer
            group = [replace(t, scores=[], probe_tokens=0) for t in group]
        left = simulate(group, rule, PathSchedule(6, 6), rule.stride or 4)
        votes = voting.selector(name)(rule.voters(left))
        found = chosen.method(one.traces[first : first + 6])
        assert found.answer == (votes[0].answer if votes else None)
        assert found.tokens == sum(t.tokens + t.probe_tokens for t in left)


def test_a_policy_saves_and_an_untrained_score_costs_nothing() -> None:
    traces = scored_traces(1)
    for trace in traces[:8]:
        trace.answer = "4"  # as clear as a first wave can be
    (one,) = gather(traces, {"logprob": 4})
    plain, thinned, untrained, few = (
        of_size([one], c, 12).tokens[0]
        for c in choose(["weighted", "weighted~half:4", "weighted:logprob~half:4", "majority~auto"], True, 4)
    )
    assert thinned < plain and few < plain
    for view in one.views["logprob"]:
        assert view.scores == [(at, pytest.approx(float(np.exp(traces[view.index].steps.logps[:at, 0].mean()))))
                               for at in (*range(4, view.tokens, 4), view.tokens)]  # fmt: skip
    survivors = simulate(one.views["logprob"], pruning.parse("half:4"), PathSchedule(12, 12), 4)
    assert untrained == sum(t.tokens for t in survivors)


@pytest.mark.parametrize(
    ("names", "scored", "says"),
    [
        (["most"], True, "unknown method 'most'"),
        (["majority:entropy"], True, "unknown method"),
        (["weighted:auto"], True, "cannot score stored steps"),
        (["weighted:deepconf:most"], True, "unknown DeepConf kind"),
        (["best"], False, "needs scores"),
        (["majority~half:32"], False, "needs scores"),
        (["weighted:0"], True, "cannot score stored steps"),
        (["top:1"], True, "unknown method"),
        (["weighted:2"], False, "needs scores and the run has none"),
        (["weighted~none"], True, "prunes nothing"),
        (["weighted~half:8"], True, "looks every 8 tokens, but the stored scores are 32 tokens apart"),
        (["weighted~third:8"], True, "unknown pruning rule"),
    ],
)
def test_methods_that_cannot_act_are_refused(names: list[str], scored: bool, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        choose(names, scored)


def test_all_that_a_run_allows() -> None:
    assert {c.name for c in choose(None, False)} == {"majority", *(f"{m}:{s}" for m in ("weighted", "best")
                                                     for s in ("logprob", "entropy", "deepconf:mean"))}  # fmt: skip
    assert {"majority", "weighted", "best"} < {c.name for c in choose(None, True)}


# -- equal budgets -------------------------------------------------------------------------------------------


def test_a_budget_between_two_sizes_is_spent_by_mixing_them() -> None:
    sizes = [Spent(np.array([0.0, 1.0]), np.array([10.0, 10.0])), Spent(np.array([1.0, 1.0]), np.array([30.0, 50.0]))]
    assert at_budget(sizes, 25.0).tolist() == [0.5, 1.0]
    assert at_budget(sizes, 10.0).tolist() == [0.0, 1.0] and at_budget(sizes, 40.0).tolist() == [1.0, 1.0]
    assert at_budget(sizes, 9.0) is None and at_budget(sizes, 41.0) is None
    cheap = [Spent(s.right, s.tokens / 2) for s in sizes]
    found = equal_budgets({"a": sizes, "b": cheap}, [10, 20, 40], "a")
    # At 20 tokens the dear method is a third of its way from 10 to 40, and right on [1/3, 1]; the cheap one is at its end.
    assert found["minus"]["b"][1]["mean"] == pytest.approx(1 / 3, abs=1e-4) and found["right"]["b"][2] is None
    assert found["minus"]["b"][0]["win"] == 1 and found["minus"]["b"][0]["tie"] == 1


# -- summaries -----------------------------------------------------------------------------------------------


def test_what_could_not_be_graded_is_told_apart_from_wrong() -> None:
    traces = random_traces(1, problems=1)[:4]
    traces[0].answer, traces[0].correct = "t(0,4]", None
    traces[1].answer, traces[1].correct = "5", False
    traces[2].answer, traces[2].correct, traces[2].status = None, False, Status.TRUNCATED
    traces[3].answer, traces[3].correct = "4", None  # the grader can tell now: it was late then
    counts = outcomes(gather(traces))
    assert counts == {"right": 0, "wrong": 1, "no answer": 0, "truncated": 1, "retired": 0, "unreadable": 1,
                      "incomparable": 0, "timed out": 1}  # fmt: skip
    assert summarise(traces)["ungraded"] == 2


def test_truncated_thinking_is_wrong_unless_asked() -> None:
    trace = stored_trace(0, None, False)
    trace.status, trace.text = Status.TRUNCATED, r"so \boxed{4}, no wait"
    assert summarise([replace(trace)])["pass"]["1"]["mean"] == 0
    read = summarise([replace(trace)], read_truncated=True)
    assert read["pass"]["1"]["mean"] == 1 and read["methods"]["majority"]["1"]["mean"] == 1


def test_the_order_in_which_traces_stopped_does_not_matter() -> None:
    traces = random_traces(3)
    order = list({t.problem.key: 0 for t in traces})
    first = summarise([replace(t) for t in traces], order=order)
    shuffled = [replace(traces[i]) for i in np.random.default_rng(0).permutation(len(traces))]
    assert summarise(shuffled, order=order) == first
    assert len(first["ids"]) == len(first["right"]) == 5 and len(first["votes"]["majority"]) == 5


def test_results_pair_only_where_the_texts_are_the_same() -> None:
    """Two files may both name their first problem 1."""
    traces = random_traces(3)
    others = [replace(t, problem=replace(t.problem, text=f"{t.problem.text} Again?")) for t in traces]
    assert {t.problem.id for t in traces} == {t.problem.id for t in others}
    assert not set(summarise(traces)["ids"]) & set(summarise(others)["ids"])


def test_curves_add_up() -> None:
    found = summarise(random_traces(4))
    curves = found["curves"]
    assert sum(map(sum, (curves["lengths"]["right"], curves["lengths"]["wrong"]))) == 40
    assert sum(b["traces"] for b in curves["reliability"]) == 40
    assert len(curves["along"]["entropy"]["right"]) == 10 and len(curves["trajectories"]["right"]["mean"]) == 20
    assert found["budget"]["against"] == "majority"
    assert found["budget"]["right"]["majority"][0] == {
        k: v for k, v in found["methods"]["majority"]["1"].items() if k != "tokens"
    }
    pair = next(p for p in found["pairs"] if (p["one"], p["other"]) == ("majority", "weighted"))
    gains = np.subtract(found["votes"]["majority"], found["votes"]["weighted"])
    assert pair["mean"] == figure(gains.tolist())["mean"] and pair["win"] == (gains > 0).sum()


# -- a kill at any moment ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_evaluation_ends_in_the_same_results(tmp_path: Path) -> None:
    """The file is compared byte for byte; what took how long stands apart."""

    def arguments(out: str) -> list[str]:
        return [sys.executable, "-m", "trueplex", "eval", "--suite", "remainder-easy", "--suite", "chain-easy", "--n", "10",
                "--samples", "8", "--max-batch-size", "24", "--out", str(tmp_path / out), "--quiet"]  # fmt: skip

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(arguments("whole"), check=True, capture_output=True, env=environment)
    stored = tmp_path / "killed" / "remainder-easy" / "traces.arrow"
    process = subprocess.Popen(
        arguments("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    while process.poll() is None and not (stored.exists() and stored.stat().st_size > 20_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run(arguments("killed"), check=True, capture_output=True, env=environment)
    whole, killed = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "killed"))
    assert whole == killed
    timing = json.loads((tmp_path / "killed" / "timing.json").read_text())
    assert timing["chain-easy"]["traces"] == 80 and timing["chain-easy"]["seconds"] > 0
