"""`trueplex train verifier --problems …`: a verifier from nothing, in one command."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from trueplex.cli.groups import LimitOptions, ModelOptions, Quiet, ThinkingOptions
from trueplex.cli.options import Within
from trueplex.errors import OptionError
from trueplex.locks import locks

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProblemOptions:
    """Problems to make a verifier from, where there are no rollouts yet."""

    PANEL: ClassVar[str] = "From nothing: problems in place of --data"

    problems: Annotated[str | None, typer.Option(help="Problems with answers: a suite, FILE.jsonl, … as in `trueplex rollout`. They are rolled out, and a verifier is trained, calibrated and judged on them, after an estimate.", show_default=False)] = None  # fmt: skip
    n: Annotated[int | None, typer.Option(help="Most problems.", show_default="all"), Within(2)] = None
    samples: Annotated[int, typer.Option(help="Traces per problem."), Within(2)] = 16
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False
    quiet: Quiet = False  # fmt: skip


@locks("out", side=".problems.lock")  # its training locks the folder itself
def make(
    source: ProblemOptions, model: ModelOptions, recipe: Any, dtype: torch.dtype | None, out: Path,
    thinking: ThinkingOptions, limits: LimitOptions, answer: str | None,
) -> None:  # fmt: skip
    """Say what it will take; then roll out, train, calibrate and judge."""
    from rich.console import Console

    from trueplex.cli.evaluate import scorer_table
    from trueplex.cli.progress import Bar
    from trueplex.data.suites import problems_of
    from trueplex.grading.kinds import AUTO, answer_kind
    from trueplex.solving.settings import Settings
    from trueplex.train.first_verifier import estimate, first_verifier

    assert source.problems is not None
    settings = Settings(paths=source.samples, verifier="none", select="majority", seed=recipe.seed, answer=answer or AUTO,
                        thinking=thinking.build(limits))  # fmt: skip
    problems = problems_of(
        source.problems, None, source.n, recipe.seed, default_split="train", kind=answer_kind(answer or AUTO)
    )
    backbone = model.load(dtype)
    limits.check(backbone)
    settings = settings.resolved(backbone)
    log.info(estimate(backbone, problems, settings, recipe, out).told(len(problems)))
    if source.dry_run:
        return
    with Bar(len(problems) * source.samples, source.quiet) as bar:
        figures = first_verifier(backbone, problems, settings, recipe, out, bar.step)
    if figures is not None:
        Console(width=160).print(scorer_table({"held out": figures}))
    log.info(f'{out}: the verifier. Try: trueplex solve "…" --model {model.model} --verifier {out}')


def refuse_unused(source: ProblemOptions, thinking: ThinkingOptions, limits: LimitOptions) -> None:
    """Raise OptionError for options of sampling beside stored traces, which are sampled already."""
    if (source, thinking, limits) != (ProblemOptions(quiet=source.quiet), ThinkingOptions(), LimitOptions()):
        raise OptionError("--n, --samples, --dry-run and how paths think have no effect on traces that are stored (--data). Try: drop "
                          "them, or give --problems in place of --data")  # fmt: skip
