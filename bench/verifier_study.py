"""What each single change of a verifier brings, on validation traces; `make verifier-study` calls this.

    python bench/verifier_study.py --runs runs/verifier-study --out results/verifier-study.json [--only otv,taps]

All verifiers go on from the one that ships, from the same rollouts, for as many steps; those of `SCRATCH` begin from nothing, as
another rank cannot go on from it. They and the scores that need no training are held against `otv`, problem by problem. A verifier that
was trained is not trained again, and one that was interrupted is resumed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cells import MODES
from trueplex.data.traces import read_traces
from trueplex.evals.quality import SHARES, Scored, judge
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.models.backbone import Backbone
from trueplex.models.load import load, reference_path
from trueplex.solving.settings import origin
from trueplex.train.common.batches import Labelled
from trueplex.train.verifier import Recipe, mixed, read_labelled, train_verifier
from trueplex.verify.base import base_pass
from trueplex.verify.folder import CARD
from trueplex.verify.free import FREE
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.open import open_scorer
from trueplex.verify.probe import features_at, pad_inputs, probe_pass
from trueplex.verify.stored import Stored, tokens_at

SHIPPED = "as shipped"
TAPS = (2, 4, 6)  # of six layers
CHANGES: dict[str, dict[str, Any]] = {
    "otv": {},  # one token, ramp, mean squared error: what the others are held against
    "taps": {"taps": TAPS},
    "features": {"features": tuple(FREE)},
    "m4": {"probe_tokens": 4},
    "soft": {"labels": "soft", "loss": "bce"},
    "bce": {"loss": "bce"},
    "hard": {"hard_negatives": True},
    "spread": {"spread": True},
    "ranking": {"ranking": 0.5},
    "m2": {"probe_tokens": 2},
    "m6": {"probe_tokens": 6},
    "repeated4": {"probe_tokens": 4, "probe_repeated": True},
    "pooled4": {"probe_tokens": 4, "probe_pool": "learned"},
    "measured": {"labels": "measured", "loss": "bce"},
    "soft4": {"labels": "soft", "loss": "bce", "probe_tokens": 4},
    "scratch": {},
    "rank4": {"rank": 4},
    "rank64": {"rank": 64},
    "rank128": {"rank": 128},
}
SCRATCH = ("scratch", "rank4", "rank64", "rank128")
RIVALS = ("deepconf:mean", "deepconf:tail@32", "logprob", "entropy")
HELD = 128  # traces of training problems that a verifier's card is about; they decide nothing
ROWS = 32  # traces that are read together


def recipe(name: str, epochs: float) -> Recipe:
    plain = Recipe(positions=16, balanced=True, epochs=epochs, every=20)
    began = {"lr": 2e-3} if name in SCRATCH else {"lr": 3e-4, "start": str(reference_path() / "verifier")}
    return replace(plain, **began, **CHANGES[name])  # type: ignore[arg-type]


def train(backbone: Backbone, runs: Path, names: Sequence[str], epochs: float) -> None:
    """Train those that are not trained yet, from the same traces."""
    left = [name for name in names if not (runs / name / CARD).exists()]
    traces: list[Labelled] = []
    for mode in MODES if left else ():
        traces += read_labelled(runs / "rollouts" / mode, backbone)
    held = mixed([t for t in traces if (t.problem >> 32) % 10 == 0])[:HELD]  # as `trueplex train verifier` holds back
    learned = mixed([t for t in traces if (t.problem >> 32) % 10])
    for name in left:
        print(f"training {name}", flush=True)
        train_verifier(backbone, learned, held, recipe(name, epochs), runs / name)


def both_sides(stored: Sequence[Stored], samples: int) -> list[Stored]:
    """The first traces of each problem that has right and wrong ones among them."""
    few = [(t, p) for t, p in stored if t.index < samples and t.tokens and t.correct is not None]
    outcomes: dict[int, set[bool]] = {}
    for trace, _ in few:
        outcomes.setdefault(trace.problem.key, set()).add(bool(trace.correct))
    return [(t, p) for t, p in few if len(outcomes[t.problem.key]) == 2]


@torch.inference_mode()
def scored(
    backbone: Backbone, verifiers: Mapping[str, OneTokenVerifier], stored: Sequence[Stored]
) -> dict[str, Scored]:
    """Scores at `SHARES` by every verifier: as each scores alone, but the base model reads a trace once for all."""
    tables = {name: np.zeros((len(stored), len(SHARES)), dtype=np.float32) for name in verifiers}
    order = sorted(range(len(stored)), key=lambda i: len(stored[i][1]) + stored[i][0].tokens)
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        traces = [(prompt, trace.steps) for trace, prompt in (stored[i] for i in rows) if trace.steps is not None]
        at = [[len(p) - 1 + tokens_at(len(steps), share) for share in SHARES] for p, steps in traces]
        inputs, _ = pad_inputs(backbone, traces)
        base, positions = base_pass(backbone, inputs, TAPS), torch.tensor(at)
        for name, verifier in verifiers.items():
            logits = probe_pass(verifier, base, positions, features_at(verifier, traces, at))
            tables[name][rows] = torch.sigmoid(logits).numpy()
    return {name: Scored(table, 0.0, 0.0, True) for name, table in tables.items()}


def judged(backbone: Backbone, runs: Path, mode: str, names: Sequence[str], samples: int) -> dict[str, Any]:
    """The figures of all scorers on one kind of validation traces."""
    stored = both_sides(list(read_traces(runs / "validation" / mode, origin(None, backbone))), samples)
    folders = {name: runs / name for name in names} | {SHIPPED: reference_path() / "verifier"}
    verifiers = {name: OneTokenVerifier.load(folder, backbone) for name, folder in folders.items()}
    scores = scored(backbone, verifiers, stored)
    for name in RIVALS:
        scorer = open_scorer(backbone, name)
        scores[name] = Scored(scorer.score_shares(stored, SHARES), 0.0, 0.0, scorer.bounded)
    result = judge(stored, scores)
    for figures in result["scorers"].values():
        figures.get("calibration", {}).pop("curve", None)
        for cost in ("milliseconds_per_trace", "megaflops_per_trace"):  # not told apart here: see `make scorers`
            del figures[cost]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of rollouts, validation traces and verifiers")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--only", default=",".join(CHANGES), help="names of `CHANGES`, separated by commas")
    parser.add_argument("--epochs", type=float, default=0.25, help="passes over the traces")
    parser.add_argument("--samples", type=int, default=16, help="validation traces a problem")
    options = parser.parse_args()
    names, backbone = options.only.split(","), load("reference", device="cpu")
    train(backbone, options.runs, names, options.epochs)
    modes = {mode: judged(backbone, options.runs, mode, names, options.samples) for mode in MODES}
    changed = {name: {k: list(v) if isinstance(v, tuple) else v for k, v in CHANGES[name].items()} for name in names}
    config = {"epochs": options.epochs, "samples": options.samples, "left_out": [n for n in CHANGES if n not in names]}
    write_json(options.out, {"machine": machine(), "config": config, "changed": changed, "modes": modes}, indent=1)


if __name__ == "__main__":
    main()
