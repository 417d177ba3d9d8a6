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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from cells import write
from trueplex.evals.metrics import figure, per_problem_auroc
from trueplex.evals.run import machine
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.train.common.batches import Labelled
from trueplex.train.verifier import mixed, read_labelled
from trueplex.verify.confidence import parse
from trueplex.verify.kept import keep_reads
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import score_shares
from trueplex.verify.stored import tokens_at

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


def learned(states: np.ndarray, problems: np.ndarray, right: np.ndarray, size: int) -> list[float]:
    """Mean AUROC within each problem of readings that learned from so many others."""
    centred, numbers = states.copy(), np.unique(problems)
    for problem in numbers:
        centred[problems == problem] -= states[problems == problem].mean(0)
    rng, found = np.random.default_rng(0), []
    order = rng.permutation(numbers)
    for fold in range(FOLDS):
        judged = order[fold::FOLDS]
        asked, drawn = np.isin(problems, judged), []
        for _ in range(DRAWS):
            taught = np.isin(problems, rng.choice(np.setdiff1d(order, judged), size, replace=False))
            spread = centred[taught].std(0) + 1e-6
            parts = PCA(min(COMPONENTS, taught.sum() - 1), random_state=0).fit(centred[taught] / spread)
            model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
            model.fit(parts.transform(centred[taught] / spread), right[taught])
            scores = model.decision_function(parts.transform(centred[asked] / spread))
            drawn.append(per_problem_auroc(problems[asked].tolist(), right[asked].tolist(), scores.tolist()))
        found += np.mean(drawn, axis=0).tolist()
    return found


def agreement(traces: Sequence[Labelled]) -> list[float]:
    """For each trace, which share of the problem's others gave its answer; 0 for one without."""
    counts = Counter(trace.problem for trace in traces)
    votes = Counter((trace.problem, trace.answer) for trace in traces)
    return [(votes[t.problem, t.answer] - 1) / (counts[t.problem] - 1) if t.answer else 0.0 for t in traces]


def free_score(name: str, traces: Sequence[Labelled], share: float) -> list[float]:
    """A score that costs nothing, of each trace when that share of it was written."""
    score = parse(name)
    assert score is not None
    return [score(t.steps, tokens_at(len(t.steps), share)) for t in traces]


def study(backbone: Backbone, traces: Sequence[Labelled], states: np.ndarray) -> dict[str, Any]:
    """The curves and the free scores."""
    problems, right = [t.problem for t in traces], [t.correct for t in traces]
    count = len(set(problems))
    most = count * (FOLDS - 1) // FOLDS
    sizes = [*(size for size in SIZES if size < most), most]

    def ranked(scores: Sequence[float]) -> dict[str, float] | None:
        return figure(per_problem_auroc(problems, right, scores))

    return {
        "problems": count, "traces": len(traces), "right": round(float(np.mean(right)), 4),
        "frozen": {str(share): {str(size): figure(learned(states[:, at], np.array(problems), np.array(right), size)) for size in sizes}
                   for at, share in enumerate(SHARES)},
        "free": {name: {str(share): ranked(free_score(name, traces, share)) for share in SHARES} for name in FREE}
        | {"agreement": {"1.0": ranked(agreement(traces))}},
    }  # fmt: skip


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
