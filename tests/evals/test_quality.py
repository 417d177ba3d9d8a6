"""Judging scores: against scikit-learn, against closed forms, and through the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_auc_score

from conftest import stored_trace
from trueplex.data.traces import read_traces
from trueplex.evals.metrics import calibration
from trueplex.evals.quality import SHARES, Scored, judge, scored_by
from trueplex.models.backbone import Backbone
from trueplex.types import Trace
from trueplex.verify import base as reading
from trueplex.verify.confidence import Confidence, ConfidenceScorer
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer


def world(problems: int = 30, paths: int = 8, seed: int = 0) -> tuple[list[tuple[Trace, tuple[int, ...]]], np.ndarray]:
    """Traces of problems of different hardness; right ones answer 4, wrong ones 5."""
    rng = np.random.default_rng(seed)
    stored = []
    for p in range(problems):
        ease = rng.random()
        for i in range(paths):
            right = bool(rng.random() < ease)
            stored.append((stored_trace(i, "4" if right else "5", right, problem=f"problem {p}"), (1,)))
    return stored, np.array([t.correct for t, _ in stored], dtype=float)


def table(values: np.ndarray) -> Scored:
    return Scored(np.repeat(values[:, None], len(SHARES), 1), 1.0, 2e6, True)


def test_calibration_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(4000)
    right = (rng.random(4000) < scores**2).astype(float)
    found = calibration(scores, right)
    assert found["brier"] == pytest.approx(brier_score_loss(right, scores), abs=1e-4)
    shares, means = calibration_curve(right, scores, n_bins=10)
    assert [c["right"] for c in found["curve"]] == pytest.approx(shares.tolist(), abs=1e-4)
    assert [c["score"] for c in found["curve"]] == pytest.approx(means.tolist(), abs=1e-4)
    counts = np.histogram(scores, 10, (0, 1))[0]
    assert found["ece"] == pytest.approx(float(np.sum(np.abs(shares - means) * counts) / 4000), abs=1e-4)
    assert calibration(np.array([1.0, 0.0]), np.array([1.0, 0.0])) | {"curve": 0} == {"brier": 0, "ece": 0, "curve": 0}


def test_a_perfect_score_a_useless_one_and_one_that_knows_only_the_problem() -> None:
    stored, right = world()
    rng = np.random.default_rng(2)
    ease = {p: np.mean([r for (t, _), r in zip(stored, right, strict=True) if t.problem.text == p])
            for p in {t.problem.text for t, _ in stored}}  # fmt: skip
    scorers = {"perfect": right * 0.8 + 0.1, "chance": rng.random(len(right)),
               "hardness": np.array([ease[t.problem.text] for t, _ in stored])}  # fmt: skip
    out = judge(stored, {name: table(values) for name, values in scorers.items()})
    perfect, chance, hardness = (out["scorers"][name] for name in scorers)
    assert perfect["within"]["1.0"]["mean"] == 1 and perfect["over_all"]["1.0"]["mean"] == 1
    assert perfect["votes"]["best"]["mean"] == pytest.approx(np.mean([e > 0 for e in ease.values()]), abs=1e-4)
    assert perfect["votes"]["flipped_to_right"] > 0 and perfect["votes"]["flipped_to_wrong"] == 0
    assert abs(chance["within"]["1.0"]["mean"] - 0.5) < 0.1
    gained = perfect["votes"]["weighted"]["mean"] - chance["votes"]["weighted"]["mean"]
    assert chance["votes"]["first_minus_this"]["mean"] == pytest.approx(gained, abs=2e-4) and gained > 0
    assert (
        chance["first_minus_this"]["low"] > 0.3
        and chance["first_minus_this_at_half"]["low"] > 0.3
        and "first_minus_this" not in perfect
    )
    assert hardness["over_all"]["1.0"]["mean"] > 0.75 and hardness["within"]["1.0"]["mean"] == 0.5
    assert chance["over_all"]["1.0"]["mean"] == pytest.approx(roc_auc_score(right, scorers["chance"]), abs=1e-4)


def test_ungraded_traces_are_left_out_and_counted() -> None:
    stored, right = world(6)
    stored[3][0].correct = None
    out = judge(stored, {"perfect": table(right)})
    assert out["left_out"] == 1 and out["traces"] == 47


def test_untrained_scores_are_taken_at_their_share(qwen: Backbone) -> None:
    trace, scorers = stored_trace(), {"mean": ConfidenceScorer(Confidence("deepconf", "mean")), "entropy": ConfidenceScorer(Confidence("entropy"))}  # fmt: skip
    scored = scored_by(qwen, scorers, [(trace, (1,))])
    confidence = trace.steps.confidence
    assert scored["mean"].scores[0] == pytest.approx([confidence[: int(np.ceil(5 * s))].mean() for s in SHARES])
    assert not scored["mean"].bounded and scored["entropy"].bounded


def test_traces_are_scored_a_part_at_a_time_alike(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, steps = [(stored_trace(i), (1,)) for i in range(5)], []
    scorers = {"logprob": ConfidenceScorer(Confidence("logprob"))}
    whole = scored_by(qwen, scorers, stored)["logprob"]
    monkeypatch.setattr("trueplex.evals.quality.AT_ONCE", 2)
    parts = scored_by(qwen, scorers, stored, lambda traces, tokens: steps.append((traces, tokens)))["logprob"]
    assert np.array_equal(whole.scores, parts.scores) and steps == [(2, 10), (2, 10), (1, 5)]


def test_verifiers_that_are_judged_together_read_each_batch_once(
    qwen: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged traces, in batches of two: scores are those of each verifier alone, and so are the operations that are told."""
    monkeypatch.setattr("trueplex.evals.quality.AT_ONCE", 2)
    read, whole = [], reading._read_whole
    monkeypatch.setattr(reading, "_read_whole", lambda b, x, last=None: read.append(len(x)) or whole(b, x, last))
    stored = [(stored_trace(i, problem=f"{i}"), tuple(range(1, 2 + i))) for i in (3, 0, 4, 1, 2)]
    scorers = {str(rank): OneTokenScorer(OneTokenVerifier(qwen, rank)) for rank in (2, 4)}
    alone = {name: scored_by(qwen, {name: scorer}, stored)[name] for name, scorer in scorers.items()}
    assert read == 2 * [2, 2, 1, 5]  # the last, to count operations
    read.clear()
    together = scored_by(qwen, scorers, stored)
    assert read == [2, 2, 1, 5, 5]
    for name, one in alone.items():
        assert np.array_equal(one.scores, together[name].scores) and one.flops == together[name].flops > 0


@pytest.mark.slow
def test_the_command_judges_stored_traces(tmp_path: Path, trueplex) -> None:
    def run(*arguments: str) -> SimpleNamespace:
        return SimpleNamespace(**dict(zip(("returncode", "stdout", "stderr"), trueplex(*arguments), strict=True)))

    rolled = run("rollout", "--data", "chain-hard", "--n", "6", "--samples", "8", "--thinking", "discrete", "--out",
                      str(tmp_path / "r"), "--quiet")  # fmt: skip
    assert rolled.returncode == 0, rolled.stderr
    done = run(
        "eval-verifier", str(tmp_path / "r"), "--scorers", "auto,logprob,deepconf:tail@16", "--out", str(tmp_path / "q")
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "q" / "results.json").read_text())
    figures = result["suites"]["r"]["scorers"]
    assert set(figures) == {"auto", "logprob", "deepconf:tail@16"} and "ECE" in done.stdout
    flops = {name: f["megaflops_per_trace"] for name, f in figures.items()}
    assert flops["logprob"] == flops["deepconf:tail@16"] == 0 < flops["auto"]
    # Reading a trace once costs two operations a weight and token: that and little more.
    tokens = np.mean([t.tokens for t, _ in read_traces(tmp_path / "r")])
    assert 0.5 < flops["auto"] / (2 * 1.2 * tokens) < 4
    assert figures["auto"]["within"]["1.0"]["mean"] > figures["deepconf:tail@16"]["within"]["1.0"]["mean"]
    assert "calibration" not in figures["deepconf:tail@16"] and result["config"]["fingerprint"]
    few = run("eval-verifier", str(tmp_path / "r"), "--scorers", "logprob", "--n", "3", "--samples", "4", "--out",
                   str(tmp_path / "few"), "--quiet")  # fmt: skip
    assert few.returncode == 0 and not few.stderr, few.stderr
    judged = json.loads((tmp_path / "few" / "results.json").read_text())
    assert judged["suites"]["r"]["traces"] == 12 and judged["config"]["samples"] == 4
    del judged["checksum"]
    cut = {**judged, "suites": {}}  # as a kill leaves it, before the second suite
    (tmp_path / "few" / "results.json").write_text(json.dumps(cut))
    again = run("eval-verifier", str(tmp_path / "r"), "--scorers", "logprob", "--n", "3", "--samples", "4", "--out",
                     str(tmp_path / "few"), "--quiet")  # fmt: skip
    assert again.returncode == 0
    assert json.loads((tmp_path / "few" / "results.json").read_text())["suites"]["r"]["traces"] == 12
    judged["suites"]["r"]["right"] = "kept"  # what was judged is not judged again
    (tmp_path / "few" / "results.json").write_text(json.dumps(judged))
    kept = run("eval-verifier", str(tmp_path / "r"), "--scorers", "logprob", "--n", "3", "--samples", "4", "--out",
                    str(tmp_path / "few"), "--quiet")  # fmt: skip
    assert kept.returncode == 0 and '"kept"' in (tmp_path / "few" / "results.json").read_text()
    judged["suites"]["r"]["scorers"]["logprob"]["over_all"]["1.0"] = 0.5  # as results were before that had an interval
    (tmp_path / "few" / "results.json").write_text(json.dumps(judged))
    anew = run("eval-verifier", str(tmp_path / "r"), "--scorers", "logprob", "--n", "3", "--samples", "4", "--out",
               str(tmp_path / "few"), "--quiet")  # fmt: skip
    assert anew.returncode == 0 and '"kept"' not in (tmp_path / "few" / "results.json").read_text()
    other = run(
        "eval-verifier", str(tmp_path / "r"), "--scorers", "logprob", "--n", "2", "--out", str(tmp_path / "few")
    )
    assert other.returncode == 2 and "results of other scorers or traces" in other.stderr
    twice = run("eval-verifier", str(tmp_path / "r"), str(tmp_path / "r"), "--out", str(tmp_path / "q"))
    assert twice.returncode == 2 and "two stores have the same name" in twice.stderr
    wrong = run("eval-verifier", str(tmp_path / "r"), "--scorers", "deepconf:most", "--out", str(tmp_path / "q"))
    assert wrong.returncode == 2 and "unknown DeepConf kind" in wrong.stderr
