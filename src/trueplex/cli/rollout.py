"""`trueplex rollout`: problems of a suite or a file, sampled, graded and stored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from trueplex.cli.groups import LimitOptions, Quiet, SampleOptions, SuiteOptions, ThinkingOrGreedy
from trueplex.cli.replicas import ReplicatedModelOptions

log = logging.getLogger(__name__)

EXAMPLE = "trueplex rollout --model ./my-model --data train.jsonl --samples 16 --n 1000 --out rollouts/"

Data = Annotated[str, typer.Option(help="A suite by name (reference, dapo-math-17k, math500, …), FILE.jsonl, FILE.parquet, or OWNER/NAME[:CONFIGURATION] on the hub.")]  # fmt: skip
Out = Annotated[
    Path, typer.Option(help="Folder for the traces; an interrupted run is resumed there, also with a larger --n.")
]


def rollout(
    data: Data, out: Out, model: ReplicatedModelOptions, thinking: ThinkingOrGreedy, limits: LimitOptions, run: SampleOptions,
    suite: SuiteOptions, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Sample, grade and store traces to learn from; can be interrupted and resumed at any moment."""
    from trueplex.cli.progress import Bar
    from trueplex.data.suites import check_folder, problems_of
    from trueplex.solving import rollouts
    from trueplex.solving.scorers import choose_scorer
    from trueplex.solving.settings import Settings

    settings = Settings(
        paths=run.samples or (1 if thinking.greedy else 16), verifier=run.verifier, seed=run.seed, probe_every=run.probe_every,
        rows=run.max_batch_size, select="majority", answer=run.answer, thinking=thinking.build(limits),
    )  # fmt: skip
    check_folder([data], suite.data_dir)
    problems = problems_of(data, suite.split, suite.n, settings.seed, suite.data_dir, default_split="train",
                           columns=suite.columns, kind=settings.kind)  # fmt: skip
    if model.ray:
        from trueplex.scale import runs
        from trueplex.scale.replica import Job

        with model.cluster() as cluster, Bar(len(problems) * settings.schedule.most, quiet) as bar:
            runs.rollout(cluster, Job(model.load, settings, limits.check), problems, out, bar.step)
        log.info(rollouts.summary(out / rollouts.TRACES))
        return
    backbone = model.load()
    limits.check(backbone)
    scorer, settings = choose_scorer(backbone, settings)
    with Bar(len(problems) * settings.schedule.most, quiet) as bar:
        path = rollouts.rollout(backbone, problems, settings, out, scorer, bar.step)
    log.info(f"{path}: {rollouts.summary(path)}")
