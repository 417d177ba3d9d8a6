"""`trueplex score`: stored traces get the scores that they would have had live, and count as a run with that verifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trueplex.data.traces import read_traces
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError
from trueplex.models.backbone import Backbone
from trueplex.solving.rollouts import rollout
from trueplex.solving.scoring import score_folder
from trueplex.solving.settings import Settings
from trueplex.types import Problem
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer


def test_stored_traces_are_scored_as_live(qwen: Backbone, tmp_path: Path) -> None:
    problems = [Problem(f"{n} + 1?", answers=(str(n + 1),)) for n in range(3)]
    plain = Settings(paths=3, thinking=Thinking(ending=Ending(20)), verifier="none", probe_every=8)
    scored = replace(plain, verifier="mine")
    scorer = OneTokenScorer(OneTokenVerifier(qwen, rank=2), every=8)
    live = rollout(qwen, problems, scored, tmp_path / "live", scorer, exact=True)
    rollout(qwen, problems, plain, tmp_path / "plain", exact=True)
    again = score_folder(qwen, tmp_path / "plain", scorer, "mine", tmp_path / "again")
    wanted, found = ({(t.problem.key, t.index): t for t, _ in read_traces(path)} for path in (live, again))
    assert wanted.keys() == found.keys()
    for key, trace in wanted.items():
        assert [at for at, _ in found[key].scores] == [at for at, _ in trace.scores]
        assert [s for _, s in found[key].scores] == pytest.approx([s for _, s in trace.scores], abs=1e-5)
        assert found[key].probe_tokens == trace.probe_tokens
    sampled: list[int] = []
    rollout(qwen, problems, scored, tmp_path / "again", scorer, lambda done, tokens: sampled.append(tokens), exact=True)
    assert sum(sampled) == 0  # an evaluation with this verifier finds all of its traces there


def test_what_was_not_rolled_out_cannot_be_scored(qwen: Backbone, tmp_path: Path) -> None:
    scorer = OneTokenScorer(OneTokenVerifier(qwen, rank=2))
    with pytest.raises(InputError, match=r"holds no rollout\.json"):
        score_folder(qwen, tmp_path, scorer, "mine", tmp_path / "out")
