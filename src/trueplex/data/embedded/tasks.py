"""The reference suites: three families, two difficulties, made from a seed, splits that cannot meet.

A problem's split is decided by a hash of its text, so no seed can bring a test problem into
training. The suites ask what takes some thinking, about 60 tokens and more; what the embedded model and its
verifier learned from is the split ``practice``: training problems too, but with shorter ones among them.
Run ``trueplex problems chain-easy`` to see some.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from trueplex.data.embedded import chain, countdown, remainder
from trueplex.errors import OptionError
from trueplex.types import Problem

log = logging.getLogger(__name__)

PATIENCE = 20_000  # tasks drawn in a row, none of them new, after which a split counts as used up
SPLITS = ("train", "validation", "test", "practice")


@dataclass(frozen=True)
class Suite:
    """One family at one difficulty: how its problems and their reasoning are written."""

    name: str
    make: Callable[[Random], Any]
    think: Callable[[Random, Any], tuple[str, str]]


SUITES = {
    suite.name: suite
    for suite in (
        Suite("chain-easy", partial(chain.make, steps=(3, 4)), chain.think),
        Suite("chain-hard", partial(chain.make, steps=(5, 6)), chain.think),
        Suite("remainder-easy", partial(remainder.make, moduli=(8, 13), traps=0.4, listed=3), remainder.think),
        Suite("remainder-hard", partial(remainder.make, moduli=(8, 13), traps=0.65, listed=4), remainder.think),
        Suite("countdown-easy", partial(countdown.make, count=4, last="++**-"), countdown.think),
        Suite("countdown-hard", partial(countdown.make, count=4, last="+-*"), countdown.think),
    )
}

PRACTICE: dict[str, Callable[[Random], Any]] = {  # of the other suites it is the same
    "remainder-easy": partial(remainder.make, moduli=(6, 10), traps=0.65),
    "remainder-hard": partial(remainder.make, moduli=(8, 13), traps=0.65),
    "countdown-easy": partial(countdown.make, count=3, last="+-*"),
}


def split_of(text: str) -> str:
    """The only split that a problem with this text can belong to: 80 % train (or practice), 10 % each other."""
    return {0: "validation", 1: "test"}.get(Problem(text).key % 10, "train")


def tasks(suite: str, split: str, seed: int = 0) -> Iterator[Any]:
    """Distinct tasks of one suite and split, the same for the same seed, as long as there are any.

    Raises:
        OptionError: the suite or the split does not exist.
    """
    if suite not in SUITES:
        raise OptionError(f"unknown suite {suite!r}. Try: one of reference, {', '.join(SUITES)}")
    if split not in SPLITS:
        raise OptionError(f"unknown split {split!r}. Try: one of {', '.join(SPLITS)}")
    make, drawn = SUITES[suite].make, split
    if split == "practice":
        make, drawn = PRACTICE.get(suite, make), "train"
    rng, seen = Random(f"{suite}/{drawn}/{seed}"), set()
    missed = 0
    while missed < PATIENCE:
        task = make(rng)
        missed += 1
        if split_of(task.text) == drawn and task.text not in seen:
            missed = 0
            seen.add(task.text)
            yield task


def problems(suite: str = "reference", split: str = "test", n: int = 5, seed: int = 0) -> list[Problem]:
    """At most `n` problems of a suite, as `stream` makes them."""
    return list(stream(suite, split, n, seed))


def stream(suite: str, split: str, n: int, seed: int) -> Iterator[Problem]:
    """At most `n` problems of a suite, and a warning where it has fewer; ``reference`` mixes all suites in turn.

    Raises OptionError as `tasks`.
    """
    if n < 0:
        raise OptionError(f"n is {n}. Try: give a number of problems that is not negative")
    names = list(SUITES) if suite == "reference" else [suite]
    streams = [tasks(name, split, seed) for name in names]
    made = dry = 0
    for i in range(n):
        task = next(streams[i % len(names)], None)
        if task:
            name = names[i % len(names)]
            yield Problem(task.text, f"{name}/{split}/{seed}/{i // len(names)}", (task.answer,))
            made, dry = made + 1, 0
        elif (dry := dry + 1) >= len(names):  # every suite is at its end, however many are asked for
            break
    if made < n:
        log.warning(f"{suite} has {made} problems for {split}, and no more")
