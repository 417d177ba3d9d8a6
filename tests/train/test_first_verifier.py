"""A verifier from nothing but problems: what it takes is said first, and what cannot teach is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trueplex.data.embedded import tasks
from trueplex.data.traces import open_store, read
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.solving.rollouts import rollout
from trueplex.solving.settings import Settings
from trueplex.train.first_verifier import _graded
from trueplex.types import Problem


def table(path: Path, right: bool, n: int = 3) -> str:
    found = tasks.problems("chain-easy", "train", n, 0)
    rows = [{"problem": p.text, "answer": p.answers[0] if right else "-1"} for p in found]  # type: ignore[index]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_estimate_comes_first_and_a_dry_run_ends_there(tmp_path: Path, trueplex) -> None:
    out = tmp_path / "v"
    code, _, told = trueplex("train", "verifier", "--problems", table(tmp_path / "p.jsonl", True), "--samples", "2", "--max-tokens", "30",
                             "--out", str(out), "--dry-run", "--quiet")  # fmt: skip
    assert code == 0 and "minutes on this machine" in told and "of 3 problems" in told
    assert not (out / "rollouts").exists() and not (out / "verifier.json").exists()


def test_traces_that_are_all_wrong_teach_nothing_and_that_is_said_before_training(tmp_path: Path, trueplex) -> None:
    code, _, told = trueplex("train", "verifier", "--problems", table(tmp_path / "p.jsonl", False), "--samples", "2", "--max-tokens", "30",
                             "--out", str(tmp_path / "v"), "--quiet")  # fmt: skip
    assert code == 2 and "0 of 3 problems have right and wrong traces" in told and "Try: easier problems" in told
    assert not (tmp_path / "v" / "verifier.json").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((), "nothing to learn from"),
        (("--data", "x", "--samples", "4"), "have no effect on traces that are stored"),
        (("--data", "x", "--temperature", "0.5"), "have no effect on traces that are stored"),
        (("--data", "x", "--problems", "chain-easy"), "give one of them"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: tuple[str, ...], why: str, tmp_path: Path, trueplex) -> None:
    code, _, told = trueplex("train", "verifier", *options, "--out", str(tmp_path / "v"))
    assert code == 2 and why in told


def test_what_is_learned_from_does_not_depend_on_the_order_that_traces_ended_in(qwen: Backbone, tmp_path: Path) -> None:
    """Killed among its rollouts, a run stored the same traces in another order, and learned another verifier from them."""
    problems = [Problem(f"Problem {i}", answers=("1",)) for i in range(3)]
    settings = Settings(paths=2, thinking=Thinking("discrete", ending=Ending(4)), verifier="none")
    rollout(qwen, problems, settings, tmp_path)
    store = open_store(tmp_path / "other.arrow")
    store.append(list(read(tmp_path))[::-1])
    store.close()
    names = [
        [(t.problem.text, t.index) for t, _ in _graded(path, qwen)] for path in (tmp_path, tmp_path / "other.arrow")
    ]
    assert names[0] == names[1] and len(set(names[0])) == 6


@pytest.mark.slow
def test_one_command_makes_a_verifier(tmp_path: Path, trueplex) -> None:
    code, _, told = trueplex("train", "verifier", "--problems", "chain-easy", "--n", "16", "--samples", "8", "--rank", "4", "--batch", "16",
                             "--out", str(tmp_path / "v"), "--quiet")  # fmt: skip
    assert code == 0, told
    assert (
        "too few to tell how good" in told and "not calibrated" in told and (tmp_path / "v" / "verifier.json").exists()
    )
    code, _out, told = trueplex(
        "solve", "Ann has 3 apples. How many apples are there now?", "--paths", "2", "--verifier", str(tmp_path / "v")
    )
    assert code in (0, 1), told
