"""The reference suites: three families, two difficulties, endless by seed, splits that cannot meet.

A problem's split is decided by a hash of its text, so no seed can bring a test problem into
training. Run ``trueplex problems chain-easy`` to see some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from trueplex.errors import OptionError
from trueplex.reference import chain, countdown, remainder
from trueplex.types import Problem

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Suite:
    """One family at one difficulty: how its problems are made and thought about."""

    name: str
    make: Callable[[Random, bool], Any]
    think: Callable[[Random, Any], tuple[str, str]]
    hard: bool


SUITES = {
    f"{family.__name__.rpartition('.')[2]}-{level}": Suite(
        f"{family.__name__.rpartition('.')[2]}-{level}", family.make, family.think, level == "hard"
    )
    for family in (chain, remainder, countdown)
    for level in ("easy", "hard")
}


def split_of(text: str) -> str:
    """The only split that a problem with this text can belong to: 80 % train, 10 % each other."""
    return {0: "validation", 1: "test"}.get(Problem(text).key % 10, "train")


def tasks(suite: str, split: str, seed: int = 0) -> Iterator[Any]:
    """Endless distinct tasks of one suite and split, the same for the same seed.

    Raises:
        OptionError: the suite or the split does not exist.
    """
    if suite not in SUITES:
        raise OptionError(f"unknown suite {suite!r}; mend: one of reference, {', '.join(SUITES)}")
    if split not in SPLITS:
        raise OptionError(f"unknown split {split!r}; mend: one of {', '.join(SPLITS)}")
    rng, seen = Random(f"{suite}/{split}/{seed}"), set()
    while True:
        task = SUITES[suite].make(rng, SUITES[suite].hard)
        if split_of(task.text) == split and task.text not in seen:
            seen.add(task.text)
            yield task


def problems(suite: str = "reference", split: str = "test", n: int = 5, seed: int = 0) -> list[Problem]:
    """`n` problems of a suite; ``reference`` mixes all suites in turn. Raises OptionError as `tasks`."""
    if n < 0:
        raise OptionError(f"n is {n}; mend: give a number of problems that is not negative")
    names = list(SUITES) if suite == "reference" else [suite]
    streams = [tasks(name, split, seed) for name in names]
    out = []
    for i in range(n):
        task = next(streams[i % len(names)])
        name = names[i % len(names)]
        out.append(Problem(task.text, f"{name}/{split}/{seed}/{i // len(names)}", (task.answer,)))
    return out
