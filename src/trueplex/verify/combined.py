"""Score by a small logistic combination of what is known of a trace for nothing, and of its probe.

A probe must find everything in the KV cache; how sure the model was of its tokens is known beside it. The combination
is fitted on validation problems (`trueplex.train.combined`) and stored as plain numbers, ``combined.json``: one set of
weights for each `Phase`, as a running trace is to be judged otherwise than one that has its answer. Every feature
depends on the trace alone, so that live and stored scores are the same, and votes stay votes: what other traces answer
is for the vote to count.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trueplex.engine.look import Look
from trueplex.engine.probing import ProbeColumn
from trueplex.errors import VerifierError, reason
from trueplex.files import read_json, write_json
from trueplex.types import Status, Steps, Trace
from trueplex.verify.probe import OneTokenScorer
from trueplex.verify.stored import Stored, tokens_at

FILE = "combined.json"
PROBE = "probe"
LEAST = 1e-6  # how near to 0 and 1 a probe's score may come before its log-odds are taken
RECENT = 16  # tokens

FREE: dict[str, Callable[[Steps, int], float]] = {
    "logprob": lambda steps, n: float(steps.logps[:n, 0].mean()),
    "least logprob": lambda steps, n: float(steps.logps[:n, 0].min()),
    "entropy": lambda steps, n: float(steps.entropy[:n].mean()),
    "recent entropy": lambda steps, n: float(steps.entropy[max(0, n - RECENT) : n].mean()),
    "highest entropy": lambda steps, n: float(steps.entropy[:n].max()),
    "confidence": lambda steps, n: float(steps.confidence[:n].mean()),
    "explored": lambda steps, n: float(1 - steps.consensus[:n].mean()),
    "length": lambda steps, n: math.log1p(n),
}
"""Features by name: functions of a trace's first n steps."""
FEATURES = (PROBE, *FREE)


class Phase(NamedTuple):
    """What decides which weights a trace is judged by: whether steps merge tokens, and whether thinking has closed."""

    merged: bool
    answered: bool

    @property
    def name(self) -> str:
        return f"{'merged' if self.merged else 'discrete'}, {'answered' if self.answered else 'thinking'}"

    def among(self, fitted: Container[str]) -> str:
        """Its name where that was fitted, else that of the same phase of traces of the other kind, discrete or merged."""
        return self.name if self.name in fitted else Phase(not self.merged, self.answered).name


def phase_of(trace: Trace, steps: Steps, tokens: int, whole: bool) -> Phase:
    """The phase of a trace behind its first tokens; ``whole`` when they are all that it will have."""
    return Phase(steps.ids.shape[1] > 1, whole or 0 < trace.thinking_tokens < tokens)


def free(steps: Steps, tokens: int) -> list[float]:
    """What is known for nothing of a trace's first tokens, in the order of `FREE`."""
    return [feature(steps, tokens) for feature in FREE.values()]


def features(steps: Steps, tokens: int, probe: float | None) -> list[float]:
    """The features of a trace's first tokens, in the order of `FEATURES`; a probe's score in [0, 1] by its log-odds."""
    score = min(max(0.5 if probe is None else probe, LEAST), 1 - LEAST)
    return [math.log(score / (1 - score)), *free(steps, tokens)]


@dataclass(frozen=True)
class Combination:
    """A logistic function of `FEATURES` for each phase.

    Attributes:
        verifier: fingerprint of the verifier whose probe is a feature; None where there is none.
        model: fingerprint of the model.
        weights: by the name of a phase, those of the features, by name; what is missing weighs nothing.
        biases: by the name of a phase.
        fitted: by the name of a phase, what was found when it was fitted.
    """

    model: str
    verifier: str | None
    weights: Mapping[str, Mapping[str, float]]
    biases: Mapping[str, float]
    fitted: Mapping[str, Mapping[str, float]]

    def __call__(self, values: Sequence[float], phase: Phase) -> float:
        """The score in [0, 1]; by the same phase of discrete traces, or of merged ones, where only those were fitted."""
        name = phase.among(self.weights)
        weights = self.weights[name]
        total = self.biases[name] + sum(weights.get(f, 0.0) * v for f, v in zip(FEATURES, values, strict=True))
        return 1 / (1 + math.exp(-total)) if total > -700 else 0.0

    @property
    def fingerprint(self) -> str:
        told = json.dumps([self.model, self.verifier, self.weights, self.biases], sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``combined.json`` into a folder."""
        write_json(folder / FILE, asdict(self), indent=1)

    @classmethod
    def load(cls, folder: Path) -> Combination:
        """Read ``combined.json``.

        Raises:
            VerifierError: there is none, or it cannot be read.
        """
        path = folder / FILE
        if not path.is_file():
            raise VerifierError(f"{folder} holds no {FILE}. Try: `trueplex train combined`, or --verifier auto")
        try:
            made = read_json(path, cls)
            for answered in (False, True):
                made([0.0] * len(FEATURES), Phase(True, answered))
            if unknown := {name for weights in made.weights.values() for name in weights} - set(FEATURES):
                raise ValueError(f"it weighs {', '.join(sorted(unknown))}")
            return made
        except (OSError, ValueError, KeyError) as error:
            raise VerifierError(
                f"{path} cannot be read ({reason(error)}). Try: run `trueplex train combined` again"
            ) from error


class CombinedScorer:
    """The Scorer whose scores are a combination's; its probe, where it has one, rides as that of a `OneTokenScorer`."""

    bounded = True

    def __init__(self, combination: Combination, probe: OneTokenScorer | None, every: int = 32) -> None:
        self.combination, self.own, self.every = combination, probe, every

    @property
    def fingerprint(self) -> str | None:
        return self.combination.fingerprint

    @property
    def probe(self) -> ProbeColumn | None:
        return self.own.probe if self.own else None

    def __call__(self, look: Look) -> Sequence[float] | None:
        probed = self.own(look) if self.own else [None] * len(look.traces)
        if probed is None:
            return None
        return [
            self.combination(
                features(steps, len(steps), score),
                phase_of(trace, steps, len(steps), trace.status is not Status.RUNNING),
            )
            for trace, steps, score in zip(look.traces, look.steps(), probed, strict=True)
        ]

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares] when the given shares of each trace were written."""
        kept = [(t, p) for t, p in stored if t.steps is not None]
        read = self.own.score_shares(kept, shares) if self.own else None
        rows = []
        for row, (trace, _) in enumerate(kept):
            steps = trace.steps
            assert steps is not None
            at = [tokens_at(len(steps), share) for share in shares]
            rows.append([
                self.combination(features(steps, n, None if read is None else float(read[row, i])),
                                 phase_of(trace, steps, n, n == len(steps)))
                for i, n in enumerate(at)
            ])  # fmt: skip
        return np.array(rows, dtype=np.float64).reshape(len(kept), len(shares))

    def cost(self, look: Look) -> int:
        """Nothing is read besides the probe's columns."""
        return 0
