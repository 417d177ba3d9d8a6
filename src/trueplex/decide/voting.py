"""Selectors: stopped traces → answer. Plain Python; equality of answers is the grader's.

Pruned traces and traces without an answer have no vote. Ties are won by the group with more paths, then by the one
whose first path has the lowest index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from trueplex.errors import OptionError
from trueplex.grading.answers import group as by_value
from trueplex.grading.calls import called, careful
from trueplex.grading.kinds import Grouping
from trueplex.types import Status, Trace, Vote

Weigh = Callable[[Trace], float]
Selector = Callable[[Sequence[Trace]], list[Vote]]
Choose = Callable[[Sequence[Trace]], "Sequence[Vote] | str | None"]
"""A selector of one's own: of the stopped traces of a problem, those with an answer, it gives the answer, None for no answer, or
all votes, the best first."""


def candidates(traces: Sequence[Trace]) -> list[Trace]:
    """Traces that vote, by index: those that finished with an answer."""
    voting = [t for t in traces if t.status is Status.FINISHED and t.answer is not None]
    return sorted(voting, key=lambda t: t.index)


def tally(traces: Sequence[Trace], weigh: Weigh, combine: Callable[[Iterable[float]], float] = sum,
          group: Grouping = by_value) -> list[Vote]:  # fmt: skip
    """The votes of equal answers added up, best first; a group is spelled as its first path spells its answer.

    ``combine`` makes the weight of a group from those of its paths; ``group`` tells which answers are the same.
    """
    voting = candidates(traces)
    votes = []
    for members in group([t.answer or "" for t in voting]):
        first = voting[members[0]]
        weight = combine(weigh(voting[i]) for i in members)
        votes.append((Vote(first.answer or "", weight, len(members)), first.index))
    return [vote for vote, first in sorted(votes, key=lambda v: (-v[0].weight, -v[0].paths, v[1]))]


def majority(traces: Sequence[Trace], group: Grouping = by_value) -> list[Vote]:
    """Every path counts once."""
    return tally(traces, lambda trace: 1.0, group=group)


def weighted(traces: Sequence[Trace], weigh: Weigh | None = None, group: Grouping = by_value) -> list[Vote]:
    """Every path counts its score, or a function of it. Raises OptionError when a voting trace has none."""
    return tally(traces, weigh or _score, group=group)


def best(traces: Sequence[Trace], group: Grouping = by_value) -> list[Vote]:
    """Best-of-N: the path of the highest score decides; each group weighs as its best path."""
    return tally(traces, _score, max, group)


def top(traces: Sequence[Trace], share: float, group: Grouping = by_value) -> list[Vote]:
    """Only the best `share` of the voting paths count, at least one, each its score (DeepConf's offline filter).

    Of equal scores the lower trace index is kept.
    """
    voting = sorted(candidates(traces), key=lambda t: (-_score(t), t.index))
    return weighted(voting[: max(1, math.ceil(share * len(voting) - 1e-9))], group=group)


def _score(trace: Trace) -> float:
    if trace.score is None or math.isnan(trace.score):
        raise OptionError(f"trace {trace.index} has score {trace.score}. Try: give a verifier or --select majority")
    return trace.score


def _log_odds(trace: Trace) -> float:
    """The weight of independent evidence, log(s / (1 − s)); a trace that is more likely wrong than right has none."""
    score = min(max(_score(trace), 0.5), 1 - 1e-6)
    return math.log(score / (1 - score))


GRAMMAR = "majority, weighted, weighted:POWER, weighted:odds, best, top:SHARE, call:MODULE:FUNCTION"


def selector(name: str | Choose, group: Grouping = by_value) -> Selector:
    """The selector of that name: ``majority``; ``weighted`` by score, by score ** POWER or by log-odds; ``best``;
    or ``top:SHARE``, weighted among the best SHARE. What search-and-learn calls weighted best-of-N is ``weighted``. A function of one's own (see
    `Choose`) is given as it is, or as ``call:MODULE:FUNCTION``. ``group`` tells which answers are the same.

    Raises OptionError for any other name.
    """
    if own := called(name, "selector"):
        return partial(_chosen, choose=careful(own, "selector"), group=group)
    assert isinstance(name, str)
    plain = {"majority": majority, "best": best}
    if name in plain:
        return partial(plain[name], group=group)
    if weigh := weighing(name):
        return partial(weighted, weigh=weigh, group=group)
    if kept := top_share(name):
        return partial(top, share=kept, group=group)
    raise OptionError(f"unknown selector {name!r}. Try: one of {GRAMMAR}; POWER above 0, SHARE between 0 and 1")


def _chosen(traces: Sequence[Trace], choose: Choose, group: Grouping) -> list[Vote]:
    """What a selector of one's own makes of the traces that vote; an answer weighs 1, and the paths that gave it are counted."""
    told = choose(candidates(traces))
    if told is None:
        return []
    if isinstance(told, str):
        paths = {vote.answer: vote.paths for vote in majority(traces, group)}
        return [Vote(told, 1.0, paths.get(told, sum(t.answer == told for t in candidates(traces))))]
    votes = list(told)
    if not all(isinstance(vote, Vote) for vote in votes):
        raise OptionError(
            "the selector gave something else than votes. Try: return an answer, None, or a list of trueplex.Vote"
        )
    return votes


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
