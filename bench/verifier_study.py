"""What each single change of a verifier brings, on validation traces; `make verifier-study` calls this.

    python bench/verifier_study.py --runs runs/verifier-study --out results/verifier-study.json [--only otv,taps]

All verifiers go on from the one that ships, from the same rollouts, for as many steps; those of `SCRATCH` begin from nothing, as
another rank cannot go on from it. They and the scores that need no training are held against `otv`, problem by problem. A verifier that
was trained is not trained again, and one that was interrupted is resumed.

What a head could gain by reading more than its probe, the hidden states of the trace's own last token behind some layers (taps) or the
numbers that each step leaves behind (features), is found at its best without a training run: by logistic regression on
training traces, beside the log-odds of the probe that ships (`LINEAR`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import rms_norm

from cells import MODES
from trueplex.data.traces import read_traces
from trueplex.evals.metrics import within_auroc
from trueplex.evals.quality import SHARES, Scored, judge
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.models.backbone import Backbone
from trueplex.models.load import load, reference_path
from trueplex.solving.settings import origin
from trueplex.train.common.batches import Labelled
from trueplex.train.verifier import Recipe, mixed, read_labelled, train_verifier
from trueplex.verify.base import base_pass
from trueplex.verify.combined import FREE
from trueplex.verify.folder import CARD
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.open import open_scorer
from trueplex.verify.probe import pad_inputs, probe_pass
from trueplex.verify.stored import Stored, tokens_at

SHIPPED = "as shipped"
TAPS = (2, 4, 6)  # of six layers
CHANGES: dict[str, dict[str, Any]] = {
    "otv": {},  # one token, ramp, mean squared error: what the others are held against
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
LINEAR = ("probe", "probe + features", "probe + taps", "probe + both")
FITTED_ON = 80  # training problems of each kind of traces, `FITTED_TRACES` of each; a fifth of them choose the penalty
FITTED_TRACES = 8
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
PAIRS = 12  # of a right and a wrong trace, of each problem at each share
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
        base, positions = base_pass(backbone, inputs), torch.tensor(at)
        for name, verifier in verifiers.items():
            tables[name][rows] = torch.sigmoid(probe_pass(verifier, base, positions)).numpy()
    return {name: Scored(table, 0.0, 0.0, True) for name, table in tables.items()}


@contextmanager
def tapped(backbone: Backbone) -> Iterator[list[torch.Tensor]]:
    """What the layers `TAPS` give within, [B, N, H] each, in order."""
    given: list[torch.Tensor] = []
    layers = [backbone.model.model.layers[number - 1] for number in TAPS]
    handles = [layer.register_forward_hook(lambda module, inputs, output: given.append(output)) for layer in layers]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Shown:
    """What a linear head is shown of traces at `SHARES`: values [traces, shares, inputs], problems and outcomes [traces]."""

    values: np.ndarray
    problems: np.ndarray
    correct: np.ndarray

    @classmethod
    @torch.inference_mode()
    def of(cls, verifier: OneTokenVerifier, stored: Sequence[Stored]) -> Shown:
        """Inputs are the probe's log-odds, the features, and the tapped states with their scale taken out."""
        values = np.zeros((len(stored), len(SHARES), 1 + len(FREE) + len(TAPS) * verifier.backbone.hidden_size))
        order = sorted(range(len(stored)), key=lambda i: len(stored[i][1]) + stored[i][0].tokens)
        for first in range(0, len(order), ROWS):
            rows = order[first : first + ROWS]
            traces = [(prompt, trace.steps) for trace, prompt in (stored[i] for i in rows) if trace.steps is not None]
            counts = [[tokens_at(len(steps), share) for share in SHARES] for _, steps in traces]
            inputs, _ = pad_inputs(verifier.backbone, traces)
            with tapped(verifier.backbone) as layers:
                base = base_pass(verifier.backbone, inputs)
            at = torch.tensor([[len(p) - 1 + n for n in own] for (p, _), own in zip(traces, counts, strict=True)])
            chosen = at[..., None].expand(-1, -1, verifier.backbone.hidden_size)
            states = torch.cat([rms_norm(layer.gather(1, chosen), chosen.shape[-1:]) for layer in layers], -1)
            features = [
                [[feature(s, n) for feature in FREE.values()] for n in own]
                for (_, s), own in zip(traces, counts, strict=True)
            ]
            parts = (probe_pass(verifier, base, at)[..., None].numpy(), np.array(features), states.numpy())
            values[rows] = np.concatenate(parts, -1)
        problems = np.array([t.problem.key % 2**62 for t, _ in stored])
        return cls(values, problems, np.array([bool(t.correct) for t, _ in stored]))

    def only(self, chosen: np.ndarray) -> Shown:
        return Shown(self.values[chosen], self.problems[chosen], self.correct[chosen])

    def columns(self, name: str) -> np.ndarray:
        known = np.arange(self.values.shape[-1])
        features, taps = (known > 0) & (known <= len(FREE)), known > len(FREE)
        return (
            (known == 0)
            | (features & (name.endswith(("features", "both"))))
            | (taps & (name.endswith(("taps", "both"))))
        )


def weights_of(shown: Shown, columns: np.ndarray, penalty: float) -> np.ndarray:
    """Weights [inputs] that rank right above wrong traces of a problem at one share, 0 for other columns."""
    rng, scale = np.random.default_rng(0), shown.values.std((0, 1)) + 1e-9
    differences = []
    for problem in np.unique(shown.problems):
        right, wrong = (np.flatnonzero((shown.problems == problem) & (shown.correct == side)) for side in (True, False))
        if len(right) and len(wrong):
            a, b = rng.choice(right, PAIRS), rng.choice(wrong, PAIRS)
            differences.append((shown.values[a] - shown.values[b]).reshape(-1, len(scale))[:, columns])
    pairs = np.concatenate(differences) / scale[columns]
    side = np.where(np.arange(len(pairs)) % 2, 1, -1)
    found = LogisticRegression(C=penalty, fit_intercept=False, max_iter=500).fit(pairs * side[:, None], side)
    weights = np.zeros(len(scale))
    weights[columns] = found.coef_[0] / scale[columns]
    return weights


def linear(shown: Shown) -> dict[str, np.ndarray]:
    """The best weights for each of `LINEAR`; the penalty is the one that ranks best on problems that did not fit them."""
    held, found = shown.problems % 5 == 0, {}
    for name in LINEAR:
        columns, judges = shown.columns(name), shown.only(held)
        ranks: dict[float, float] = {}
        for penalty in PENALTIES:
            scores = judges.values @ weights_of(shown.only(~held), columns, penalty)
            ranks[penalty] = float(np.mean([within_auroc(judges.problems.tolist(), judges.correct.tolist(), scores[:, i].tolist())
                                            for i in range(len(SHARES))]))  # fmt: skip
        best = max(ranks, key=lambda p: ranks[p])
        print(f"{name}: penalty {best}, {ranks}", flush=True)
        found[name] = weights_of(shown, columns, best)
    return found


def fitted(backbone: Backbone, runs: Path) -> tuple[OneTokenVerifier, dict[str, np.ndarray]]:
    verifier, stored = OneTokenVerifier.load(reference_path() / "verifier", backbone), []
    for mode in MODES:
        own = both_sides(list(read_traces(runs / "rollouts" / mode, origin(None, backbone))), FITTED_TRACES)
        few = set(list(dict.fromkeys(t.problem.key for t, _ in own))[:FITTED_ON])
        stored += [(t, p) for t, p in own if t.problem.key in few]
    print(f"linear heads: {len(stored)} training traces", flush=True)
    return verifier, linear(Shown.of(verifier, stored))


def judged(
    backbone: Backbone,
    runs: Path,
    mode: str,
    names: Sequence[str],
    samples: int,
    heads: tuple[OneTokenVerifier, dict[str, np.ndarray]],
) -> dict[str, Any]:
    """The figures of all scorers on one kind of validation traces."""
    stored = both_sides(list(read_traces(runs / "validation" / mode, origin(None, backbone))), samples)
    folders = {name: runs / name for name in names} | {SHIPPED: reference_path() / "verifier"}
    verifiers = {name: OneTokenVerifier.load(folder, backbone) for name, folder in folders.items()}
    scores = scored(backbone, verifiers, stored)
    values = Shown.of(heads[0], stored).values
    for name, weights in heads[1].items():
        scores[name] = Scored(1 / (1 + np.exp(-(values @ weights))), 0.0, 0.0, False)
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
    heads = fitted(backbone, options.runs)
    modes = {mode: judged(backbone, options.runs, mode, names, options.samples, heads) for mode in MODES}
    changed = {name: {k: list(v) if isinstance(v, tuple) else v for k, v in CHANGES[name].items()} for name in names}
    config = {"epochs": options.epochs, "samples": options.samples, "left_out": [n for n in CHANGES if n not in names]}
    write_json(options.out, {"machine": machine(), "config": config, "changed": changed, "modes": modes}, indent=1)


if __name__ == "__main__":
    main()
