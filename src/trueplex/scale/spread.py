"""Work distributed over replicas: replicas are checked, nothing is lost, and nothing counts twice.

A `Runner` hands work to replicas in any order and yields their results. `Here`, its plain twin, is one replica in
this process; `trueplex.scale.cluster` has the one on Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

from trueplex import errors
from trueplex.errors import ModelError, TrueplexError
from trueplex.scale.replica import About, Done, Failed, Job, Replica, Work

log = logging.getLogger(__name__)

Said = tuple[int, About | Done | Failed]  # the number of a Work, and one thing that was said to it
NAMES = {"version": "trueplex", "model": "weights", "tokenizer": "tokenizer", "scorer": "verifier", "config": "options"}


class Runner(Protocol):
    """Replicas that can be handed work."""

    replicas: int
    accelerated: bool

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        """What replicas made of `job` say to all of the work; ends when all is answered."""


class Here:
    """One replica in this process."""

    replicas, accelerated = 1, False

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        replica = Replica(job)
        for one in work:
            for said in replica(one):
                yield one.number, said


def spread(runner: Runner, job: Job, work: Sequence[Work]) -> Iterator[tuple[About, Work, Done | None]]:
    """First (who the replicas are, the first work, None), then every problem of the work, once, as it is done.

    Work whose replica died is done again by another one; what it had already answered counts.

    Raises:
        ModelError: two replicas hold other weights, tokenizers or verifiers, or run other versions.
        TrueplexError: whatever a replica raised, under the name that it had there; or no replica answers.
    """
    left = {one.number: one for one in work or [Work(0)]}
    open_places = {number: set(range(len(one.problems))) for number, one in left.items()}
    first: About | None = None
    while left:
        answered = False
        for number, said in runner.run(job, list(left.values())):
            if isinstance(said, Failed):
                raise _error(said)
            if isinstance(said, About):
                if first is None:
                    first, answered = said, True
                    for level, message in said.logged:
                        log.log(level, message)
                    yield first, left[number], None
                _check_same(first, said)
            elif said.place in open_places.get(number, ()):
                assert first is not None
                answered = True
                open_places[number].discard(said.place)
                yield first, left[number], said
        left = {number: one for number, one in left.items() if open_places[number]}
        if left and not answered:
            raise TrueplexError(f"{len(left)} pieces of work got no result from any replica. Try: run again to resume")


def _check_same(one: About, other: About) -> None:
    for name, mine in one.same.items():
        theirs = other.same[name]
        if mine == theirs:
            continue
        if isinstance(mine, dict):
            name, mine, theirs = next((key, mine[key], theirs.get(key)) for key in mine if mine[key] != theirs.get(key))
        raise ModelError(f"two replicas differ in {NAMES.get(name, name)} ({mine} and {theirs}). Try: give all machines the same "
                         "model, verifier and version of trueplex")  # fmt: skip


def _error(failed: Failed) -> TrueplexError:
    kind = getattr(errors, failed.kind, TrueplexError)
    return (TrueplexError if kind is errors.MissingExtra else kind)(failed.message)
