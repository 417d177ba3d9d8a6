"""Learn what a confidence means from stored traces of problems with answers (`trueplex.decide.calibration` applies it).

Half of the problems, by a bit of their name, fits the logistic functions; the other half is held out, so that what is
promised of them was not fitted to them. A run with other paths, policy or selector is simulated on
the stored traces, as it would have been; where there are enough for several runs, on disjoint groups of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trueplex.decide import pruning, voting
from trueplex.decide.calibration import (
    Band,
    Calibration,
    Condition,
    WayOfThinking,
    band_of,
    condition,
    features,
    safe_threshold,
)
from trueplex.decide.simulate import simulate
from trueplex.errors import InputError, MissingExtra
from trueplex.evals.metrics import calibration
from trueplex.grading.kinds import AnswerKind
from trueplex.solving.settings import Settings
from trueplex.types import Status, Trace, Vote

ELSEWHERE = (
    0.05  # what a vote of another way to run counts, beside one of the way that is fitted: it steadies small samples
)
GROUPS = 4  # runs on one problem that are simulated, at most


@dataclass(frozen=True, slots=True)
class Seen:
    """A vote on one problem, as a run with these options would have held it, and whether its answer is right.

    ``first``: of the problem's first run; what is promised counts no problem twice.
    """

    condition: Condition
    select: str
    held: bool
    first: bool
    votes: list[Vote]
    voters: list[Trace]
    right: bool


def held_out(trace: Trace) -> bool:
    """Whether the trace's problem is held out; by a high bit, as the low ones decide the suites' splits."""
    return bool(trace.problem.key >> 40 & 1)


def votes_of(
    problems: Sequence[Sequence[Trace]], thinking: str, settings: Settings, every: int, kind: AnswerKind | None = None
) -> list[Seen]:
    """The votes of a run with these settings on problems whose traces, scored `every` tokens, are stored.

    ``kind`` is what their answers are, None for that of the settings.
    """
    names, kind = settings.names, kind or settings.kind
    rule, select = pruning.parse(settings.prune), names["select"] or "majority"
    name = condition({**json.loads(thinking), **names, "paths": settings.paths, "select": select,
                      "answer": kind.spelled})  # fmt: skip
    seen = []
    for grown in problems:
        for number, group in enumerate(_groups(grown, settings.schedule.most)):
            left = simulate(group, rule, settings.schedule, math.gcd(rule.stride, every), kind.group)
            voters = rule.voters(left)
            votes = voting.selector(settings.select or "majority", kind.group)(voters)
            if votes:
                right = kind.grade(votes[0].answer, grown[0].problem.answers or ()).correct is True
                seen.append(Seen(name, select, held_out(grown[0]), number == 0, votes, voters, right))
    return seen


def _groups(grown: Sequence[Trace], size: int) -> list[list[Trace]]:
    """Disjoint groups of traces, in index order, each as a run of its own: at least one, at most `GROUPS`."""
    whole = sorted(grown, key=lambda t: t.index)
    count = min(GROUPS, max(1, len(whole) // size))
    return [[replace(t, index=i) for i, t in enumerate(whole[g * size : (g + 1) * size])] for g in range(count)]


def fit(
    seen: Sequence[Seen], traces: Mapping[WayOfThinking, Sequence[Trace]], error: float, belongs: Mapping[str, Any]
) -> Calibration:
    """The calibration of these votes, and of the scores of these traces, by way of thinking, if they have any.

    Raises:
        InputError: one half of the problems has only right, or only wrong answers.
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as missing:
        raise MissingExtra("scikit-learn", "train") from missing
    weights: dict[str | Condition, list[float]] = {}
    for select in dict.fromkeys(s.select for s in seen):
        chosen = [s for s in seen if s.select == select and not s.held]
        if len({s.right for s in chosen}) < 2:
            raise InputError(f"of {len(chosen)} votes by {select!r} none is wrong, or none right. Try: more problems")
        shown, right = [features(s.votes, s.voters) for s in chosen], [s.right for s in chosen]
        names: list[str | Condition] = [select, *dict.fromkeys(s.condition for s in chosen)]
        for name in names:
            counts = [1.0 if name in (select, s.condition) else ELSEWHERE for s in chosen]
            model = LogisticRegression(max_iter=1000).fit(shown, right, counts)
            weights[name] = [round(float(w), 6) for w in (*model.intercept_, *model.coef_[0])]
    made = Calibration(weights, {}, belongs=dict(belongs))
    held: dict[Condition, list[tuple[float, bool]]] = {}
    for s in seen:
        if s.held and s.first:
            confidence = made.confidence(s.select, s.votes, s.voters, s.condition)
            assert confidence is not None
            held.setdefault(s.condition, []).append((confidence, s.right))
    finished = {way: scored for way, some in traces.items() if (scored := _scored(some))}
    bounded = all(0 <= (t.score or 0) <= 1 for scored in finished.values() for t in scored)
    bands = {way: _band(scored, error) for way, scored in finished.items()} if bounded else {}
    return Calibration(weights, held, bands, dict(belongs))


def _scored(traces: Sequence[Trace]) -> list[Trace]:
    return [t for t in traces if t.status is Status.FINISHED and t.score is not None and t.correct is not None]


def _band(scored: Sequence[Trace], error: float) -> Band:
    """The band of uncertain scores, from one trace of each held-out problem."""
    first: dict[int, Trace] = {}
    for trace in sorted(scored, key=lambda t: t.index):
        if held_out(trace):
            first.setdefault(trace.problem.key, trace)
    return band_of([(t.score or 0.0, bool(t.correct)) for t in first.values()], error)


def judged(made: Calibration, seen: Sequence[Seen], error: float) -> dict[Condition, Any]:
    """By condition: expected calibration error, and what `error` as the largest error comes to, on these votes."""
    out: dict[Condition, Any] = {}
    for name in dict.fromkeys(s.condition for s in seen):
        rows = [s for s in seen if s.condition == name]
        confidence = np.array([made.confidence(s.select, s.votes, s.voters, s.condition) for s in rows], dtype=float)
        right = np.array([s.right for s in rows])
        threshold = safe_threshold(made.held.get(name, []), error)
        given = confidence >= (math.inf if threshold is None else threshold)
        out[name] = {
            "problems": sum(s.first for s in rows), "votes": len(rows), "right": round(float(right.mean()), 4), "ece": calibration(confidence, right)["ece"],
            "threshold": None if threshold is None else round(threshold, 4), "answered": round(float(given.mean()), 4),
            "error_among_answered": round(float(1 - right[given].mean()), 4) if given.any() else None,
        }  # fmt: skip
    return out
