"""The quality of a score on stored traces: ranking, calibration and its effect on votes.

Every scorer is judged on the same traces, so scorers are compared pair by pair, problem by problem. What
counts for voting and pruning is the ranking *within* a problem; the global one is beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from trueplex.decide import voting
from trueplex.engine.fitting import Fitting
from trueplex.evals.metrics import auroc_over_all, calibration, interval, per_problem_auroc
from trueplex.evals.summary import Votes, chosen_right, figure
from trueplex.grading.kinds import AUTO, AnswerKind, answer_kind
from trueplex.models.backbone import Backbone
from trueplex.types import Trace
from trueplex.verify.kept import shared_reads
from trueplex.verify.probe import ROWS
from trueplex.verify.stored import Stored, length

SHARES = tuple(round(0.1 * i, 1) for i in range(1, 11))
AT_ONCE = ROWS  # traces that each scorer is given in turn: as many as a verifier reads together
COUNTED = 8  # traces, spread over all, whose floating-point operations are counted


Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Scored:
    """One scorer's output for the traces: scores [traces, SHARES], the seconds that it took, and flops a trace."""

    scores: np.ndarray
    seconds: float
    flops: float
    bounded: bool  # in [0, 1], so that calibration can be asked about


class StoredScorer(Protocol):
    """Anything that gives stored traces a score."""

    @property
    def bounded(self) -> bool:
        """Whether its scores are in [0, 1]."""

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares], higher is better, when the given shares of each trace were written."""


def scored_by(
    backbone: Backbone, scorers: Mapping[str, StoredScorer], stored: Sequence[Stored],
    progress: Progress = lambda traces, tokens: None,
) -> dict[str, Scored]:  # fmt: skip
    """Scores of stored traces when 10 %, 20 % … of each was written: what live scoring gives there.

    The scorers take turns, a few traces of like length at a time, so that what ``backbone`` reads of these is read once for all
    of them; each is told the seconds that it would have taken alone. ``progress`` is called with the number of traces newly scored
    by one of them and their tokens.
    """
    tables = {name: np.empty((len(stored), len(SHARES))) for name in scorers}
    seconds = dict.fromkeys(scorers, 0.0)
    few = stored[:: max(1, len(stored) // COUNTED)]
    flops = {}
    with shared_reads(backbone) as reads:

        def take_turns(rows: list[int]) -> list[int]:
            some = [stored[i] for i in rows]
            for name, scorer in scorers.items():
                began, saved = time.perf_counter(), reads.due - reads.spent
                tables[name][rows] = scorer.score_shares(some, SHARES)
                seconds[name] += time.perf_counter() - began + reads.due - reads.spent - saved
                progress(len(some), sum(trace.tokens for trace, _ in some))
            return rows

        # In the very batches that each verifier would make of them.
        Fitting(AT_ONCE, backbone.device.type)(list(map(length, stored)), take_turns)
    for name, scorer in scorers.items():
        with shared_reads(backbone, anew=True), FlopCounterMode(display=False) as counter:
            scorer.score_shares(few, SHARES)
        flops[name] = counter.get_total_flops() / max(1, len(few))
    return {name: Scored(tables[name], seconds[name], flops[name], one.bounded) for name, one in scorers.items()}


def judge(stored: Sequence[Stored], by_scorer: Mapping[str, Scored], kind: AnswerKind | None = None) -> dict[str, Any]:
    """Every figure of every scorer on the traces of one suite; intervals are over problems.

    Pruned traces and those that could not be graded are left out and counted. ``kind`` is what their answers are, None for
    ``auto``.
    """
    kept = np.array([i for i, (t, _) in enumerate(stored) if t.correct is not None], dtype=int)
    traces = [stored[i][0] for i in kept]
    problems, correct = [t.problem.key for t in traces], [bool(t.correct) for t in traces]
    right = np.array(correct)
    out: dict[str, Any] = {"traces": len(traces), "left_out": len(stored) - len(traces),
                           "problems": len(set(problems)), "right": round(float(right.mean()), 4), "scorers": {}}  # fmt: skip
    first: tuple[list[list[float]], np.ndarray] | None = None
    for name, scored in by_scorer.items():
        table = scored.scores[kept]
        within = {str(s): per_problem_auroc(problems, correct, table[:, i].tolist()) for i, s in enumerate(SHARES)}
        half, end = within["0.5"], within["1.0"]
        votes, chosen = _votes(traces, table[:, -1], kind or answer_kind(AUTO))
        figures: dict[str, Any] = {
            "within": {share: figure(values) for share, values in within.items()},
            "over_all": {str(s): auroc_over_all(problems, correct, table[:, i].tolist()) for i, s in enumerate(SHARES)},
            "votes": votes,
            "milliseconds_per_trace": round(1000 * scored.seconds / max(1, len(stored)), 3),
            "megaflops_per_trace": round(scored.flops / 1e6, 1),  # of matrix products and attention
        }
        if scored.bounded:
            figures["calibration"] = _calibrated(problems, table[:, -1], right)
        if first is None:
            first = [half, end], chosen
        else:  # the first scorer is the one that the others are held against
            for name_of, ours, theirs in zip(
                ("first_minus_this_at_half", "first_minus_this"), first[0], (half, end), strict=True
            ):
                figures[name_of] = figure((np.array(ours) - np.array(theirs)).tolist())
            votes["first_minus_this"] = figure((first[1] - chosen).tolist())
        out["scorers"][name] = figures
    return out


def _calibrated(problems: Sequence[int], scores: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Calibration with bootstrap intervals of its two numbers, problems drawn whole."""
    rows: dict[int, list[int]] = {}
    for row, problem in enumerate(problems):
        rows.setdefault(problem, []).append(row)
    members = [np.array(r) for r in rows.values()]

    def drawn(name: str) -> tuple[float, float]:
        def statistic(picks: np.ndarray) -> float:
            chosen = np.concatenate([members[int(i)] for i in picks])
            return calibration(scores[chosen], right[chosen])[name]

        return interval(list(range(len(members))), statistic, draws=200)

    figures = calibration(scores, right)
    for name in ("brier", "ece"):
        low, high = drawn(name)
        figures[name] = {"mean": figures[name], "low": round(low, 4), "high": round(high, 4)}
    return figures


def _votes(traces: Sequence[Trace], scores: np.ndarray, kind: AnswerKind) -> tuple[dict[str, Any], np.ndarray]:
    """Weighted majority and best-of-N over all traces of a problem, against the majority, and the flips.

    Beside the figures, which problems the weighted majority gets right.
    """
    groups: dict[int, list[Trace]] = {}
    for trace, score in zip(traces, scores, strict=True):
        copy = Trace(trace.problem, trace.index, trace.seed, trace.status, scores=[(trace.tokens, float(score))],
                     answer=trace.answer, tokens=trace.tokens)  # fmt: skip
        groups.setdefault(trace.problem.key, []).append(copy)

    def outcomes(select: Votes) -> np.ndarray:
        return np.array([chosen_right(select(g), g[0].problem.answers or (), kind) for g in groups.values()])

    heads, weighted, best = (outcomes(voting.selector(name, kind.group)) for name in ("majority", "weighted", "best"))
    return {
        "paths": max(map(len, groups.values())),
        "majority": figure(heads.tolist()), "weighted": figure(weighted.tolist()), "best": figure(best.tolist()),
        "weighted_minus_majority": figure((weighted - heads).tolist()),
        "flipped_to_right": int(((weighted == 1) & (heads == 0)).sum()),
        "flipped_to_wrong": int(((weighted == 0) & (heads == 1)).sum()),
    }, weighted  # fmt: skip
