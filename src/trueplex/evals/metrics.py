"""Metrics over stored traces: pass@k, AUROC within problems, bootstrap intervals, paired differences. Plain numpy."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np


def pass_at(n: int, right: int, k: int) -> float:
    """The unbiased chance that one of k of n samples is right: 1 − C(n−c, k) / C(n, k) (Chen et al., 2021)."""
    if not 1 <= k <= n:
        raise ValueError(f"k is {k} with {n} samples; it must be between 1 and the number of samples")
    if n - right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - right + 1, n + 1)))


def auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """The chance that a right trace scores above a wrong one, ties counting half. NaN without both."""
    if not len(right) or not len(wrong):
        return float("nan")
    below, upto = (np.searchsorted(np.sort(wrong), right, side) for side in ("left", "right"))
    return float((below.sum() + upto.sum()) / (2 * len(right) * len(wrong)))


def per_problem_auroc(problems: Sequence[Hashable], correct: Sequence[bool], scores: Sequence[float]) -> list[float]:
    """AUROC of each problem that has both right and wrong traces, in order of first appearance."""
    groups: dict[Hashable, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for problem, right, score in zip(problems, correct, scores, strict=True):
        groups[problem][0 if right else 1].append(score)
    return [auroc(right, wrong) for right, wrong in groups.values() if right and wrong]


def within_auroc(problems: Sequence[Hashable], correct: Sequence[bool], scores: Sequence[float]) -> float:
    """Mean of the per-problem AUROCs, which is what voting and pruning within a problem depend on."""
    values = per_problem_auroc(problems, correct, scores)
    return float(np.mean(values)) if values else float("nan")


FEW = 20  # problems; a figure over fewer of them is too rough to compare anything by


def share_interval(share: float, problems: int) -> tuple[float, float]:
    """95 % interval of a share of so many problems: Wilson's score interval, which has a width at 0 and at 1 too.

    A bootstrap has none there: every draw from equal values is the same.
    """
    from scipy.stats import binomtest

    found = binomtest(round(share * problems), problems).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


ALL_DRAWS = 1000  # bootstrap draws of an AUROC over all traces
AT_ONCE = 2**20  # traces, each as often as it is looked at, that are computed together


def auroc_over_all(
    problems: Sequence[Hashable], correct: Sequence[bool], scores: Sequence[float]
) -> dict[str, float] | None:
    """AUROC over all traces with its 95 % bootstrap interval, problems drawn whole; None without right and wrong ones.

    A draw counts each trace as often as its problem was drawn. Draws without both sides are left out.
    """
    right, order = np.asarray(correct, dtype=bool), np.argsort(scores, kind="stable")
    if right.all() or not right.any():
        return None
    numbers = {problem: place for place, problem in enumerate(dict.fromkeys(problems))}
    owner = np.array([numbers[p] for p in problems])[order]
    ranked, right = np.asarray(scores, dtype=float)[order], right[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # traces of one score are tied

    def areas(counts: np.ndarray) -> np.ndarray:
        """AUROC [D] when problems count so often, [D, problems]."""
        weights = counts[:, owner]
        above, below = (np.add.reduceat(weights * side, starts, axis=1, dtype=float) for side in (right, ~right))
        pairs = above.sum(1) * below.sum(1)
        won = (above * (below.cumsum(1) - below / 2)).sum(1)
        return np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)

    mean = areas(np.ones((1, len(numbers)), dtype=np.int64))[0]
    picks, size = _picks(0, ALL_DRAWS, len(numbers)), max(1, AT_ONCE // len(order))
    drawn = np.concatenate([
        areas(np.stack([np.bincount(pick, minlength=len(numbers)) for pick in picks[at : at + size]]))
        for at in range(0, ALL_DRAWS, size)
    ])  # fmt: skip
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return {"mean": round(float(mean), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


@functools.lru_cache(8)
def _picks(seed: int, draws: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, (draws, size))


def interval(
    values: Sequence[float], statistic: Callable[[np.ndarray], float] = np.mean, draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """95 % percentile bootstrap interval of a statistic over problems, one value each."""
    data = np.asarray(values, dtype=float)
    if not len(data):
        return float("nan"), float("nan")
    picks = _picks(seed, draws, len(data))
    drawn = data[picks].mean(1) if statistic is np.mean else np.apply_along_axis(statistic, 1, data[picks])
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def figure(values: Sequence[float]) -> dict[str, float] | None:
    """A mean over problems with its 95 % bootstrap interval; None without any."""
    if not len(values):
        return None
    low, high = interval(values)
    return {"mean": round(float(np.mean(values)), 4), "low": round(low, 4), "high": round(high, 4)}


def paired(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """The difference of two methods over the same problems: mean, interval, and on how many it wins, ties and loses.

    Raises:
        ValueError: they do not have one value each for the same problems.
    """
    gains = np.subtract(np.asarray(one, dtype=float), np.asarray(other, dtype=float))  # other shapes raise here
    close = np.isclose(gains, 0.0, atol=1e-9)
    return {
        **(figure(gains.tolist()) or {}),
        "win": int(((gains > 0) & ~close).sum()), "tie": int(close.sum()), "loss": int(((gains < 0) & ~close).sum()),
    }  # fmt: skip


BINS = 10  # of equal width, for calibration


def calibration(scores: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """Brier score, expected calibration error and the reliability curve of scores [N] in [0, 1]."""
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = [place == b for b in range(BINS)]
    curve = [
        {
            "score": round(float(scores[b].mean()), 4),
            "right": round(float(correct[b].mean()), 4),
            "traces": int(b.sum()),
        }
        for b in bins
        if b.any()
    ]
    error = sum(abs(c["score"] - c["right"]) * c["traces"] for c in curve) / len(scores)
    return {"brier": round(float(np.mean((scores - correct) ** 2)), 4), "ece": round(error, 4), "curve": curve}
