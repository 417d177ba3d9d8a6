"""Score by a linear reading of the base model's KV cache: logistic regression on values pooled over a trace.

No network is trained, and nothing is read besides what decoding has stored: of the attention layers in the middle third of
the model, the values of a trace's tokens, as their mean and the means of the last few (`engine.pooling`), beside
what is known of its steps for nothing (`verify.combined.FREE`). A linear probe in the field's words (Alain & Bengio, arXiv
1610.01644). `trueplex.train.linear` fits it; ``linear.safetensors`` holds its weights, one vector for each `Phase`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trueplex.engine.fitting import Fitting
from trueplex.engine.look import Look
from trueplex.engine.pooling import WINDOWS, pooled
from trueplex.engine.probing import ProbeColumn
from trueplex.errors import ModelError, VerifierError, reason
from trueplex.files import read_json, write_json, write_with
from trueplex.models.backbone import Backbone
from trueplex.models.fingerprint import fingerprint_of
from trueplex.types import Status, Steps, Trace
from trueplex.verify.base import base_pass
from trueplex.verify.combined import FREE, Phase, free, phase_of
from trueplex.verify.folder import not_finite
from trueplex.verify.probe import ROWS, columns_at, pad_inputs
from trueplex.verify.stored import Stored, length, tokens_at

FILE, WEIGHTS = "linear.json", "linear.safetensors"
PLAIN = "full_attention"


def layers_read(backbone: Backbone) -> tuple[int, ...]:
    """The numbers of the layers whose values are read: those of full attention in the middle third, or all where none is there.

    Raises:
        ModelError: no layer keeps keys and values of all tokens as attention reads them.
    """
    kinds = backbone.kinds
    latent = any(hasattr(module, "expand_kv") for module in backbone.model.modules())
    plain = [n for n, kind in enumerate(kinds.layers) if kind == PLAIN and n not in kinds.owners and not latent]
    if not plain:
        raise ModelError(
            f"{backbone.name} has no layer whose values can be read as they are stored. Try: `trueplex train verifier`"
        )
    count = len(kinds.layers)
    return tuple(n for n in plain if count <= 3 * n < 2 * count) or tuple(plain)


@torch.inference_mode()
def read_pooled(
    backbone: Backbone, layers: Sequence[int], stored: Sequence[Stored], at: Sequence[Sequence[int]], most: int = ROWS,
    done: Callable[[int, int], object] = lambda count, tokens: None,
) -> list[np.ndarray]:  # fmt: skip
    """What `Look.pooled` gives of each stored trace after each of the numbers of tokens given for it: [looks, F] float32 each.

    At ``most`` so many traces are read together; ``done`` is told how many after each reading, and their tokens.

    Raises:
        ModelError: a single trace does not fit into memory.
    """

    def work(chosen: list[int]) -> list[np.ndarray]:
        inputs, lengths = pad_inputs(backbone, [(stored[i][1], _steps(stored[i][0])) for i in chosen])
        ends = torch.from_numpy(lengths - 1).to(inputs.device)[:, None]
        values = base_pass(backbone, inputs, max(layers)).at(ends).layers
        begin = np.array([len(stored[i][1]) for i in chosen])
        last = columns_at([(len(stored[i][1]), at[i]) for i in chosen])
        found = pooled([values[n][1] for n in layers], begin[:, None], last)
        done(len(chosen), sum(stored[i][0].tokens for i in chosen))
        return [row[: len(at[i])] for i, row in zip(chosen, found.cpu().numpy(), strict=True)]

    return Fitting(most, backbone.device.type)(list(map(length, stored)), work)


@dataclass(frozen=True)
class Card:
    """What ``linear.json`` says.

    Attributes:
        base, base_fingerprint: the model, and its weights.
        layers: the numbers of those that are read.
        windows: tokens of the means, in order.
        free: the features behind the pooled values, in order.
        biases: by the name of a phase.
        data, traces: what it was fitted on, and on how many traces.
        validation: how well it ranks problems that did not fit it.
        weights: fingerprint of the weights.
    """

    base: str
    base_fingerprint: str
    layers: tuple[int, ...]
    windows: tuple[int, ...]
    free: tuple[str, ...]
    biases: dict[str, float]
    data: str
    traces: int
    validation: dict[str, float]
    weights: str = ""


class LinearVerifier:
    """A logistic function of pooled values and free features for each phase; ``weights`` [F] float32 by the name of a phase."""

    def __init__(self, card: Card, weights: Mapping[str, Tensor]) -> None:
        self.card, self.weights = card, weights
        self._weights = {name: tensor.numpy().astype(np.float64) for name, tensor in weights.items()}

    @property
    def fingerprint(self) -> str:
        biases = torch.tensor([self.card.biases[name] for name in sorted(self.weights)], dtype=torch.float64)
        return fingerprint_of({**self.weights, "biases": biases})

    def __call__(self, values: np.ndarray, free: Sequence[float], phase: Phase) -> float:
        """The score in [0, 1] by pooled values [F]; by the same phase of discrete traces, or of merged ones, where only those were fitted."""
        name = phase.among(self.weights)
        total = self.card.biases[name] + float(self._weights[name] @ np.concatenate([values, free]))
        return float(1 / (1 + np.exp(-np.clip(total, -700, 700))))

    def save(self, folder: Path) -> None:
        """Write ``linear.safetensors`` and then ``linear.json`` into a folder."""
        tensors = {name: tensor.contiguous() for name, tensor in self.weights.items()}
        write_with(folder / WEIGHTS, lambda file: save_file(tensors, file, metadata={"format": "pt"}))
        write_json(folder / FILE, asdict(self.card) | {"weights": fingerprint_of(tensors)}, indent=1)

    @classmethod
    def load(cls, folder: Path, backbone: Backbone) -> LinearVerifier:
        """Read what `save` wrote.

        Raises:
            VerifierError: a file is missing, cannot be read or was changed, or it was fitted for another model.
        """
        made = cls.read(folder)
        if made.card.base_fingerprint != backbone.fingerprint or made.card.layers != layers_read(backbone):
            raise VerifierError(f"the linear verifier in {folder} was fitted for another model ({made.card.base}). Try: fit one with `trueplex "
                                "train linear`")  # fmt: skip
        return made

    @classmethod
    def read(cls, folder: Path) -> LinearVerifier:
        """Read it for whatever model. Raises VerifierError as `load`."""
        try:
            card, tensors = read_json(folder / FILE, Card), load_file(folder / WEIGHTS)
        except Exception as error:  # safetensors raises its own kinds
            raise VerifierError(
                f"the linear verifier in {folder} cannot be read ({reason(error)}). Try: copy or fit it again"
            ) from error
        phases = [Phase(merged, answered).name for merged in (False, True) for answered in (False, True)]
        kinds = [
            [n in tensors and n in card.biases for n in phases if n.endswith(end)] for end in ("thinking", "answered")
        ]
        if (
            card.weights != fingerprint_of(tensors)
            or not_finite(tensors)
            or (card.windows, card.free) != (WINDOWS, tuple(FREE))
            or not all(map(any, kinds))
        ):
            raise VerifierError(f"the linear verifier in {folder} is not whole, or not of this version. Try: copy or fit it again")  # fmt: skip
        return cls(card, tensors)


class LinearScorer:
    """The Scorer of a `LinearVerifier`: live from the cache as it lies, stored from one reading of the base model."""

    probe: ProbeColumn | None = None
    bounded = True

    def __init__(self, verifier: LinearVerifier, backbone: Backbone, every: int = 32) -> None:
        self.verifier, self.backbone, self.every = verifier, backbone, every
        self.fingerprint: str | None = verifier.fingerprint

    def __call__(self, look: Look) -> Sequence[float] | None:
        if not look.traces:
            return []
        values = look.pooled(self.verifier.card.layers).cpu().numpy()
        return [
            self._score(own, trace, steps, len(steps), trace.status is not Status.RUNNING)
            for own, trace, steps in zip(values, look.traces, look.steps(), strict=True)
        ]

    def score_at(self, stored: Sequence[Stored], at: Sequence[Sequence[int]]) -> list[list[float]]:
        """Scores of each trace after each of the numbers of tokens given for it."""
        read = read_pooled(self.backbone, self.verifier.card.layers, stored, at)
        return [
            [
                self._score(values, trace, _steps(trace), n, n == trace.tokens)
                for values, n in zip(own, places, strict=True)
            ]
            for own, (trace, _), places in zip(read, stored, at, strict=True)
        ]

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares] when the given shares of each trace were written."""
        kept = [(t, p) for t, p in stored if t.steps is not None]
        at = [[tokens_at(t.tokens, share) for share in shares] for t, _ in kept]
        return np.array(self.score_at(kept, at)).reshape(len(kept), len(shares))

    def _score(self, values: np.ndarray, trace: Trace, steps: Steps, tokens: int, whole: bool) -> float:
        return self.verifier(values, free(steps, tokens), phase_of(trace, steps, tokens, whole))

    def cost(self, look: Look) -> int:
        """Nothing is read that decoding has not stored."""
        return 0


def _steps(trace: Trace) -> Steps:
    assert trace.steps is not None, "what is read has steps"
    return trace.steps
