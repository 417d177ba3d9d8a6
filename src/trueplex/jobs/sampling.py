"""`trueplex rollout`: problems of a suite or a file, sampled, graded and stored."""

from __future__ import annotations

from pathlib import Path

from trueplex.backbone import load
from trueplex.errors import InputError
from trueplex.inputs import read_jsonl
from trueplex.progress import Bar
from trueplex.reference import tasks
from trueplex.scorers import choose_scorer
from trueplex.session import say
from trueplex.settings import Settings
from trueplex.train.rollouts import rollout
from trueplex.types import Problem


def problems_of(data: str, split: str, n: int, seed: int) -> list[Problem]:
    """Problems of a reference suite, or of a JSONL file, whose bad lines are said and skipped."""
    if data == "reference" or data in tasks.SUITES:
        return tasks.problems(data, split, n, seed)
    if not Path(data.removeprefix("@")).exists():
        raise InputError(f"no suite or file {data!r}; mend: a path, or one of reference, {', '.join(tasks.SUITES)}")
    problems, complaints = read_jsonl(data.removeprefix("@"))
    for complaint in complaints:
        say(complaint)
    return problems[:n]


def roll(
    data: str, split: str, n: int, model: str, device: str | None, settings: Settings, out: Path, quiet: bool
) -> None:
    """Sample, grade and store traces of every problem."""
    problems = problems_of(data, split, n, settings.seed)
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, settings, say)
    with Bar(len(problems) * settings.waves.most, quiet) as bar:
        rollout(backbone, problems, settings, out, scorer, bar.step, say)
