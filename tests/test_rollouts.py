"""Rollouts that were broken off: an evaluation repeats a round and has the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from trueplex.backbone import Backbone
from trueplex.engine.ending import Ending
from trueplex.engine.thinking import Thinking
from trueplex.settings import Settings
from trueplex.store import read_traces
from trueplex.train.rollouts import rollout
from trueplex.types import Problem, Status


def broken_off(backbone: Backbone, problems: Sequence[Problem], settings: Settings, out: Path, exact: bool) -> Path:
    """A run that was stopped twice, each time in the midst of a round, and taken up again."""
    for after in (9, 31):
        seen = 0

        def die(traces: int, tokens: int, after: int = after) -> None:
            nonlocal seen
            seen += traces
            if seen > after and tokens:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rollout(backbone, problems, settings, out, progress=die, exact=exact)
    return rollout(backbone, problems, settings, out, exact=exact)


def test_a_broken_off_evaluation_has_the_same_bits(qwen: Backbone, tmp_path: Path) -> None:
    """Not only the same words: log-probs, weights and entropies of every step, of multiplex thinking at that."""
    problems = [Problem("Hi" + "!" * i, answers=(str(i),)) for i in range(30)]
    settings = Settings(4, Thinking(width=2, ending=Ending(60, stop=("7",))), "none", rows=6)

    def stored(path: Path) -> dict[tuple[str, int], list[bytes]]:
        kept: dict[tuple[str, int], list[bytes]] = {}
        for trace, _ in read_traces(path, print):
            if trace.status is not Status.RUNNING:
                assert trace.steps is not None and (trace.problem.text, trace.index) not in kept
                kept[trace.problem.text, trace.index] = [array.tobytes() for array in trace.steps.arrays()]
        return kept

    whole = stored(rollout(qwen, problems, settings, tmp_path / "whole", exact=True))
    assert len(whole) == 120
    assert stored(broken_off(qwen, problems, settings, tmp_path / "exact", exact=True)) == whole
    other = stored(broken_off(qwen, problems, settings, tmp_path / "not", exact=False))
    assert other.keys() == whole.keys() and other != whole  # what rounds are for
