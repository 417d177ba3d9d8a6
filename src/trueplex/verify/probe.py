"""Score with one token: live traces while they decode, stored traces at every position at once.

The stored pass is two passes (its source is the training scheme of arXiv 2603.01025): the base
model reads the trace once, without LoRA, and then all probes, each at a position of its own, read
its keys and values as one batch of queries that cannot see each other. Position t's probe stands
at t + 1 and sees positions ≤ t, exactly as live. Recurrent layers keep one state and no earlier ones, so there the base
goes from probed position to probed position, and each probe reads a copy of the state at its own (`verify.base`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.fitting import Fitting
from trueplex.engine.look import Look
from trueplex.engine.prefill import inputs_of
from trueplex.engine.probing import ProbeColumn
from trueplex.models.backbone import Backbone
from trueplex.types import Steps
from trueplex.verify.base import Base, base_pass
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.stored import Stored, tokens_at

ROWS = 64  # traces read together at first


class OneTokenScorer:
    """The Scorer whose scores are what its probe reads in the decode forward; stored traces are read in one pass."""

    bounded = True

    def __init__(self, verifier: OneTokenVerifier, every: int = 32) -> None:
        self.verifier, self.every = verifier, every

    @property
    def fingerprint(self) -> str | None:
        return self.verifier.fingerprint

    @property
    def probe(self) -> ProbeColumn:
        return self.verifier

    def __call__(self, look: Look) -> Sequence[float] | None:
        return None if look.readings is None else look.readings.tolist()

    def score_at(self, stored: Sequence[Stored], at: Sequence[Sequence[int]]) -> list[list[float]]:
        """Scores of each trace after each of the rising numbers of tokens given for it."""
        return score_at(self.verifier, [(prompt, t.steps) for t, prompt in stored if t.steps is not None], at)

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares] when the given shares of each trace were written."""
        traces = [(prompt, t.steps) for t, prompt in stored if t.steps is not None]
        return score_shares(self.verifier, traces, shares)

    def cost(self, look: Look) -> int:
        """Nothing is read besides the probe column."""
        return 0


def probe_pass(verifier: OneTokenVerifier, base: Base, positions: Tensor) -> Tensor:
    """Score logits [B, P] of probes that read positions ≤ t, for t = positions [B, P]; differentiable.

    Rows may be padded: a probe never sees a column after its own t. Of several tokens a probe's stand at t + 1, t + 2 …,
    and the later ones see the earlier ones.
    """
    tokens, read = verifier.shape.tokens, base.at(positions)
    embeddings = verifier.embeddings.to(verifier.backbone.dtype)
    places = positions[..., None] + torch.arange(1, tokens + 1, device=positions.device)
    # What stands behind states of its own is a row of its own; else the probes of a trace are the columns of one row.
    places = places.flatten(0, 1) if read.states else places.flatten(1)
    queries = embeddings.repeat(places.shape[1] // tokens, 1).expand(len(places), -1, -1)
    with verifier.backbone.lock, verifier.probing(places.shape[1]):
        _, hidden = verifier.backbone.forward(
            queries, places, None, read.columns, probe_pass=replace(read, tokens=tokens)
        )
    return verifier.logits(hidden.reshape(*positions.shape, tokens, -1))


def pad_inputs(backbone: Backbone, traces: Sequence[tuple[Sequence[int], Steps]]) -> tuple[Tensor, np.ndarray]:
    """Inputs [B, N, H] of traces given as (prompt ids, steps), padded behind, and their lengths [B]."""
    inputs = [inputs_of(backbone, prompt, steps) for prompt, steps in traces]
    return torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True), np.array([len(i) for i in inputs])


def columns_at(looks: Sequence[tuple[int, Sequence[int]]]) -> np.ndarray:
    """The columns [B, P] of the last of so many tokens behind a prompt, given its length; rows with fewer repeat their last."""
    most = max(len(at) for _, at in looks)
    return np.array([[length - 1 + n for n in (*at, *[at[-1]] * (most - len(at)))] for length, at in looks])


@torch.inference_mode()
def score_stored(
    verifier: OneTokenVerifier, traces: Sequence[tuple[Sequence[int], Steps]], chunk: int = 64
) -> list[np.ndarray]:
    """Scores [T] after each token of stored traces, given as (prompt ids, steps): what live probing reads.

    ``chunk`` bounds how many positions are probed at once, and with it the memory: they are neighbours, read in order.
    """
    inputs, lengths = pad_inputs(verifier.backbone, traces)
    base = base_pass(verifier.backbone, inputs)
    parts = []
    for first in range(0, inputs.shape[1], chunk):
        positions = torch.arange(first, min(first + chunk, inputs.shape[1]), device=inputs.device)
        parts.append(torch.sigmoid(probe_pass(verifier, base, positions.expand(len(traces), -1))))
    scores = torch.cat(parts, dim=1).cpu().numpy()
    return [
        scores[row, len(prompt) : length] for row, ((prompt, _), length) in enumerate(zip(traces, lengths, strict=True))
    ]


def score_shares(
    verifier: OneTokenVerifier, traces: Sequence[tuple[Sequence[int], Steps]], shares: Sequence[float],
    most: int = ROWS, done: Callable[[int], object] = lambda count: None,
) -> np.ndarray:  # fmt: skip
    """Scores [traces, shares] float32 when the given shares of each trace, given as (prompt ids, steps), were written.

    At ``most`` so many traces are read together; ``done`` is told how many after each reading.

    Raises:
        ModelError: a single trace does not fit into memory.
    """
    at = [[tokens_at(len(steps), share) for share in shares] for _, steps in traces]
    return np.array(score_at(verifier, traces, at, most, done), dtype=np.float32).reshape(len(traces), len(shares))


@torch.inference_mode()
def score_at(
    verifier: OneTokenVerifier, traces: Sequence[tuple[Sequence[int], Steps]], at: Sequence[Sequence[int]],
    most: int = ROWS, done: Callable[[int], object] = lambda count: None,
) -> list[list[float]]:  # fmt: skip
    """Scores of traces, given as (prompt ids, steps), after each of the rising numbers of tokens that are given for each.

    At ``most`` so many traces are read together; ``done`` is told how many after each reading.

    Raises:
        ModelError: a single trace does not fit into memory.
    """

    def work(chosen: list[int]) -> list[list[float]]:
        inputs, _ = pad_inputs(verifier.backbone, [traces[i] for i in chosen])
        places = torch.from_numpy(columns_at([(len(traces[i][0]), at[i]) for i in chosen])).to(inputs.device)
        logits = probe_pass(verifier, base_pass(verifier.backbone, inputs), places)
        scores = torch.sigmoid(logits).tolist()
        done(len(chosen))
        return [row[: len(at[i])] for i, row in zip(chosen, scores, strict=True)]

    return Fitting(most, verifier.backbone.device.type)([len(prompt) + len(steps) for prompt, steps in traces], work)
