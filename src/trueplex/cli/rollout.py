"""`trueplex rollout`: problems of a suite or a file, sampled, graded and stored."""

from __future__ import annotations

from pathlib import Path

from trueplex.cli.progress import Bar
from trueplex.data.suites import problems_of
from trueplex.models.load import load
from trueplex.solving.rollouts import rollout
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings


def roll(
    data: str, split: str | None, n: int | None, model: str, device: str | None, settings: Settings, out: Path,
    quiet: bool, data_dir: Path | None = None,
) -> None:  # fmt: skip
    """Sample, grade and store traces of every problem."""
    problems = problems_of(data, split, n, settings.seed, data_dir, default_split="train")
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, settings)
    with Bar(len(problems) * settings.schedule.most, quiet) as bar:
        rollout(backbone, problems, settings, out, scorer, bar.step)
