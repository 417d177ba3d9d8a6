"""Fit a linear verifier (`trueplex.verify.linear` applies it): logistic regression on what the base model has stored of traces.

What counts is the ranking within problems, so features are centred on the traces of one problem at one share of their length,
as conditional logistic regression would have it; only then the scale and the bias are fitted over all traces, on scores of
problems that did not fit them, so that the score is a probability. The penalty is the one that ranks such problems best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from trueplex.engine.pooling import WINDOWS
from trueplex.errors import InputError
from trueplex.evals.metrics import within_auroc
from trueplex.models.backbone import Backbone
from trueplex.train.combined import FOLDS, SHARES, Shown, judged, logistic, probability, refuse_half, show
from trueplex.verify.combined import FREE, free
from trueplex.verify.linear import Card, LinearVerifier, layers_read, read_pooled
from trueplex.verify.stored import Stored

LOOSE = (0.03, 0.1, 0.3, 1.0, 3.0)  # by how much all pooled features together may weigh: C times their number
MIXED = 2  # problems with right and wrong traces, at least, in each fold


def fit(
    backbone: Backbone,
    kept: Sequence[Stored],
    data: str,
    done: Callable[[int, int], object] = lambda count, tokens: None,
) -> LinearVerifier:
    """The linear verifier for graded traces of problems with right and wrong ones (`train.combined.comparable`).

    ``done`` is told how many traces more were read, and their tokens.

    Raises:
        InputError: a phase has too few problems with right and wrong traces.
        ModelError: no layer of the model can be read so.
        MissingExtra: scikit-learn is not installed.
    """
    layers = layers_read(backbone)
    weights: dict[str, np.ndarray] = {}
    biases: dict[str, float] = {}
    parts: list[tuple[Shown, np.ndarray]] = []
    told: dict[str, float] = {}
    for phase, shown in show(kept, partial(_looks, backbone, layers, done)).items():
        groups = len(set(shown.problems.tolist()))
        if groups < FOLDS * MIXED:
            raise InputError(f"{groups} problems have right and wrong traces that are {phase.name}, and {FOLDS * MIXED} are needed. Try: roll out "
                             "more")  # fmt: skip
        weights[phase.name], biases[phase.name], held = _fit(shown)
        parts.append((shown, held))
        told |= {f"within_auroc, {phase.name}": round(judged(shown, held), 4), f"problems, {phase.name}": groups}
    refuse_half(weights)
    card = Card(backbone.name, backbone.fingerprint, layers, WINDOWS, tuple(FREE), biases, data, len(kept),
                _by_share(parts) | told)  # fmt: skip
    return LinearVerifier(card, {name: torch.from_numpy(own.astype(np.float32)) for name, own in weights.items()})


def _looks(
    backbone: Backbone, layers: Sequence[int], done: Callable[[int, int], object], kept: Sequence[Stored], places: list[list[int]]
) -> list[np.ndarray]:  # fmt: skip
    """Features [looks, F] of traces after so many tokens each: pooled values, then free ones."""
    read = read_pooled(backbone, layers, kept, places, done=done)
    known = [[free(trace.steps, n) for n in at] for (trace, _), at in zip(kept, places, strict=True) if trace.steps is not None]  # fmt: skip
    return [np.concatenate([own, np.array(beside, np.float32)], 1) for own, beside in zip(read, known, strict=True)]


def _fit(shown: Shown) -> tuple[np.ndarray, float, np.ndarray]:
    """Weights [F] and a bias that make the ranking a probability, and the scores [N] of problems that did not fit them."""
    centred, scale, teaches = _standard(shown)
    fold = np.unique(shown.problems, return_inverse=True)[1] % FOLDS

    def ranking(rows: np.ndarray, loose: float) -> np.ndarray:
        chosen = rows & teaches
        found = logistic(C=loose / len(scale), fit_intercept=False).fit(centred[chosen], shown.correct[chosen])
        return found.coef_[0].astype(np.float64) / scale

    def held_out(loose: float) -> np.ndarray:
        scores = np.zeros(len(fold))
        for number in range(FOLDS):
            out = fold == number
            scores[out] = shown.values[out] @ ranking(~out, loose)
        return scores

    held = {loose: held_out(loose) for loose in LOOSE}
    best = max(LOOSE, key=lambda loose: judged(shown, held[loose]))
    slope, bias = probability(held[best], shown.correct)
    return slope * ranking(fold >= 0, best), bias, slope * held[best] + bias


def _standard(shown: Shown) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The features [N, F] centred within groups and divided by the scale [F], that scale, and which rows' groups have right and wrong ones [N].

    Free features are few beside pooled ones: their scale makes both weigh alike before anything is learned.
    """
    group = np.unique(shown.groups, return_inverse=True)[1]
    count, right = np.bincount(group), np.bincount(group, shown.correct)
    sums = np.zeros((len(count), shown.values.shape[1]), dtype=np.float64)
    np.add.at(sums, group, shown.values)
    centred = shown.values - (sums / count[:, None])[group]
    scale = centred.std(0) + 1e-6
    scale[-len(FREE) :] /= np.sqrt((len(scale) - len(FREE)) / len(FREE))
    return (centred / scale).astype(np.float32), scale, ((right > 0) & (right < count))[group]


def _by_share(parts: Sequence[tuple[Shown, np.ndarray]]) -> dict[str, float]:
    """AUROC within problems at each share, of log-odds by weights that did not see the problem."""
    problems, correct, place = (
        np.concatenate([getattr(s, name) for s, _ in parts]) for name in ("problems", "correct", "groups")
    )
    scores, place = np.concatenate([held for _, held in parts]), place % len(SHARES)
    return {
        f"within_auroc@{share}": round(
            within_auroc(problems[place == i].tolist(), correct[place == i].tolist(), scores[place == i].tolist()), 4
        )
        for i, share in enumerate(SHARES)
    }
