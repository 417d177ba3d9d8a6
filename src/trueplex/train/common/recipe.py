"""What the recipes of all trainers have in common: numbers that are finite and in range, and how a stored one is compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trueplex.errors import OptionError

LARGEST = 2**31  # of every number; what is counted in steps, traces or tokens stays far below
SEEDS = 2**32  # as many seeds as numpy's global generator takes, which transformers' Trainer sets
TRACKERS = ("tensorboard", "wandb", "trackio")
# Fields of recipes that runs of version 0.2 stored under another name.
RENAMED = {"targets": "target_modules", "checkpointing": "gradient_checkpointing", "validated": "val_samples"}


def check_numbers(recipe: Any, positive: Sequence[str], non_negative: Sequence[str] = ()) -> None:
    """Refuse numbers that are NaN, infinite or out of range; None is left alone.

    Raises:
        OptionError: the name of the field, its value, and what it may be.
    """
    for name in (*positive, *non_negative):
        value = getattr(recipe, name)
        if value is None:
            continue
        shown = name.replace("_", "-")
        if not math.isfinite(value) or value >= LARGEST:
            raise OptionError(f"{shown} is {value}. Try: a finite number below 2^31")
        if name in positive and value <= 0:
            raise OptionError(f"{shown} is {value}. Try: a positive number")
        if value < 0:
            raise OptionError(f"{shown} is {value}, which cannot be negative. Try: 0 turns it off")


def check_seed(seed: int) -> None:
    """Raise OptionError for a seed that is negative, or too large for the generators that it sets."""
    if not 0 <= seed < SEEDS:
        raise OptionError(f"seed is {seed}. Try: a whole number from 0 to 2^32 − 1")


def check_trackers(names: Sequence[str]) -> None:
    """Raise OptionError for a tracker that is unknown or given twice."""
    for name in names:
        if name not in TRACKERS:
            raise OptionError(f"unknown tracker {name!r} in report-to. Try: one of {', '.join(TRACKERS)}")
    if len(set(names)) < len(names):
        raise OptionError(f"report-to names a tracker twice ({', '.join(names)}). Try: each once")


def renamed(stored: dict[str, Any], own: dict[str, str] = RENAMED) -> dict[str, Any]:
    """A stored recipe under today's names of its fields."""
    return {own.get(name, name): value for name, value in stored.items()}
