"""`trueplex calibrate`: what is fitted, what is held out, and what the command refuses and keeps."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trueplex.cli.groups import LimitOptions, SampleOptions, SuiteOptions, ThinkingOrGreedy
from trueplex.cli.replicas import ReplicatedModelOptions
from trueplex.cli.rollout import rollout
from trueplex.data.traces import open_store, read
from trueplex.decide import voting
from trueplex.decide.calibration import Band, Calibration, condition, features, way_of_thinking
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, VerifierError
from trueplex.models.load import load, reference_path
from trueplex.solving.loop import Solved, stream
from trueplex.solving.scorers import choose_calibration, choose_scorer
from trueplex.solving.settings import Settings, configuration
from trueplex.train.calibrate import fit, held_out, judged, votes_of
from trueplex.types import Problem, Status, Trace

OPTIONS = json.dumps({"thinking": "discrete", "width": 1, "merge": None, "replacement": None, "noise": None, "strength": None,
                      "sampling": {}, "answer_sampling": {}, "ending": {}})  # fmt: skip
WAY = way_of_thinking(json.loads(OPTIONS))


def problems_of(count: int, paths: int, seed: int = 0) -> list[list[Trace]]:
    """Traces whose chance to be right differs by problem, scored by what they are, with noise."""
    rng = np.random.default_rng(seed)
    found = []
    for p in range(count):
        problem, chance = Problem(f"problem {seed}-{p}", answers=("1",)), rng.beta(1.5, 1.5)
        traces = []
        for i in range(paths):
            right = bool(rng.random() < chance)
            score = float(np.clip(0.55 * right + 0.45 * rng.random(), 0, 1))
            traces.append(Trace(problem, i, 0, Status.FINISHED, tokens=40, thinking_tokens=30, probe_tokens=2,
                                scores=[(32, 0.5), (40, score)], answer="1" if right else str(2 + i % 3), correct=right))  # fmt: skip
        found.append(traces)
    return found


RUNS = [
    Settings(paths=8, select=select, prune=prune)
    for select in ("weighted", "majority")
    for prune in ("none", "half:32")
]


def test_confidences_are_right_on_average_and_errors_bounded_on_problems_never_seen() -> None:
    grown, others = problems_of(600, 8), problems_of(1500, 8, seed=1)
    seen = [s for run in RUNS for s in votes_of(grown, OPTIONS, run, 32)]
    made = fit(seen, {WAY: [t for traces in grown for t in traces]}, 0.1, {"model": "m"})
    assert len(made.held) == len(RUNS) and set(made.votes) == {"weighted", "majority", *made.held}
    figures = judged(made, [s for run in RUNS for s in votes_of(others, OPTIONS, run, 32)], 0.1)
    for row in figures.values():
        assert row["problems"] == 1500 and row["ece"] < 0.06
        assert row["answered"] > 0.2 and row["error_among_answered"] <= 0.1
        assert row["right"] < 0.9  # without abstaining the bound would not hold
    band = made.bands[WAY]
    assert 0 < band.low <= band.high < 1
    name = seen[0].condition
    assert made.band(name) is band and band.state(0.99) == "trusted" and band.state(0.01) == "doubted"
    # Nothing is said of paths that a policy chose among, nor of another way of thinking.
    assert made.band(seen[-1].condition) is None is made.band(replace(name, way=replace(WAY, thinking="soft")))


def test_what_is_held_out_was_not_fitted() -> None:
    """Other outcomes on held-out problems change what is promised, and not one weight."""
    grown = problems_of(200, 4)
    seen = votes_of(grown, OPTIONS, replace(RUNS[0], paths=4), 32)
    held = sum(held_out(traces[0]) for traces in grown)
    assert 60 < held < 140
    traces = {WAY: [t for group in grown for t in group]}
    first = fit(seen, traces, 0.1, {})
    second = fit([replace(s, right=not s.right) if s.held else s for s in seen], traces, 0.1, {})
    assert first.votes == second.votes and first.held != second.held


def test_a_policy_is_simulated_not_ignored() -> None:
    grown = problems_of(30, 8)
    whole, halved = (votes_of(grown, OPTIONS, run, 32) for run in RUNS[:2])
    assert all(sum(v.paths for v in s.votes) == 8 for s in whole)
    assert all(sum(v.paths for v in s.votes) == 4 for s in halved)
    assert {s.condition for s in whole} != {s.condition for s in halved}


def test_more_traces_are_more_runs_and_promise_no_more() -> None:
    """Disjoint groups, each judged as the run of those traces alone; a problem is held out once."""
    grown = problems_of(60, 22)
    seen = votes_of(grown, OPTIONS, RUNS[1], 32)
    assert len(seen) == 120 and sum(s.first for s in seen) == 60
    second = [[replace(t, index=t.index - 8) for t in traces[8:16]] for traces in grown]
    alone = votes_of(second, OPTIONS, RUNS[1], 32)
    assert [s.votes for s in seen if not s.first] == [s.votes for s in alone] != [s.votes for s in seen if s.first]
    made = fit(seen, {}, 0.1, {})
    assert len(made.held[seen[0].condition]) == sum(held_out(traces[0]) for traces in grown)
    row = judged(made, seen, 0.1)[seen[0].condition]
    assert row["problems"] == 60 and row["votes"] == 120
    assert len(votes_of(problems_of(3, 64), OPTIONS, RUNS[0], 32)) == 3 * 4


def test_one_kind_of_outcome_teaches_nothing() -> None:
    grown = problems_of(40, 4)
    seen = [replace(s, right=True) for s in votes_of(grown, OPTIONS, replace(RUNS[0], paths=4), 32)]
    with pytest.raises(InputError, match="none is wrong"):
        fit(seen, {}, 0.1, {})


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrating") / "traces"
    rollout(
        "chain-hard", out, ReplicatedModelOptions(device="cpu"), ThinkingOrGreedy(), LimitOptions(),
        SampleOptions(samples=4, verifier="auto", max_batch_size=120), SuiteOptions(n=30, split="validation"), quiet=True,
    )  # fmt: skip
    return out


def test_the_command_keeps_what_solve_then_needs(trueplex, rollouts: Path, tmp_path: Path) -> None:
    verifier = tmp_path / "verifier"
    shutil.copytree(reference_path() / "verifier", verifier)
    (verifier / "calibration.json").unlink()
    problem = "Make 5 from 2 and 3"
    solving = ("solve", problem, "--verifier", str(verifier), "--paths", "4", "--json", "--quiet")
    code, _, said = trueplex(*solving, "--max-error", "0.3")
    assert code == 2 and "needs a calibration" in said
    code, _, said = trueplex("calibrate", str(rollouts), "--verifier", str(verifier), "--paths", "4", "--error", "0.3", "--out", str(tmp_path / "out"))  # fmt: skip
    assert code == 0, said
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["condition"]["paths"] for row in kept["runs"]] == [4] and "machine" in kept
    code, out, said = trueplex(*solving)
    assert code in (0, 1) and json.loads(out)["config"]["calibrated"], said
    stored = json.loads((verifier / "calibration.json").read_text())
    del stored["checksum"]
    backbone = load("reference", device="cpu")
    scorer, settings = choose_scorer(backbone, Settings(verifier=str(verifier)))
    for other in ({}, stored["belongs"] | {"model": "another"}, stored["belongs"] | {"verifier": "another"}):
        (verifier / "calibration.json").write_text(json.dumps(stored | {"belongs": other}))
        with pytest.raises(VerifierError, match=r"was made for another (model|verifier)"):  # not silently uncalibrated
            choose_calibration(backbone, scorer, settings)
    (verifier / "calibration.json").write_text(json.dumps(stored))
    # What was not promised for is refused, with the way out.
    code, _, said = trueplex(*solving[:-4], "--paths", "5", "--json", "--quiet", "--max-error", "0.3")
    assert code == 2 and "exactly these options" in said


def test_the_conditions_of_a_run_and_of_its_calibration_are_spelled_alike() -> None:
    """Else `--max-error` would never find what was promised."""
    backbone = load("reference", device="cpu")
    scorer, run = choose_scorer(backbone, Settings(paths=16, select="weighted"))
    shipped = choose_calibration(backbone, scorer, run)
    assert shipped is not None and condition(configuration(run, backbone)) in shipped.held


def test_a_new_calibration_stands_beside_the_old(tmp_path: Path) -> None:
    """What was promised for other ways to run is kept, of the same model and verifier; and JSON knows no infinity."""
    grown = problems_of(60, 8)
    traces = {WAY: [t for group in grown for t in group]}
    four, eight = (
        fit(votes_of(grown, OPTIONS, replace(RUNS[0], paths=n), 32), traces, 0.1, {"model": "m"}) for n in (4, 8)
    )
    both = eight.beside(four)
    assert both.held == {**four.held, **eight.held} and len(both.held) == 2
    assert eight.beside(replace(four, belongs={"model": "other"})) is eight is eight.beside(None)
    open_ended = replace(both, bands={WAY: Band(-math.inf, 0.5, 0.1)})
    open_ended.save(tmp_path)
    json.loads((tmp_path / "calibration.json").read_text(), parse_constant=pytest.fail)
    loaded = Calibration.read(tmp_path)
    assert loaded is not None and loaded.bands == open_ended.bands and loaded.held.keys() == both.held.keys()


def test_a_score_that_is_no_number_makes_no_confidence_of_none() -> None:
    """Else nothing would be below the least confidence."""
    made = fit(votes_of(problems_of(60, 8), OPTIONS, RUNS[1], 32), {}, 0.1, {})
    told = [Trace(Problem("?"), i, 0, Status.FINISHED, scores=[(9, s)], answer=a)
            for i, (a, s) in enumerate([("1", 0.9), ("1", math.nan), ("2", 0.4)])]  # fmt: skip
    confidence = made.confidence("majority", voting.majority(told), told)
    assert confidence is None or 0 < confidence < 1
    assert all(map(math.isfinite, features(voting.majority(told), told)))


def test_a_calibration_speaks_only_of_runs_like_its_own() -> None:
    backbone = load("reference", device="cpu")
    scorer, run = choose_scorer(backbone, Settings(paths=16, select="weighted"))
    shipped = choose_calibration(backbone, scorer, run)
    assert shipped is not None
    name = lambda **options: condition(configuration(replace(run, **options), backbone))  # noqa: E731
    assert shipped.covers(name()) and shipped.covers(name(paths=20)) and shipped.covers(name(prune="half:16"))
    assert not shipped.covers(name(paths=4)) and not shipped.covers(name(paths="auto:16"))
    assert not shipped.covers(name(thinking=Thinking(sampling=Sampling(temperature=0.5))))
    assert not shipped.covers(name(select="top:0.5"))
    problem = [Problem("Ann has 3 apples. Ann buys 4 more. How many apples are there now?")]
    by_an_unknown_policy = stream(backbone, problem, replace(run, prune="half:64"), scorer, calibration=shipped)
    (solution,) = [e.solution for e in by_an_unknown_policy if isinstance(e, Solved)]
    assert (
        not solution.config["calibrated"] and solution.confidence is None
    )  # what was not calibrated is not called confidence
    assert 0 < solution.agreement <= 1
    for paths, calibrated in ((8, True), (4, False)):
        events = stream(backbone, problem, replace(run, paths=paths), scorer, calibration=shipped)
        (solution,) = [e.solution for e in events if isinstance(e, Solved)]
        assert solution.config["calibrated"] is calibrated
        finished = [t for t in solution.traces if t.status.value == "finished" and t.score is not None]
        assert finished and all((t.trust in ("trusted", "uncertain", "doubted")) is calibrated for t in finished)
    assert choose_calibration(backbone, *choose_scorer(backbone, Settings(verifier="entropy"))) is None


def test_traces_that_teach_nothing_are_refused(trueplex, rollouts: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    code, _, said = trueplex(
        "rollout", "--data", "chain-easy", "--split", "validation", "--n", "2", "--samples", "2", "--out", str(bare)
    )
    assert code == 0, said
    verifier = tmp_path / "verifier"
    shutil.copytree(reference_path() / "verifier", verifier)
    code, _, said = trueplex("calibrate", str(bare), "--verifier", str(verifier), "--paths", "2")
    assert code == 2 and "without scores" in said
    code, _, said = trueplex("calibrate", str(rollouts), "--verifier", "logprob", "--paths", "2")
    assert code == 2 and "was scored by 'auto'" in said
    for wrong, why in ((("--prune", "half:5000"), "has no effect here"), (("--paths", "many"), "a number, auto")):
        code, _, said = trueplex("calibrate", str(rollouts), "--verifier", str(verifier), *wrong)
        assert code == 2 and why in said
    code, _, said = trueplex("calibrate", str(rollouts), "--verifier", str(verifier), "--paths", "9")
    assert code == 2 and "may need 9" in said
    code, _, said = trueplex("calibrate", str(rollouts), "--error", "1.5")
    assert code == 2 and "between 0 and 1" in said


def test_a_calibration_is_not_kept_in_what_was_fetched(trueplex, rollouts: Path) -> None:
    """A verifier by its hub id is refused before anything is fetched; a reader's name may hold a hub id."""
    code, _, err = trueplex("calibrate", str(rollouts), "--verifier", "some/verifier")
    assert code == 2 and "hf download some/verifier" in err
    code, _, err = trueplex("calibrate", str(rollouts), "--verifier", "prm:qwen:some/reader")
    assert code == 2 and "cannot load reward model 'some/reader'" in err


def test_problems_with_too_few_traces_are_left_out_and_said(trueplex, rollouts: Path, tmp_path: Path) -> None:
    """As an evaluation that was stopped leaves them; with none left, how to fix it."""
    verifier = tmp_path / "verifier"
    shutil.copytree(reference_path() / "verifier", verifier)
    rows = list(read(rollouts))
    short = {row["problem"] for row in rows[:1]}
    for name, kept in (
        ("some", lambda row: row["problem"] not in short or row["index"] > 0),
        ("none", lambda row: row["index"] > 0),
    ):
        store = open_store(tmp_path / f"{name}.arrow")
        store.append([row for row in rows if kept(row)])
        store.close()
    calibrating = ("--verifier", str(verifier), "--paths", "4", "--error", "0.3")
    code, _, said = trueplex("calibrate", str(tmp_path / "some.arrow"), *calibrating)
    assert code == 0 and "1 of 30 problems have fewer than the 4 traces" in said
    code, _, said = trueplex("calibrate", str(tmp_path / "none.arrow"), *calibrating)
    assert code == 2 and "may need 4" in said
