"""Training at scale, small: rollouts by replicas on Ray, a learner of two processes under torchrun, in turns; each has the other's latest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trueplex.cli.groups import ModelOptions
from trueplex.data.embedded import tasks
from trueplex.data.traces import read_traces
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.load import load
from trueplex.scale import runs
from trueplex.scale.cluster import Cluster
from trueplex.scale.replica import Job
from trueplex.solving import rollouts
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
# Discrete paths at temperature 1, of which some are wrong: a verifier learns from problems with both.
SETTINGS = Settings(4, Thinking("discrete", ending=Ending(160)), "none", rows=16, select="majority")
# Behind `--` torchrun takes no option for one of its own: it reads `--start` as a short form of its `--start-method`.
TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "--",
    "trueplex",
    "train",
    "verifier",
]
RECIPE = ["--rank", "2", "--epochs", "1", "--batch", "8", "--lr", "1e-3"]


def learned(data: Path, out: Path, *start: str) -> Path:
    """A step of the learner: from the rollouts of this one, and from the weights of the last."""
    options = ["--data", str(data), "--validation", str(data), "--out", str(out), *RECIPE, *start]
    done = subprocess.run([sys.executable, *TORCHRUN, *options], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_replicas_draw_with_what_the_learner_wrote_last(tmp_path: Path) -> None:
    backbone, problems = load("reference"), tasks.problems("chain-hard", "practice", 10, 0)
    before = learned_by = None
    with Cluster(replicas=2, gpus=0) as cluster:
        for step in range(2):
            known = {"verifier": str(learned_by), "select": "weighted"} if learned_by else {}
            settings = replace(SETTINGS, seed=step, probe_every=8, **known)
            path = runs.rollout(cluster, Job(ModelOptions().load, settings), problems, tmp_path / f"rollouts-{step}", lambda done, tokens: None)  # fmt: skip
            drawn = {(t.problem.text, t.index): t for t, _ in read_traces(path)}
            assert len(drawn) == len(problems) * SETTINGS.paths
            if learned_by:  # what the replicas scored by is what this process finds in the learner's folder
                scorer, own = choose_scorer(backbone, settings)
                alone = rollouts.rollout(backbone, problems[:3], own, tmp_path / "alone", scorer)
                for trace, _ in read_traces(alone):
                    theirs = drawn[trace.problem.text, trace.index]
                    assert (theirs.steps.ids == trace.steps.ids).all() and theirs.scores
                    assert np.array(theirs.scores) == pytest.approx(np.array(trace.scores), abs=1e-4)
            before = learned_by
            start = ["--start", str(learned_by)] if learned_by else []
            learned_by = learned(path.parent, tmp_path / f"verifier-{step}", *start)
    assert before is not None
    one, two = ((folder / "adapter_model.safetensors").read_bytes() for folder in (before, learned_by))
    assert one != two
