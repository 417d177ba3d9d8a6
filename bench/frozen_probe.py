"""What can be read off a frozen model with a probe, and whether more problems would help: a diagnosis before a verifier is trained.

    python bench/frozen_probe.py --model ./my-model --data runs/rollouts --keep-base runs/base --out results/real/frozen-probe.json

A probe token that has learned nothing (the mean of all embeddings, no LoRA) reads every trace at half and at the end. Its final
states, standardised and without what the traces of a problem share, go to a logistic regression on `COMPONENTS` principal
components, with one strength for all that was not tuned. It learns from so many problems, drawn at random from four fifths of
them, and is judged by AUROC within problems on the other fifth; five folds, `DRAWS` draws each. Beside it stand scores that cost
nothing, on the same traces, and `agreement`: which share of the problem's other traces gave the same answer. A curve that
rises to its end asks for more data; one that is flat below the free scores says that a linear reading of these states holds no more.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from cells import write
from trueplex.evals.metrics import auroc, figure
from trueplex.evals.run import machine
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.train.common.batches import Labelled
from trueplex.train.verifier import mixed, read_labelled
from trueplex.verify.confidence import parse
from trueplex.verify.kept import keep_reads
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import score_shares

SHARES = (0.5, 1.0)
FREE = ("entropy", "logprob", "deepconf:mean", "deepconf:lowest@64")
COMPONENTS, STRENGTH = 64, 0.01
SIZES = (20, 40, 80, 160, 320, 640)
FOLDS, DRAWS = 5, 4


def states_of(backbone: Backbone, traces: Sequence[Labelled]) -> np.ndarray:
    """Final states of the untrained probe [traces, shares, H], float32, trace by trace."""
    verifier = OneTokenVerifier(backbone, rank=0)
    found: list[np.ndarray] = []
    hook = verifier.probe.register_forward_pre_hook(
        lambda probe, given: found.append(given[0][0, :, 0].float().numpy())
    )
    try:
        for trace in traces:
            score_shares(verifier, [(trace.prompt, trace.steps)], SHARES, 1)
    finally:
        hook.remove()
    return np.stack(found)


def within(groups: Sequence[np.ndarray], right: np.ndarray, scores: np.ndarray) -> dict[int, float]:
    """AUROC of each group that has both outcomes, by its number."""
    return {
        number: auroc(scores[rows][right[rows]].tolist(), scores[rows][~right[rows]].tolist())
        for number, rows in enumerate(groups)
        if 0 < right[rows].sum() < len(rows)
    }


def learned(states: np.ndarray, groups: Sequence[np.ndarray], right: np.ndarray, size: int) -> dict[int, float]:
    """Mean AUROC within each problem of readings that learned from so many others."""
    centred = np.concatenate([states[rows] - states[rows].mean(0) for rows in groups])
    places = np.cumsum([0, *map(len, groups)])
    spans = [np.arange(*ends) for ends in pairwise(places.tolist())]
    outcome = np.concatenate([right[rows] for rows in groups])
    rng, found = np.random.default_rng(0), defaultdict(list)
    order = rng.permutation(len(groups))
    for fold in range(FOLDS):
        judged = order[fold::FOLDS]
        others = np.setdiff1d(order, judged)
        for _ in range(DRAWS):
            taught = rng.choice(others, size, replace=False)
            rows = np.concatenate([spans[problem] for problem in taught])
            spread = centred[rows].std(0) + 1e-6
            parts = PCA(min(COMPONENTS, len(rows) - 1), random_state=0).fit(centred[rows] / spread)
            model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
            model.fit(parts.transform(centred[rows] / spread), outcome[rows])
            scores = model.decision_function(parts.transform(centred / spread))
            for problem, value in within([spans[p] for p in judged], outcome, scores).items():
                found[int(judged[problem])].append(value)
    return {problem: float(np.mean(values)) for problem, values in found.items()}


def agreement(traces: Sequence[Labelled], groups: Sequence[np.ndarray]) -> np.ndarray:
    """For each trace, which share of the problem's others gave its answer; 0 for one without."""
    shares = np.zeros(len(traces))
    for rows in groups:
        votes = Counter(traces[row].answer for row in rows if traces[row].answer)
        for row in rows:
            shares[row] = (votes[traces[row].answer] - 1) / (len(rows) - 1) if traces[row].answer else 0.0
    return shares


def study(backbone: Backbone, traces: Sequence[Labelled], states: np.ndarray) -> dict[str, Any]:
    """The curves and the free scores."""
    numbers = np.array([trace.problem for trace in traces])
    groups = [np.flatnonzero(numbers == problem) for problem in dict.fromkeys(numbers.tolist())]
    right = np.array([trace.correct for trace in traces])
    sizes = [size for size in SIZES if size <= len(groups) * (FOLDS - 1) // FOLDS] + [
        len(groups) * (FOLDS - 1) // FOLDS
    ]
    curves = {
        str(share): {
            str(size): figure(list(learned(states[:, at], groups, right, size).values()))
            for size in dict.fromkeys(sizes)
        }
        for at, share in enumerate(SHARES)
    }
    free: dict[str, dict[str, Any]] = {}
    for name in FREE:
        score = parse(name)
        assert score is not None
        free[name] = {
            str(share): figure(
                list(
                    within(
                        groups, right, np.array([score(t.steps, max(1, round(share * len(t.steps)))) for t in traces])
                    ).values()
                )
            )
            for share in SHARES
        }
    free["agreement"] = {"1.0": figure(list(within(groups, right, agreement(traces, groups)).values()))}
    return {
        "problems": len(groups),
        "traces": len(traces),
        "right": round(float(right.mean()), 4),
        "frozen": curves,
        "free": free,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--name", help="the model's name, as its users know it; as it is loaded unless said")
    parser.add_argument("--data", type=Path, action="append", required=True, help="folder of rollouts; can be repeated")
    parser.add_argument(
        "--keep-base", type=Path, help="folder in which what the base reads of traces is kept, as in training"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    backbone = load(given.model)
    traces = mixed([trace for folder in given.data for trace in read_labelled(folder, backbone)])
    if given.keep_base:
        keep_reads(backbone, given.keep_base, sum(map(len, traces)))
    with torch.inference_mode():
        found = study(backbone, traces, states_of(backbone, traces))
    table = Table("AUROC within problems", *(f"{share:.0%} of a trace" for share in SHARES))
    rows = {
        f"frozen probe, {size} problems": [found["frozen"][str(s)][size] for s in SHARES]
        for size in found["frozen"]["1.0"]
    }
    rows |= {name: [by.get(str(s)) for s in SHARES] for name, by in found["free"].items()}
    for name, figures in rows.items():
        table.add_row(name, *(f"{f['mean']:.3f} [{f['low']:.3f}, {f['high']:.3f}]" if f else "–" for f in figures))
    Console().print(table)
    settings = {
        "model": given.name or given.model,
        "fingerprint": backbone.fingerprint,
        "components": COMPONENTS,
        "strength": STRENGTH,
        "folds": FOLDS,
        "draws": DRAWS,
    }
    write({"machine": machine(), **settings, **found}, given.out)


if __name__ == "__main__":
    main()
