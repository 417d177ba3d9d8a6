"""Selectors: stopped traces → answer. Plain Python; equality of answers is the grader's.

Retired traces and traces without an answer have no vote. Ties are won by the group with more
paths, then by the one whose first path has the lowest index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trueplex.answers import group
from trueplex.errors import OptionError
from trueplex.types import Status, Trace, Vote

Weigh = Callable[[Trace], float]


def candidates(traces: Sequence[Trace]) -> list[Trace]:
    """Traces that vote, by index: those that finished with an answer."""
    voting = [t for t in traces if t.status is Status.FINISHED and t.answer is not None]
    return sorted(voting, key=lambda t: t.index)


def tally(traces: Sequence[Trace], weigh: Weigh) -> list[Vote]:
    """Votes of equal answers together, best first; a group is spelled as its first path spelled it."""
    voting = candidates(traces)
    votes = []
    for members in group([t.answer or "" for t in voting]):
        weight = sum(weigh(voting[i]) for i in members)
        votes.append((Vote(voting[members[0]].answer or "", weight, len(members)), voting[members[0]].index))
    return [vote for vote, first in sorted(votes, key=lambda v: (-v[0].weight, -v[0].paths, v[1]))]


def majority(traces: Sequence[Trace]) -> list[Vote]:
    """Every path counts once."""
    return tally(traces, lambda trace: 1.0)


def weighted(traces: Sequence[Trace]) -> list[Vote]:
    """Every path counts its score. Raises OptionError when a voting trace has none."""
    return tally(traces, _score)


def best(traces: Sequence[Trace]) -> list[Vote]:
    """Best-of-N: the path of the highest score decides; each group weighs as its best path."""
    voting = candidates(traces)
    top = {v.answer: 0.0 for v in majority(traces)}
    for members in group([t.answer or "" for t in voting]):
        top[voting[members[0]].answer or ""] = max(_score(voting[i]) for i in members)
    votes = [Vote(v.answer, top[v.answer], v.paths) for v in majority(traces)]
    return sorted(votes, key=lambda v: -v.weight)


def _score(trace: Trace) -> float:
    if trace.score is None:
        raise OptionError(f"trace {trace.index} has no score; mend: give a verifier or --select majority")
    return trace.score


SELECTORS: dict[str, Callable[[Sequence[Trace]], list[Vote]]] = {
    "majority": majority,
    "weighted": weighted,
    "best": best,
}


def selector(name: str) -> Callable[[Sequence[Trace]], list[Vote]]:
    """The selector of that name. Raises OptionError for an unknown one."""
    if name not in SELECTORS:
        raise OptionError(f"unknown selector {name!r}; mend: one of {', '.join(SELECTORS)}")
    return SELECTORS[name]


def share(votes: Sequence[Vote]) -> float:
    """The first vote's share of all weight in [0, 1]; 0 without votes."""
    total = sum(v.weight for v in votes)
    return votes[0].weight / total if votes and total > 0 else float(bool(votes)) / max(1, len(votes))
