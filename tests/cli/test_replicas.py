"""`--ray`: a bare one means an address, what has no effect is refused, and without Ray the extra is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trueplex.cli import replicas
from trueplex.cli.replicas import with_address
from trueplex.data.traces import read_traces
from trueplex.scale.spread import Here

Run = Callable[..., tuple[int, str, str]]
SHORT = ("--max-tokens", "24", "--paths", "4", "--verifier", "none", "--quiet")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["solve", "--ray"], ["solve", "--ray", "local"]),
        (["solve", "--ray", "--json", "2+2"], ["solve", "--ray", "local", "--json", "2+2"]),
        (["solve", "--ray", "auto", "2+2"], ["solve", "--ray", "auto", "2+2"]),
        (["solve", "--ray=head:6379", "2+2"], ["solve", "--ray=head:6379", "2+2"]),
        (["solve", "--", "--ray"], ["solve", "--", "--ray"]),
    ],
)
def test_a_bare_option_means_ray_on_this_machine(given: list[str], meant: list[str]) -> None:
    assert with_address(given) == meant


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--replicas", "2"), "--replicas has no effect without --ray"),
        (("--gpus-per-replica", "1"), "--gpus-per-replica has no effect without --ray"),
        (("--ray", "--gpus-per-replica", "-1"), "--gpus-per-replica is -1"),
        (("--ray", "--replicas", "0"), "--replicas is 0"),
        (("--ray", "--budget-tokens", "100"), "a budget is counted within one process"),
        (("--ray", "--alarm", "under:0.1@8=run"), "ends a whole run"),
    ],
)
def test_what_would_have_no_effect_is_refused(trueplex: Run, arguments: tuple[str, ...], told: str) -> None:
    code, out, err = trueplex("solve", "2 + 2", *arguments)
    assert (code, out) == (2, "") and told in err and "Try:" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--max-replicas", "2"), "--max-replicas has no effect without --replicas"),
        (("--ray",), "--ray has no effect without --replicas"),
        (("--replicas", "3", "--max-replicas", "2"), "--max-replicas 2 is below --replicas 3"),
    ],
)
def test_a_server_without_replicas_has_no_cluster(trueplex: Run, arguments: tuple[str, ...], told: str) -> None:
    code, out, err = trueplex("serve", *arguments)
    assert (code, out) == (2, "") and told in err and "Try:" in err


@pytest.mark.parametrize("command", ["solve", "rollout", "eval"])
def test_without_ray_the_extra_is_named(trueplex: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    own = {
        "solve": ("2 + 2",),
        "rollout": ("--data", "reference", "--out", str(tmp_path)),
        "eval": ("--suite", "reference", "--out", str(tmp_path)),
    }
    code, out, err = trueplex(command, *own[command], "--ray")
    assert (code, out) == (2, "") and "pip install 'trueplex[ray]'" in err


class Local(Here):
    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: object) -> None: ...


def test_solving_on_replicas_prints_and_saves_the_same(trueplex: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    """Also what does not fit the model is told, and the rest is solved; a saved run is not solved again."""
    monkeypatch.setattr(replicas.ReplicatedModelOptions, "cluster", lambda self: Local())
    problems = ("Ann has 3 apples. Ann buys 4 more. How many apples are there now?", "7 * 8 = ?", "long " * 3000)
    alone = trueplex("solve", *problems, "--json", "--save", str(tmp_path / "alone.jsonl"), *SHORT)
    spread = trueplex("solve", *problems, "--json", "--save", str(tmp_path / "spread.jsonl"), *SHORT, "--ray")
    assert alone[0] == spread[0] == 2 and "positions" in spread[2]
    one, many = ([json.loads(line) for line in text.splitlines()] for text in (alone[1], spread[1]))
    for solved in (*one, *many):
        del solved["seconds"]
    assert one == many and len(one) == 2
    drawn = [
        {(t.problem.text, t.index): t.steps.ids.tolist() for t, _ in read_traces(tmp_path / f"{name}.jsonl")}
        for name in ("alone", "spread")
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 8
    size = (tmp_path / "spread.jsonl").stat().st_size
    again = trueplex("solve", *problems, "--json", "--save", str(tmp_path / "spread.jsonl"), "--resume", *SHORT, "--ray")  # fmt: skip
    assert len(again[1].splitlines()) == 2 and (tmp_path / "spread.jsonl").stat().st_size == size
    other = trueplex("solve", problems[0], "--save", str(tmp_path / "spread.jsonl"), "--resume", *SHORT, "--ray", "--temperature", "0.5")  # fmt: skip
    assert other[0] == 2 and "other options" in other[2]
