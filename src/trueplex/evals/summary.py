"""What stored traces of one suite come to: every figure with an interval over its problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from trueplex import vote
from trueplex.answers import grade
from trueplex.evals.metrics import auroc, interval, pass_at, per_problem_auroc
from trueplex.types import Trace, Vote

SHARES = (0.25, 0.5, 0.75, 1.0)  # of a trace, where scores are judged
GROUP = 16  # paths a vote, beside all of them

Votes = Callable[[Sequence[Trace]], list[Vote]]


def score_at(trace: Trace, share: float) -> float:
    """The latest score that was there when the given share of the trace was written; 0.5 before any."""
    limit = math.ceil(share * trace.tokens)
    return next((score for at, score in reversed(trace.scores) if at <= limit), 0.5)


def chosen_right(votes: list[Vote], answers: Sequence[str]) -> float:
    """1 when the first vote is a right answer, else 0."""
    return float(bool(votes) and grade(votes[0].answer, answers).correct is True)


def voted(traces: Sequence[Trace], select: Votes, size: int) -> float:
    """How often the vote over `size` traces is right: the mean over disjoint groups, in index order."""
    groups = [traces[i : i + size] for i in range(0, len(traces) - size + 1, size)]
    return float(np.mean([chosen_right(select(g), g[0].problem.answers or ()) for g in groups]))


def figure(values: Sequence[float]) -> dict[str, float] | None:
    """A mean over problems with its 95 % bootstrap interval; None without any."""
    if not len(values):
        return None
    low, high = interval(values)
    return {"mean": round(float(np.mean(values)), 4), "low": round(low, 4), "high": round(high, 4)}


def summarise(traces: Iterable[Trace]) -> dict[str, Any]:
    """Figures of one suite: pass@k, votes, lengths, entropy and, where there are scores, their quality.

    An answer that the grader could not judge counts as wrong here and is counted by itself. ``right`` is
    the number of right traces of each problem, so that two results can be compared pair by pair.
    """
    by_problem: dict[int, list[Trace]] = {}
    for trace in traces:
        by_problem.setdefault(trace.problem.key, []).append(trace)
    groups = [sorted(g, key=lambda t: t.index) for g in by_problem.values()]
    n = min(len(g) for g in groups)
    every = [t for g in groups for t in g]
    right = [sum(t.correct is True for t in g) for g in groups]
    tokens = np.array([t.tokens for t in every])
    out: dict[str, Any] = {
        "problems": len(groups), "samples": n, "ungraded": sum(t.correct is None for t in every),
        "pass": {str(k): figure([pass_at(len(g), r, k) for g, r in zip(groups, right, strict=True)]) for k in _powers(n)},
        "majority": {str(k): figure([voted(g, vote.majority, k) for g in groups]) for k in _sizes(n)},
        "tokens": {**(figure([float(np.mean([t.tokens for t in g])) for g in groups]) or {}), "p5": int(np.quantile(tokens, 0.05)),
                   "p95": int(np.quantile(tokens, 0.95)), "max": int(tokens.max())},
        "truncated": round(float(np.mean([t.status.value == "truncated" for t in every])), 4),
        "entropy": figure([float(np.mean([_entropy(t) for t in g])) for g in groups]),
        "explored": figure([float(np.mean([_explored(t) for t in g])) for g in groups]),
        "right": right,
    }  # fmt: skip
    # The plainest score that needs no training: a trace that was surer of its steps is trusted more.
    surer = [-float(t.steps.entropy.mean()) for t in every if t.steps is not None]
    out["auroc_within_entropy"] = figure(
        per_problem_auroc([t.problem.key for t in every], [t.correct is True for t in every], surer)
    )
    if all(t.scores for t in every):
        out |= _scored(groups, right, n)
    return out


def _entropy(trace: Trace) -> float:
    """Mean entropy of the thinking steps, in nats."""
    assert trace.steps is not None
    return float(trace.steps.entropy[: trace.thinking_tokens].mean())


def _explored(trace: Trace) -> float:
    """Share of the thinking steps whose samples differed."""
    assert trace.steps is not None
    return 1.0 - float(trace.steps.consensus[: trace.thinking_tokens].mean())


def _scored(groups: list[list[Trace]], right: list[int], n: int) -> dict[str, Any]:
    out: dict[str, Any] = {
        "weighted": {str(k): figure([voted(g, vote.weighted, k) for g in groups]) for k in _sizes(n)},
        "best": {str(k): figure([voted(g, vote.best, k) for g in groups]) for k in _sizes(n)},
    }
    # Paired on the same traces: what the scores add to counting heads, and to one sample.
    out["weighted_minus_majority"] = {
        str(k): figure([voted(g, vote.weighted, k) - voted(g, vote.majority, k) for g in groups]) for k in _sizes(n)
    }
    out["best_minus_pass1"] = {
        str(k): figure([voted(g, vote.best, k) - pass_at(len(g), r, 1) for g, r in zip(groups, right, strict=True)])
        for k in _sizes(n)
    }
    every = [t for g in groups for t in g]
    problems, correct = [t.problem.key for t in every], [t.correct is True for t in every]
    out["auroc_within"], out["auroc_all"] = {}, {}
    for share in SHARES:
        scores = [score_at(t, share) for t in every]
        out["auroc_within"][str(share)] = figure(per_problem_auroc(problems, correct, scores))
        sides = [[s for s, c in zip(scores, correct, strict=True) if c is side] for side in (True, False)]
        out["auroc_all"][str(share)] = round(auroc(*sides), 4) if all(sides) else None
    return out


def _powers(n: int) -> list[int]:
    return [2**i for i in range(n.bit_length()) if 2**i <= n]


def _sizes(n: int) -> list[int]:
    return sorted({min(GROUP, n), n})
