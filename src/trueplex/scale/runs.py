"""Rollouts, evaluations and solutions by replicas: the same store, the same draws and the same files as one process gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from trueplex.decide import alarms
from trueplex.decide.budget import Budget
from trueplex.engine.batch import ROWS
from trueplex.errors import InputError, OptionError
from trueplex.evals.methods import choose
from trueplex.evals.run import Figures
from trueplex.locks import locks
from trueplex.scale.replica import About, Done, Job, Work
from trueplex.scale.spread import Runner, spread
from trueplex.solving.rollouts import ROUND, Folder, Round
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Trace

PIECES = 4  # of work for each replica, at least, so that they end at nearly the same time

Progress = Callable[[int, int], None]


def rollout(runner: Runner, job: Job, problems: Sequence[Problem], out: str | Path, progress: Progress) -> Path:
    """As `trueplex.solving.rollouts.rollout`: traces in `out`/traces.arrow, whose path is returned, resumable after a kill.

    Raises:
        InputError: a problem has no answers to grade by, or does not fit the model.
        StoreError: `out` holds rollouts of another configuration or of other problems.
        TrueplexError: as `spread`.
    """
    with Folder(out, problems, job.settings.schedule.most) as folder:
        progress(folder.stored, 0)
        work = [one for left in folder.left() for one in cut(left, job.settings, runner)]
        for about, _, done in spread(runner, job, work):
            if done is None:
                folder.claim(about.config, about.scorer, grows=True)
            else:
                _keep(folder, done, progress)
    return folder.path


@locks("out")
def evaluate(
    runner: Runner, job: Job, suites: Mapping[str, Sequence[Problem]], out: Path, progress: Progress,
    methods: Sequence[str] | None = None, read_truncated: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """As `trueplex.evals.run.evaluate`, in the same rounds, so that every trace has the bits that one process gives it.

    What took how long is not stored: suites share the replicas.

    Raises:
        OptionError: a method is unknown or needs scores that the run does not have.
        TrueplexError: as `rollout`.
    """
    paths, traces = job.settings.schedule.most, ROUND * rows_of(job.settings, runner)
    numbers, first = count(), None
    with ExitStack() as stack:
        folders = {name: stack.enter_context(Folder(out / name, problems, paths)) for name, problems in suites.items()}
        work: dict[int, tuple[Folder, Work]] = {}
        for folder in folders.values():
            progress(folder.stored, 0)
            for chosen, _ in folder.rounds(traces):
                number = next(numbers)
                work[number] = folder, Work(number, tuple(chosen))
        for about, one, done in spread(runner, job, [one for _, one in work.values()]):
            if done is None:
                first, settings = about, about.settings
                choose(methods, about.scorer is not None, settings.probe_every, paths, about.longest)
                for folder in folders.values():
                    folder.claim(about.config, about.scorer)
            else:
                _keep(work[one.number][0], done, progress)
    assert first is not None
    figures = Figures(first.settings, out, first.scorer is not None, methods, read_truncated)
    return figures.write(suites, first.config, first.prompt, first.machine)


def solve(
    runner: Runner, job: Job, problems: Sequence[Problem], begun: Sequence[Trace] = ()
) -> Iterator[tuple[About, int, Done | None]]:
    """First (who the replicas are, 0, None); then every problem, by its number, as it is solved. Raises as `spread`.

    ``begun`` are traces of an earlier run.
    """
    work = list(cut((list(problems), list(begun)), job.settings, runner))
    for about, one, done in spread(runner, job, work):
        yield about, one.first + done.place if done else 0, done


def check_separate(settings: Settings) -> None:
    """Raise OptionError for what only one process can count: the budget and the alarms of a whole run."""
    if settings.budget != Budget():
        raise OptionError(
            "a budget is counted within one process, so replicas cannot share it. Try: drop --budget-…, or --ray"
        )
    whole = [a for a in map(alarms.parse, settings.alarms) if a.scope == "run"]
    if whole:
        raise OptionError(f"the alarm {whole[0].spelled!r} ends a whole run, and replicas do not see each other's alarms. Try: =problem, or "
                          "drop --ray")  # fmt: skip


def rows_of(settings: Settings, runner: Runner) -> int:
    """Traces that a replica decodes together."""
    return settings.rows or ROWS["cuda" if runner.accelerated else "cpu"]


def cut(left: Round, settings: Settings, runner: Runner) -> Iterator[Work]:
    """Problems and their traces in pieces of work: each fills a replica's batch, and all replicas are busy until near the end."""
    problems, begun = left
    rows, paths = rows_of(settings, runner), settings.schedule.most
    wanted = -(-len(problems) // (PIECES * runner.replicas))
    size = min(max(wanted, rows // paths, 1), max(ROUND * rows // paths, 1))
    for number, first in enumerate(range(0, len(problems), size)):
        chosen = problems[first : first + size]
        texts = {p.text for p in chosen}
        yield Work(number, chosen, [t for t in begun if t.problem.text in texts], first)


def _keep(folder: Folder, done: Done, progress: Progress) -> None:
    """Store a problem's traces. Raises InputError for one that does not fit the model."""
    if done.complaint:
        raise InputError(done.complaint)
    for row in done.rows:
        progress(int(folder.keep(row)), row["tokens"])
