"""Curves of one suite's traces, for pictures: lengths, scores over a trace, reliability, entropy and exploration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trueplex.evals.metrics import calibration
from trueplex.evals.samples import Samples
from trueplex.types import Trace

SHARES = tuple(round(0.05 * i, 2) for i in range(1, 21))  # of a trace, where trajectories are read
BINS = 24  # of lengths
SIDES = ("right", "wrong")


def score_at(trace: Trace, share: float) -> float:
    """The latest score when the given share of the trace was written; 0.5 before the first."""
    limit = math.ceil(share * trace.tokens)
    return next((score for at, score in reversed(trace.scores) if at <= limit), 0.5)


def curves(samples: Sequence[Samples]) -> dict[str, Any]:
    """Every curve; those of scores only where every trace has some. Right and wrong traces apart, all of one weight."""
    traces = [t for one in samples for t in one.traces]
    correct = np.concatenate([one.correct for one in samples])
    along = np.concatenate([one.along for one in samples])
    out: dict[str, Any] = {
        "lengths": _lengths(np.array([t.tokens for t in traces]), correct),
        "along": {name: {side: _means(along[correct == (side == "right"), k]) for side in SIDES}
                  for k, name in enumerate(("entropy", "explored"))},
    }  # fmt: skip
    if all(t.scores for t in traces):
        table = np.array([[score_at(t, share) for share in SHARES] for t in traces])
        out["trajectories"] = {"shares": list(SHARES)} | {
            side: _quartiles(table[correct == (side == "right")]) for side in SIDES
        }
        if table.min() >= 0 and table.max() <= 1:
            out["reliability"] = calibration(table[:, -1], correct)["curve"]
    return out


def _lengths(tokens: np.ndarray, correct: np.ndarray) -> dict[str, list[int]]:
    edges = np.unique(np.linspace(0, max(1, tokens.max()), BINS + 1).round().astype(int))
    counts = {side: np.histogram(tokens[correct == (side == "right")], edges)[0].tolist() for side in SIDES}
    return {"edges": edges.tolist(), **counts}


def _means(rows: np.ndarray) -> list[float | None]:
    """Means [TENTHS] of rows [N, TENTHS] over the rows that have a value."""
    there = ~np.isnan(rows)
    counts = there.sum(0)
    sums = np.where(there, rows, 0).sum(0)
    return [round(float(s / c), 4) if c else None for s, c in zip(sums, counts, strict=True)]


def _quartiles(rows: np.ndarray) -> dict[str, list[float]] | None:
    if not len(rows):
        return None
    low, high = np.quantile(rows, [0.25, 0.75], axis=0)
    found = {"mean": rows.mean(0), "low": low, "high": high}
    return {name: values.round(4).tolist() for name, values in found.items()}
