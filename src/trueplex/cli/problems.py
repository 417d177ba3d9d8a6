"""`trueplex problems`: problems of the embedded model's suites, as JSON lines."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from trueplex.cli.groups import Seed
from trueplex.cli.options import Within

EXAMPLE = "trueplex problems countdown-hard --split validation --n 20 > problems.jsonl"


def problems(
    suite: Annotated[str, typer.Argument(help="'reference' (all of them, mixed) or one suite, e.g. chain-easy.")],
    split: Annotated[str, typer.Option(help="train, validation or test, which never overlap; practice: training problems, shorter ones included.")] = "test",
    n: Annotated[int, typer.Option(help="How many."), Within(1)] = 5,
    seed: Seed = 0,
) -> None:  # fmt: skip
    """Print problems of the embedded model's suites as JSON lines: id, problem, answers."""
    from trueplex.data.embedded import tasks

    for problem in tasks.stream(suite, split, n, seed):
        print(json.dumps({"id": problem.id, "problem": problem.text, "answers": list(problem.answers or ())}))
