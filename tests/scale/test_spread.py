"""Work that is spread over replicas: the traces, votes and files of one process, whoever dies or answers twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from trueplex.data.embedded import tasks
from trueplex.data.traces import read_traces
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, ModelError, OptionError, StoreError, TrueplexError
from trueplex.evals import run as evaluation
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.scale import runs
from trueplex.scale.replica import About, Failed, Job, Replica, Work
from trueplex.scale.spread import Here, Said, spread
from trueplex.solving import rollouts
from trueplex.solving.loop import Solved, stream
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings
from trueplex.types import Problem

SETTINGS = Settings(4, Thinking("multiplex", ending=Ending(24)), "none", rows=8, select="majority")


@pytest.fixture(scope="module")
def reference() -> Backbone:
    return load("reference")


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return tasks.problems("chain-easy", "test", 5, 0)


def stored(path: Path) -> dict[tuple[str, int], Any]:
    """What was drawn, by problem and index."""
    traces = list(read_traces(path))
    assert len({(t.problem.text, t.index) for t, _ in traces}) == len(traces)
    return {(t.problem.text, t.index): (t.text, t.correct, t.status, t.steps.ids.tolist(), ids) for t, ids in traces}


@dataclass
class Unsteady(Here):
    """Replicas that answer some work twice, die in the midst of other, and take the rest in another order."""

    replicas = 3
    runs: int = 0

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        self.runs += 1
        answers = list(super().run(job, work[::-1]))
        if self.runs == 1:
            lost = {len(answers) - 1, len(answers) // 2}
            yield from (one for place, one in enumerate(answers) if place not in lost)
        yield from answers[: len(answers) // 3]
        if self.runs > 1:
            yield from answers


def nothing(done: int, tokens: int) -> None: ...


@pytest.mark.parametrize("runner", [Here(), Unsteady()])
def test_rollouts_are_those_of_one_process(runner: Here, reference: Backbone, problems: list[Problem], tmp_path: Path) -> None:  # fmt: skip
    whole = stored(rollouts.rollout(reference, problems, SETTINGS, tmp_path / "one"))
    counted = [0, 0]

    def count(done: int, tokens: int) -> None:
        counted[0] += done
        counted[1] += tokens

    job = Job(lambda: reference, SETTINGS)
    spread_out = stored(runs.rollout(runner, job, problems, tmp_path / "many", count))
    assert spread_out == whole and counted[0] == len(whole) == 20
    before = (tmp_path / "many" / rollouts.TRACES).read_bytes()
    runs.rollout(runner, job, problems, tmp_path / "many", nothing)
    assert (tmp_path / "many" / rollouts.TRACES).read_bytes() == before  # all was there
    assert rollouts.rollout(reference, problems, SETTINGS, tmp_path / "many").read_bytes() == before
    with pytest.raises(StoreError, match="another configuration"):
        runs.rollout(runner, replace(job, settings=replace(SETTINGS, seed=1)), problems, tmp_path / "many", nothing)


def test_a_run_of_one_process_is_finished_by_replicas(reference: Backbone, problems: list[Problem], tmp_path: Path) -> None:  # fmt: skip
    """Begun traces go on where they were: nothing is drawn again."""
    seen = 0

    def interrupt(done: int, tokens: int) -> None:
        nonlocal seen
        seen += done
        if seen > 9 and tokens:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollouts.rollout(reference, problems, SETTINGS, tmp_path / "cut", progress=interrupt)
    kept = stored(tmp_path / "cut")
    path = runs.rollout(Here(), Job(lambda: reference, SETTINGS), problems, tmp_path / "cut", nothing)
    assert stored(path) == stored(rollouts.rollout(reference, problems, SETTINGS, tmp_path / "whole"))
    assert len(kept) > 9


@pytest.mark.parametrize("runner", [Here(), Unsteady()])
def test_an_evaluation_ends_in_the_same_file(runner: Here, reference: Backbone, problems: list[Problem], tmp_path: Path) -> None:  # fmt: skip
    scorer, settings = choose_scorer(reference, replace(SETTINGS, verifier="auto", select=None))
    suites = {"easy": problems[:3], "more": tasks.problems("countdown-easy", "test", 2, 0)}
    evaluation.evaluate(reference, suites, settings, tmp_path / "one", scorer, nothing)
    runs.evaluate(
        runner,
        Job(lambda: reference, replace(SETTINGS, verifier="auto", select=None)),
        suites,
        tmp_path / "many",
        nothing,
    )
    one, many = ((tmp_path / name / evaluation.RESULTS).read_text() for name in ("one", "many"))
    assert one == many
    with pytest.raises(OptionError, match="unknown"):
        runs.evaluate(runner, Job(lambda: reference, SETTINGS), suites, tmp_path / "x", nothing, ["guessing"])


def test_solutions_are_those_of_one_process(reference: Backbone, problems: list[Problem]) -> None:
    """A problem that is asked twice is solved twice, and one that does not fit the model is told."""
    asked = [*problems, problems[0], Problem("long " * 4000)]
    scorer, settings = choose_scorer(reference, replace(SETTINGS, verifier="auto", select=None))
    one = {e.request: e.solution for e in stream(reference, asked[:-1], settings, scorer) if isinstance(e, Solved)}
    job = Job(lambda: reference, replace(SETTINGS, verifier="auto", select=None), strict=True)
    (_, _, none), *done = runs.solve(Unsteady(), job, asked)
    many = {number: d for _, number, d in done if d}
    assert none is None and sorted(many) == list(range(7)) and len(done) == 7
    assert "positions" in many.pop(6).complaint
    for number, d in many.items():
        assert d.solution
        assert (d.solution.answer, d.solution.usage) == (one[number].answer, one[number].usage)
        assert [t.text for t in d.solution.traces] == [t.text for t in one[number].traces]
        assert all(t.steps is None for t in d.solution.traces) and len(d.rows) == 4


class Differing(Here):
    """Its second replica holds what the test says."""

    def __init__(self, **other: Any) -> None:
        self.other = other

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        for said in super().run(job, work):
            yield said
            if isinstance(said[1], About):
                yield said[0], replace(said[1], same=said[1].same | self.other)


@pytest.mark.parametrize(("what", "named"), [("model", "weights"), ("version", "trueplex"), ("scorer", "verifier")])
def test_replicas_that_differ_are_refused(what: str, named: str, reference: Backbone, problems: list[Problem]) -> None:
    with pytest.raises(ModelError, match=f"differ in {named}"):
        list(spread(Differing(**{what: "other"}), Job(lambda: reference, SETTINGS), [Work(0, problems[:1])]))


def test_what_a_replica_raises_ends_the_run(problems: list[Problem]) -> None:
    job = Job(lambda: load("no/such/model/here"), SETTINGS)
    with pytest.raises(ModelError, match="no model"):
        list(spread(Here(), job, [Work(0, problems)]))
    assert isinstance(Replica(job).failed, Failed)

    class Silent(Here):
        def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
            return iter(())

    with pytest.raises(TrueplexError, match="got no result"):
        list(spread(Silent(), job, [Work(0, problems)]))
    with pytest.raises(InputError, match="no answers"):
        runs.rollout(Here(), job, [Problem("Hi")], "unused", nothing)
