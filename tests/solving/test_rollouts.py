"""Rollouts that were broken off: none is repeated; an evaluation repeats a round and has the same bits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from trueplex.data.about import MANIFEST
from trueplex.data.traces import read, read_traces
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import StoreError
from trueplex.evals.run import evaluate
from trueplex.models.backbone import Backbone
from trueplex.solving.rollouts import rollout
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Status


def break_off(backbone: Backbone, problems: Sequence[Problem], settings: Settings, out: Path, exact: bool) -> None:
    """A run that is stopped twice, each time in the midst of a round."""
    for after in (10, 31):
        seen = 0

        def die(traces: int, tokens: int, after: int = after) -> None:
            nonlocal seen
            seen += traces
            if seen > after and tokens:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rollout(backbone, problems, settings, out, progress=die, exact=exact)


def test_rollouts_are_resumed_not_repeated(qwen: Backbone, tmp_path: Path) -> None:
    """Interrupted while traces are live: finished ones are kept, the others go on where they were."""
    problems = [Problem(f"Problem {i}", answers=("1",)) for i in range(20)]
    # One draw a step, as of many some fall on a border that rounding moves; a stop string for lengths that differ.
    settings = Settings(
        paths=4, thinking=Thinking("discrete", ending=Ending(90, stop=("7",))), verifier="none", rows=16
    )
    whole = rollout(qwen, problems, settings, tmp_path / "whole")
    break_off(qwen, problems, settings, tmp_path / "cut", exact=False)
    statuses = [row["status"] for row in read(tmp_path / "cut", ("status",))]
    assert "running" in statuses and 10 < len(statuses) - statuses.count("running") < 80
    again = rollout(qwen, problems, settings, tmp_path / "cut")
    assert sum(row["status"] != "running" for row in read(again, ("status",))) == 80  # none was made twice
    kept = [sorted(((t.problem.text, t.index, t.steps.ids.tolist(), t.text, t.status) for t, _ in read_traces(path)))
            for path in (whole, again)]  # fmt: skip
    assert kept[0] == kept[1]
    with pytest.raises(StoreError, match=r"another configuration \(problems\)"):
        rollout(qwen, problems[:3], settings, tmp_path / "cut")


def test_rollouts_grow_by_more_problems(qwen: Backbone, tmp_path: Path) -> None:
    problems = [Problem(f"Problem {i}", answers=("1",)) for i in range(3)]
    settings = Settings(paths=2, thinking=Thinking("discrete", ending=Ending(6)), verifier="none")
    seen: list[tuple[int, int]] = []
    few = [row["text"] for row in read(rollout(qwen, problems[:2], settings, tmp_path), ("text",))]
    more = rollout(qwen, problems, settings, tmp_path, progress=lambda done, tokens: seen.append((done, tokens)))
    assert seen[0] == (4, 0) and sum(done for done, _ in seen[1:]) == 2  # what was stored is not made again
    assert [row["text"] for row in read(more, ("text",))][:4] == few
    with pytest.raises(StoreError, match=r"another configuration \(seed\)"):
        rollout(qwen, problems, replace(settings, seed=1), tmp_path)


def test_a_folder_that_lacks_nothing_is_read_wherever_it_was_filled(qwen: Backbone, tmp_path: Path) -> None:
    """Sampled on a GPU, judged on a laptop; but nothing is added to traces of another device."""
    problems = [Problem(f"Problem {i}", answers=("1",)) for i in range(2)]
    settings = Settings(paths=2, thinking=Thinking("discrete", ending=Ending(6)), verifier="none")
    path = rollout(qwen, problems, settings, tmp_path / "gsm")
    manifest = json.loads((tmp_path / "gsm" / MANIFEST).read_text())
    manifest["config"]["device"] = "cuda:7"
    del manifest["checksum"]
    (tmp_path / "gsm" / MANIFEST).write_text(json.dumps(manifest))
    before = path.read_bytes()
    result = evaluate(qwen, {"gsm": problems}, settings, tmp_path, None, lambda done, tokens: None, ["majority"])
    assert path.read_bytes() == before and result["config"]["device"] == "cuda:7"
    with pytest.raises(StoreError, match=r"another configuration \(device\)"):
        rollout(qwen, [*problems, Problem("Problem 3", answers=("1",))], settings, tmp_path / "gsm")


@pytest.mark.slow
def test_a_broken_off_evaluation_has_the_same_bits(qwen: Backbone, tmp_path: Path) -> None:
    """Not only the same words: log-probs, weights and entropies of every step, of multiplex thinking at that."""
    problems = [Problem("Hi" + "!" * i, answers=(str(i),)) for i in range(30)]
    settings = Settings(4, Thinking(width=2, ending=Ending(60, stop=("7",))), "none", rows=6)

    def stored(path: Path) -> dict[tuple[str, int], list[bytes]]:
        kept: dict[tuple[str, int], list[bytes]] = {}
        for trace, _ in read_traces(path):
            if trace.status is not Status.RUNNING:
                assert trace.steps is not None and (trace.problem.text, trace.index) not in kept
                kept[trace.problem.text, trace.index] = [array.tobytes() for array in trace.steps.arrays()]
        return kept

    whole = stored(rollout(qwen, problems, settings, tmp_path / "whole", exact=True))
    assert len(whole) == 120
    for exact in (True, False):
        break_off(qwen, problems, settings, tmp_path / str(exact), exact)
    assert stored(rollout(qwen, problems, settings, tmp_path / "True", exact=True)) == whole
    other = stored(rollout(qwen, problems, settings, tmp_path / "False"))
    assert other.keys() == whole.keys() and other != whole  # what rounds are for
