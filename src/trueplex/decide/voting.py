"""Selectors: stopped traces → answer. Plain Python; equality of answers is the grader's.

Pruned traces and traces without an answer have no vote. Ties are won by the group with more paths, then by the one
whose first path has the lowest index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from trueplex.errors import OptionError
from trueplex.grading.answers import group
from trueplex.types import Status, Trace, Vote

Weigh = Callable[[Trace], float]
Selector = Callable[[Sequence[Trace]], list[Vote]]


def candidates(traces: Sequence[Trace]) -> list[Trace]:
    """Traces that vote, by index: those that finished with an answer."""
    voting = [t for t in traces if t.status is Status.FINISHED and t.answer is not None]
    return sorted(voting, key=lambda t: t.index)


def tally(traces: Sequence[Trace], weigh: Weigh, combine: Callable[[Iterable[float]], float] = sum) -> list[Vote]:
    """The votes of equal answers added up, best first; a group is spelled as its first path spells its answer.

    ``combine`` makes the weight of a group from those of its paths.
    """
    voting = candidates(traces)
    votes = []
    for members in group([t.answer or "" for t in voting]):
        first = voting[members[0]]
        weight = combine(weigh(voting[i]) for i in members)
        votes.append((Vote(first.answer or "", weight, len(members)), first.index))
    return [vote for vote, first in sorted(votes, key=lambda v: (-v[0].weight, -v[0].paths, v[1]))]


def majority(traces: Sequence[Trace]) -> list[Vote]:
    """Every path counts once."""
    return tally(traces, lambda trace: 1.0)


def weighted(traces: Sequence[Trace], weigh: Weigh | None = None) -> list[Vote]:
    """Every path counts its score, or a function of it. Raises OptionError when a voting trace has none."""
    return tally(traces, weigh or _score)


def best(traces: Sequence[Trace]) -> list[Vote]:
    """Best-of-N: the path of the highest score decides; each group weighs as its best path."""
    return tally(traces, _score, max)


def top(traces: Sequence[Trace], share: float) -> list[Vote]:
    """Only the best `share` of the voting paths count, at least one, each its score (DeepConf's offline filter).

    Of equal scores the lower trace index is kept.
    """
    voting = sorted(candidates(traces), key=lambda t: (-_score(t), t.index))
    return weighted(voting[: max(1, math.ceil(share * len(voting) - 1e-9))])


def _score(trace: Trace) -> float:
    if trace.score is None or math.isnan(trace.score):
        raise OptionError(f"trace {trace.index} has score {trace.score}. Try: give a verifier or --select majority")
    return trace.score


def _log_odds(trace: Trace) -> float:
    """The weight of independent evidence, log(s / (1 − s)); a trace that is more likely wrong than right has none."""
    score = min(max(_score(trace), 0.5), 1 - 1e-6)
    return math.log(score / (1 - score))


GRAMMAR = "majority, weighted, weighted:POWER, weighted:odds, best, top:SHARE"


def selector(name: str) -> Selector:
    """The selector of that name: ``majority``; ``weighted`` by score, by score ** POWER or by log-odds; ``best``;
    or ``top:SHARE``, weighted among the best SHARE. What search-and-learn calls weighted best-of-N is ``weighted``.

    Raises OptionError for any other name.
    """
    plain: dict[str, Selector] = {"majority": majority, "best": best}
    if name in plain:
        return plain[name]
    if weigh := weighing(name):
        return partial(weighted, weigh=weigh)
    if kept := top_share(name):
        return partial(top, share=kept)
    raise OptionError(f"unknown selector {name!r}. Try: one of {GRAMMAR}; POWER above 0, SHARE between 0 and 1")


def weighing(name: str) -> Weigh | None:
    """What a path weighs in ``weighted``, ``weighted:POWER`` or ``weighted:odds``; None for any other name."""
    if name in ("weighted", "weighted:odds"):
        return _score if name == "weighted" else _log_odds
    power = _number(name, "weighted")
    return (lambda trace: _score(trace) ** power) if 0 < power < math.inf else None


def top_share(name: str) -> float | None:
    """The share of the paths that ``top:SHARE`` lets vote; None for any other name."""
    share = _number(name, "top")
    return share if 0 < share < 1 else None


def _number(name: str, kind: str) -> float:
    """The number after ``KIND:``; NaN where there is none."""
    try:
        return float(name.removeprefix(f"{kind}:")) if name.startswith(f"{kind}:") else math.nan
    except ValueError:
        return math.nan


def share(votes: Sequence[Vote]) -> float:
    """The leading vote's share of all weight, in [0, 1]; 0 without votes."""
    total = sum(v.weight for v in votes)
    return votes[0].weight / total if votes and total > 0 else float(bool(votes)) / max(1, len(votes))
