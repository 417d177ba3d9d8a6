"""The rules that a pruning policy is made of: which of one problem's traces each one prunes, and when.

A rule compares traces of one problem. Only live traces can be pruned: one that has finished stays a candidate for the
vote. The order of the traces never matters; of equal scores the lower trace index is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trueplex.decide.voting import candidates, tally
from trueplex.errors import OptionError
from trueplex.grading.answers import group as by_value
from trueplex.grading.calls import careful
from trueplex.grading.kinds import Grouping
from trueplex.types import Trace


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one problem stands: its live traces, those that have stopped, and which answers are the same."""

    live: Sequence[Trace]
    stopped: Sequence[Trace] = ()
    group: Grouping = by_value


class Rule(Protocol):
    """One rule of a policy.

    ``every`` is the cadence in tokens that it needs, 0 when it is applied after every stride; ``spelled`` is the text
    that it was read from.
    """

    @property
    def every(self) -> int: ...
    @property
    def spelled(self) -> str: ...
    @property
    def needs_scores(self) -> bool: ...

    def __call__(self, standing: Standing) -> list[Trace]:
        """The live traces to prune; none of them is changed. Raises OptionError when a needed score is missing."""

    def inert(self, paths: int, longest: int) -> str | None:
        """Why the rule has no effect on this many traces of at most ``longest`` tokens, and what to try; else None."""


def score_of(trace: Trace) -> float:
    """The latest score. Raises OptionError when there is none, or it is NaN."""
    score = trace.score
    if score is None or math.isnan(score):
        raise OptionError(f"trace {trace.index} has score {score}. Try: prune with a scorer that scores every trace")
    return score


def ranked(traces: Sequence[Trace]) -> list[Trace]:
    """Best score first; ties by the lower trace index."""
    return sorted(traces, key=lambda t: (-score_of(t), t.index))


def _too_late(at: int, longest: int) -> str | None:
    if at < longest:
        return None
    return f"it first applies at token {at} and no trace is longer than {longest}. Try: a smaller number"


@dataclass(frozen=True, slots=True)
class Keep:
    """Every `every` tokens keep the best `kept(n)` of n live traces of a problem, and never fewer than `least`."""

    every: int
    kept: Callable[[int], int]
    spelled: str
    least: int = 1
    needs_scores: ClassVar[bool] = True

    def __call__(self, standing: Standing) -> list[Trace]:
        due = [t for t in standing.live if t.tokens and t.tokens % self.every == 0]
        keeps = max(self.least, self.kept(len(due)))
        return ranked(due)[keeps:] if len(due) > keeps else []

    def inert(self, paths: int, longest: int) -> str | None:
        if paths <= self.least:
            return f"it leaves at least {self.least} and there are {paths} paths. Try: more paths"
        if all(max(self.least, self.kept(n)) >= n for n in range(1, paths + 1)):
            return f"of {paths} paths or fewer it keeps all. Try: more paths, or keep fewer"
        return _too_late(self.every, longest)


@dataclass(frozen=True, slots=True)
class KeepTop:
    """Once, at `at` tokens, keep the best `kept(n)` of n live traces of a problem (``stop:AT`` keeps one).

    STOP's 64 → 8 at 2,048 tokens is ``keep-top:8@2048``; ``retain`` keeps as many as its guideline says. With adaptive sampling each round of traces is pruned by
    itself, when it has so many tokens.
    """

    at: int
    kept: Callable[[int], int]
    spelled: str
    needs_scores: ClassVar[bool] = True

    @property
    def every(self) -> int:
        return self.at

    def __call__(self, standing: Standing) -> list[Trace]:
        due = [t for t in standing.live if t.tokens == self.at]
        keeps = self.kept(len(due))
        return ranked(due)[keeps:] if len(due) > keeps else []

    def inert(self, paths: int, longest: int) -> str | None:
        if (keeps := self.kept(paths)) >= paths:
            return f"it keeps {keeps} and there are {paths} paths. Try: more paths"
        return _too_late(self.at, longest)


@dataclass(frozen=True, slots=True)
class Floor:
    """Whenever traces are scored, prune those under `score`, but never the last live one of a problem."""

    score: float
    spelled: str
    every: ClassVar[int] = 0
    needs_scores: ClassVar[bool] = True

    def __call__(self, standing: Standing) -> list[Trace]:
        return [t for t in ranked(standing.live)[1:] if score_of(t) < self.score]

    def inert(self, paths: int, longest: int) -> str | None:
        if self.score <= 0:
            return "no score is below 0. Try: a higher floor"
        return "there is one path. Try: more paths" if paths < 2 else None


@dataclass(frozen=True, slots=True)
class DeepConf:
    """Online DeepConf (arXiv 2508.15260): warm-up traces set a threshold, and the others are pruned below it.

    The first `warmup` traces of a problem run to their end. The threshold is the percentile of their lowest scores
    that a share `keeps` of them passes: ``high`` keeps 90 %, ``low`` 10 %. From then on a trace of at least `after`
    tokens whose score is below the threshold is pruned, and warm-up traces below it do not vote.

    With the scorer ``deepconf:tail@W`` or ``deepconf:lowest@W`` and ``after`` W these are the published
    group confidences; with any other scorer, the same rule on its scores.
    """

    KEEPS: ClassVar[dict[str, float]] = {"high": 0.9, "low": 0.1}
    AFTER: ClassVar[int] = 2048  # the published window
    WARMUP: ClassVar[int] = 16

    keeps: float
    spelled: str
    after: int = 2048
    warmup: int = 16
    every: ClassVar[int] = 0
    needs_scores: ClassVar[bool] = True

    def lowest(self, trace: Trace) -> float:
        """The lowest score from `after` tokens on; the last one of a shorter trace."""
        score_of(trace)
        return min([s for at, s in trace.scores if at >= self.after] or [trace.scores[-1][1]])

    def bar(self, stopped: Sequence[Trace]) -> float | None:
        """The threshold, by linear interpolation; None until all warm-up traces have stopped."""
        lows = sorted(self.lowest(t) for t in stopped if t.index < self.warmup)
        if len(lows) < self.warmup:
            return None
        place = (1 - self.keeps) * (len(lows) - 1)
        below = math.floor(place)
        above = min(below + 1, len(lows) - 1)
        return lows[below] + (place - below) * (lows[above] - lows[below])

    def __call__(self, standing: Standing) -> list[Trace]:
        bar = self.bar(standing.stopped)
        if bar is None:
            return []
        return [t for t in standing.live if t.index >= self.warmup and t.tokens >= self.after and score_of(t) < bar]

    def voters(self, traces: Sequence[Trace]) -> list[Trace]:
        """Stopped traces without the warm-up traces below the threshold."""
        bar = self.bar(traces)
        return [t for t in traces if bar is None or t.index >= self.warmup or self.lowest(t) >= bar]

    def inert(self, paths: int, longest: int) -> str | None:
        if paths <= self.warmup:
            return f"its first {self.warmup} traces are the warm-up and there are {paths} paths. Try: more paths, or deepconf:…@AFTER/WARMUP"
        return _too_late(self.after, longest)


@dataclass(frozen=True, slots=True)
class Consensus:
    """Stop all traces of a problem when its leading answer holds `share` of the weight of all its traces.

    Finished traces weigh their scores, 1 without a scorer. Running ones weigh theirs as if all of them would vote for
    another answer: with a share above ½, the leading answer cannot lose the vote to the traces that are stopped.
    """

    share: float
    spelled: str
    every: ClassVar[int] = 0
    needs_scores: ClassVar[bool] = False

    def __call__(self, standing: Standing) -> list[Trace]:
        if not candidates(standing.stopped):
            return []
        votes = tally(standing.stopped, _weight, group=standing.group)
        total = sum(v.weight for v in votes) + math.fsum(map(_weight, standing.live))
        return list(standing.live) if votes[0].weight >= self.share * total else []

    def reached(self, stopped: Sequence[Trace], group: Grouping = by_value) -> bool:
        """Whether the leading answer has its share once all traces have stopped, by more than one vote."""
        votes = tally(stopped, _weight, group=group)
        return len(candidates(stopped)) > 1 and votes[0].weight >= self.share * sum(v.weight for v in votes)

    def inert(self, paths: int, longest: int) -> str | None:
        return "there is one path. Try: more paths" if paths < 2 else None


Prune = Callable[[Sequence[Trace]], "Iterable[Trace]"]
"""A rule of one's own: of a problem's live traces, with ``tokens`` and ``scores``, it gives those to prune."""


@dataclass(frozen=True, slots=True)
class Own:
    """A function that chooses which live traces of a problem to prune, asked whenever they are looked at.

    Raises:
        OptionError: the function failed, or gave something else than some of the traces.
    """

    function: Prune
    spelled: str
    every: ClassVar[int] = 0
    needs_scores: ClassVar[bool] = False

    def __call__(self, standing: Standing) -> list[Trace]:
        told = careful(self.function, "policy")(list(standing.live))
        try:
            chosen = list(told)
        except TypeError:
            chosen = [None]
        if any(all(one is not live for live in standing.live) for one in chosen):
            raise OptionError(f"the policy {self.spelled!r} gave something else than live traces. Try: return a list of some of "
                              "those that it gets, or an empty one")  # fmt: skip
        return chosen

    def inert(self, paths: int, longest: int) -> str | None:
        return None


def _weight(trace: Trace) -> float:
    return 1.0 if trace.score is None else max(0.0, trace.score)
