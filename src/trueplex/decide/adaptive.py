"""How many traces a problem gets, and when: all at once, after a warm-up, or by adaptive sampling while its vote is open.

Plain Python over numbers. A round of traces starts when all earlier traces of its problem have stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import betainc

from trueplex.decide.pruning import Policy
from trueplex.decide.voting import tally
from trueplex.errors import OptionError
from trueplex.grading.answers import group as by_value
from trueplex.grading.kinds import Grouping
from trueplex.types import Trace

FIRST = 8  # traces in the first round; every further round doubles their number
LIMIT = 64
SETTLED = 0.95  # as published for Adaptive-Consistency (arXiv 2305.11860)


@dataclass(frozen=True, slots=True)
class PathSchedule:
    """`first` traces, then up to `most`: the rest at once, or, if ``adaptive``, only while the vote is open.

    Attributes:
        first: traces in the first round.
        most: traces in all, at most.
        adaptive: a further round starts only while the vote is open, and doubles the number of traces.
    """

    first: int
    most: int
    adaptive: bool = False

    def more(self, stopped: Sequence[Trace], group: Grouping = by_value) -> int:
        """How many traces to start, now that all those started have `stopped`; 0 when it is enough."""
        started = len(stopped)
        if started >= self.most or (self.adaptive and sure(stopped, group) >= SETTLED):
            return 0
        return min(started if self.adaptive else self.most, self.most - started)


def parse(paths: int | str) -> PathSchedule:
    """A number of paths, ``auto`` or ``auto:LIMIT``. Raises OptionError for anything else."""
    text = str(paths)
    name, colon, limit = text.partition(":")
    if name == "auto" and (not colon or limit.isdecimal()):
        most = int(limit) if colon else LIMIT
        if most <= FIRST:
            raise OptionError(f"paths is {text!r}, and auto starts with {FIRST}. Try: auto:LIMIT with a higher limit, or a number without auto")  # fmt: skip
        return PathSchedule(FIRST, most, adaptive=True)
    try:
        number = int(text)
    except ValueError as error:
        raise OptionError(f"paths is {text!r}. Try: a number, auto or auto:LIMIT") from error
    if number < 1:
        raise OptionError(f"paths is {number}. Try: at least 1")
    return PathSchedule(number, number)


def schedule_of(paths: int | str, policy: Policy) -> PathSchedule:
    """When a problem gets how many traces, by `paths` and by what the policy says: ``auto``, or a warm-up first.

    ``64`` with the policy ``half:4+auto`` is the same as ``auto:64`` with the policy ``half:4``.

    Raises:
        OptionError: `paths` cannot be read, is too low for ``auto``, or the policy has a warm-up and ``auto`` is asked for.
    """
    asked = parse(paths)
    if policy.adaptive and not asked.adaptive:
        asked = parse(f"auto:{asked.most}")
    if not policy.warmup:
        return asked
    if asked.adaptive:
        raise OptionError(f"{policy.spelled!r} has a warm-up of its own, which excludes adaptive sampling (paths is "
                          f"{str(paths)!r}). Try: a number of paths, and no auto")  # fmt: skip
    return PathSchedule(min(policy.warmup, asked.most), asked.most)


def sure(stopped: Sequence[Trace], group: Grouping = by_value) -> float:
    """The posterior probability that the leading answer is likelier than the runner-up; 0 without votes.

    Each answer's chance has a Dirichlet posterior, uniform before any vote; a vote counts its score, 1 without
    a scorer. For two answers that leaves a Beta distribution, and this is its mass above ½.
    """
    votes = tally(stopped, _weight, group=group)
    if not votes:
        return 0.0
    leader, runner_up = 1 + votes[0].weight, 1 + (votes[1].weight if len(votes) > 1 else 0.0)
    return float(betainc(runner_up, leader, 0.5))


def _weight(trace: Trace) -> float:
    return 1.0 if trace.score is None else min(1.0, max(0.0, trace.score))
