"""Fit the combination of a probe with what is known of a trace for nothing (`trueplex.verify.combined` applies it).

The weights are those that rank best within problems: logistic regression on differences between a right and a wrong
trace of one problem, without a constant. Only then the scale and the bias are fitted over all traces, so that the score
is a probability. Features of a phase that do not pay, judged on problems that did not fit them, are left out one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from trueplex.errors import InputError, MissingExtra
from trueplex.evals.metrics import within_auroc
from trueplex.models.backbone import Backbone
from trueplex.verify.combined import FEATURES, PROBE, Combination, Phase, features, phase_of
from trueplex.verify.probe import OneTokenScorer
from trueplex.verify.stored import Stored, tokens_at

log = logging.getLogger(__name__)

SHARES = (0.25, 0.5, 0.75, 1.0)  # of a trace, where it is shown
PAIRS = 40  # of a right and a wrong trace, of each problem at each share
FOLDS = 4
PAYS = 0.001  # AUROC within problems that a feature must bring on problems that did not fit it


@dataclass(frozen=True)
class Shown:
    """Traces of one phase as they stood: features [N, F], right or wrong [N], problem [N], and the pair's group [N].

    Only traces of one problem at one share are compared, so a group is both.
    """

    values: np.ndarray
    correct: np.ndarray
    problems: np.ndarray
    groups: np.ndarray

    def of(self, chosen: np.ndarray) -> Shown:
        return Shown(self.values[chosen], self.correct[chosen], self.problems[chosen], self.groups[chosen])


def fit(backbone: Backbone, stored: Sequence[Stored], probe: OneTokenScorer | None) -> Combination:
    """The combination for graded traces of validation problems.

    Raises:
        InputError: a phase has no problem with right and wrong traces.
        MissingExtra: scikit-learn is not installed.
    """
    weights: dict[str, dict[str, float]] = {}
    biases: dict[str, float] = {}
    fitted: dict[str, dict[str, float]] = {}
    for phase, shown in show(comparable(stored), partial(_features, probe)).items():
        chosen = _paying(shown, [f for f in FEATURES if probe is not None or f != PROBE])
        weights[phase.name], biases[phase.name] = _fit(shown, chosen)
        held = _held_out(shown, chosen)
        fitted[phase.name] = {"traces": len(shown.correct), "problems": len(set(shown.problems.tolist())),
                              "within_auroc": round(judged(shown, held), 4)}  # fmt: skip
        for place, name in enumerate(FEATURES):  # each alone, the better way round
            alone = judged(shown, shown.values[:, place])
            fitted[phase.name][f"{name} alone"] = round(max(alone, 1 - alone), 4)
    refuse_half(weights)
    kinds = {name.partition(",")[0] for name in weights}
    if len(kinds) == 1:
        log.warning(
            f"only {kinds.pop()} traces were given: others will be scored by their weights, which nobody has measured"
        )
    return Combination(backbone.fingerprint, probe.fingerprint if probe else None, weights, biases, fitted)


def refuse_half(phases: Iterable[str]) -> None:
    """Raise InputError unless traces that think and traces that have their answer are among these phases."""
    ends = {name.rpartition(" ")[2] for name in phases}
    if len(ends) < 2:
        raise InputError("the traces show thinking or answers only. Try: roll out more")


def comparable(stored: Iterable[Stored]) -> list[Stored]:
    """Of stored traces, the graded ones of problems that have both right and wrong ones. Raises InputError when there are none."""
    stored = [(t, p) for t, p in stored if t.correct is not None and t.tokens]
    outcomes: dict[int, set[bool]] = {}
    for trace, _ in stored:
        outcomes.setdefault(trace.problem.key, set()).add(bool(trace.correct))
    kept = [(t, p) for t, p in stored if len(outcomes[t.problem.key]) == 2]
    if not kept:
        raise InputError("no problem has both right and wrong traces. Try: roll out more")
    return kept


def show(kept: Sequence[Stored], look: Callable[[Sequence[Stored], list[list[int]]], Sequence[Any]]) -> dict[Phase, Shown]:  # fmt: skip
    """What traces look like at `SHARES` of their length, by phase; ``look`` gives the features of each after so many tokens."""
    places = [[tokens_at(trace.tokens, share) for share in SHARES] for trace, _ in kept]
    rows: dict[Phase, list[tuple[Sequence[float], bool, int, int]]] = {}
    for (trace, _), at, seen in zip(kept, places, look(kept, places), strict=True):
        assert trace.steps is not None
        for place, (tokens, values) in enumerate(zip(at, seen, strict=True)):
            phase = phase_of(trace, trace.steps, tokens, tokens == trace.tokens)
            group = trace.problem.key % 2**61 * len(SHARES) + place
            rows.setdefault(phase, []).append((values, bool(trace.correct), trace.problem.key % 2**61, group))
    return {phase: Shown(*(np.array(column) for column in zip(*found, strict=True))) for phase, found in rows.items()}


def _features(probe: OneTokenScorer | None, kept: Sequence[Stored], places: list[list[int]]) -> list[list[list[float]]]:
    """The features of `FEATURES` of traces after so many tokens each."""
    read = probe.score_shares(kept, SHARES) if probe else None
    return [
        [features(trace.steps, n, None if read is None else float(read[row, i])) for i, n in enumerate(at)]
        for row, ((trace, _), at) in enumerate(zip(kept, places, strict=True))
        if trace.steps is not None
    ]


def _paying(shown: Shown, names: Sequence[str]) -> list[str]:
    """The features without those that bring less than `PAYS` on problems that did not fit them, the least first."""
    chosen = list(names)
    best = judged(shown, _held_out(shown, chosen))
    while len(chosen) > 1:
        without = {f: judged(shown, _held_out(shown, [c for c in chosen if c != f])) for f in chosen}
        least = max(without, key=lambda f: without[f])
        if without[least] < best - PAYS:
            break
        best = max(best, without[least])
        chosen.remove(least)
    return chosen


def _held_out(shown: Shown, names: Sequence[str]) -> np.ndarray:
    """Scores [N] of every problem's traces by weights that the other folds of problems gave."""
    fold = shown.problems // 7 % FOLDS
    scores = np.zeros(len(fold))
    for number in range(FOLDS):
        weights = _ranking(shown.of(fold != number), names)
        scores[fold == number] = shown.values[fold == number] @ weights
    return scores


def judged(shown: Shown, scores: np.ndarray) -> float:
    """AUROC within problems at the same share of their traces."""
    return within_auroc(shown.groups.tolist(), shown.correct.tolist(), scores.tolist())


def _ranking(shown: Shown, names: Sequence[str]) -> np.ndarray:
    """Weights [F] that rank right above wrong traces of one group, 0 for features that are not named.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    columns = [FEATURES.index(name) for name in names]
    values = shown.values[:, columns]
    scale = values.std(0) + 1e-9
    rng = np.random.default_rng(0)
    differences = []
    for group in np.unique(shown.groups):
        right, wrong = (np.flatnonzero((shown.groups == group) & (shown.correct == side)) for side in (True, False))
        if len(right) and len(wrong):
            count = min(PAIRS, len(right) * len(wrong))
            differences.append(values[rng.choice(right, count)] - values[rng.choice(wrong, count)])
    if not differences:
        raise InputError("no problem has both right and wrong traces in some phase. Try: roll out more")
    pairs = np.concatenate(differences) / scale
    side = np.where(np.arange(len(pairs)) % 2, 1, -1)
    found = logistic(C=1.0, fit_intercept=False).fit(pairs * side[:, None], side)
    weights = np.zeros(len(FEATURES))
    weights[columns] = found.coef_[0] / scale
    return weights


def _fit(shown: Shown, names: Sequence[str]) -> tuple[dict[str, float], float]:
    """Weights by feature and a bias that make the ranking a probability over all traces."""
    weights = _ranking(shown, names)
    slope, bias = probability(shown.values @ weights, shown.correct)
    return {name: float(slope * weights[FEATURES.index(name)]) for name in names}, bias


def probability(scores: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Slope and bias that make scores [N] log-odds of right. A ranking may mean little over all problems, but is never turned round."""
    found = logistic(C=1e4).fit(scores[:, None], correct)
    slope = max(float(found.coef_[0, 0]), 0.05)
    return slope, float(found.intercept_[0]) if slope > 0.05 else float(-slope * scores.mean())


def logistic(**options: Any) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as missing:
        raise MissingExtra("scikit-learn", "train") from missing
    return LogisticRegression(max_iter=2000, **options)
