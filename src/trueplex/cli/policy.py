"""`trueplex train policy`: gather problems, train on rollouts, and say where the result is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from trueplex.data.embedded import tasks
from trueplex.data.suites import problems_of
from trueplex.errors import OptionError
from trueplex.models.load import load
from trueplex.types import Problem

HELD = 10  # without validation data, one problem in so many is held back


def gather(data: str, split: str, n: int, seed: int) -> list[Problem]:
    """`n` problems of suites or files given by commas, as many of each."""
    names = [name for part in data.split(",") if (name := part.strip())]
    if not names:
        raise OptionError("data is empty. Try: 'reference', suites by commas, or FILE.jsonl")
    return [p for name in names for p in problems_of(name, None, -(-n // len(names)), seed, default_split=split)]


def practise(data: str, validation: str | None, n: int, held: int, model: str, device: str | None, recipe: Any, out: Path,
             quiet: bool) -> None:  # fmt: skip
    """Train a policy on the problems of `data`, judged by those of `validation`."""
    from trueplex.train.grpo.train import train_policy

    problems = gather(data, "train", n, recipe.seed)
    judged_by = validation or data
    judging = gather(judged_by, "validation", held, 0)
    suites = {"reference", *tasks.SUITES}
    if validation is None and not {name.strip() for name in data.split(",")} <= suites:
        # A file has no splits: by high bits, as the low ones decide the suites' splits.
        judging = [p for p in problems if (p.key >> 32) % HELD == 0][:held]
        problems = [p for p in problems if (p.key >> 32) % HELD]
    if not judging:
        raise OptionError("no problem is left to judge by. Try: give --validation, or more problems")
    backbone = load(model, device, torch.float32)
    reference = load(model, device, torch.float32) if recipe.kl and not recipe.rank else None
    if quiet:
        logging.getLogger("trueplex").setLevel(logging.WARNING)
    folder = train_policy(backbone, problems, judging, recipe, out, reference)
    print(folder)
