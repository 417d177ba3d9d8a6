"""Replicas on Ray, started here: one process's traces and figures, whoever is killed. Skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from test_spread import SETTINGS, nothing, stored

from trueplex.cli.groups import ModelOptions
from trueplex.data.embedded import tasks
from trueplex.errors import InputError, ModelError, OptionError
from trueplex.evals import run as evaluation
from trueplex.models.load import load
from trueplex.scale import runs
from trueplex.scale.cluster import Cluster
from trueplex.scale.replica import About, Done, Job, Work
from trueplex.scale.spread import Said
from trueplex.solving import rollouts
from trueplex.solving.scorers import choose_scorer

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


class Deadly:
    """A cluster on which a replica is killed after some answers, with work half done."""

    def __init__(self, cluster: Cluster, after: int) -> None:
        self.cluster, self.after, self.killed = cluster, after, 0
        self.replicas, self.accelerated = cluster.replicas, cluster.accelerated

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        pids: dict[int, int] = {}
        answers = 0
        for number, said in self.cluster.run(job, work):
            if isinstance(said, About):
                pids[number] = said.pid
            answers += isinstance(said, Done)
            if answers == self.after and not self.killed:
                self.killed = pids[number]
                os.kill(self.killed, signal.SIGKILL)
            yield number, said


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(replicas=2, gpus=0) as cluster:
        yield cluster


def test_two_replicas_draw_what_one_process_draws_and_one_may_die(cluster: Cluster, tmp_path: Path, said: list[str]) -> None:  # fmt: skip
    problems = tasks.problems("chain-easy", "test", 10, 0)
    whole = stored(rollouts.rollout(load("reference"), problems, SETTINGS, tmp_path / "one"))
    deadly, counted = Deadly(cluster, 3), [0]

    def count(done: int, tokens: int) -> None:
        counted[0] += done

    path = runs.rollout(deadly, Job(ModelOptions().load, SETTINGS), problems, tmp_path / "two", count)
    assert stored(path) == whole and counted[0] == len(whole) == 40
    assert deadly.killed and "restarted 1 times" in said[-1]


def test_an_evaluation_on_ray_ends_in_the_same_file(cluster: Cluster, tmp_path: Path) -> None:
    suites = {"easy": tasks.problems("chain-easy", "test", 5, 0), "more": tasks.problems("countdown-easy", "test", 3, 0)}  # fmt: skip
    scorer, settings = choose_scorer(reference := load("reference"), SETTINGS)
    evaluation.evaluate(reference, suites, settings, tmp_path / "one", scorer, nothing)
    runs.evaluate(Deadly(cluster, 4), Job(ModelOptions().load, SETTINGS), suites, tmp_path / "two", nothing)
    one, two = ((tmp_path / name / evaluation.RESULTS).read_text() for name in ("one", "two"))
    assert one == two


def test_what_cannot_work_is_one_line(cluster: Cluster) -> None:
    with pytest.raises(ModelError, match="no model"):
        list(runs.solve(cluster, Job(ModelOptions("not-there").load, SETTINGS), tasks.problems("chain-easy", "test", 2, 0)))  # fmt: skip


def test_a_cluster_that_is_not_there_or_too_small_is_refused(cluster: Cluster) -> None:
    """Last, as one process is in one cluster at a time: what is there already is asked."""
    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'.*Try"):
        Cluster("127.0.0.1:1")
    cluster.close()
    with pytest.raises(OptionError, match="3 replicas of 1 GPUs need 3, and the cluster has 0"):
        Cluster(replicas=3, gpus=1)
