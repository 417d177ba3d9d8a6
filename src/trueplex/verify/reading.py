"""Scorers that read a trace's text again: what outcome, process and generative reward models share.

Live, the text so far is read again every `every` tokens, and every token read counts as a probe token:
that is the price that one-token verification does not pay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

from trueplex.engine.live import LiveBatch, Rider
from trueplex.errors import ModelError
from trueplex.types import Status
from trueplex.verify.stored import Stored, tokens_at

T = TypeVar("T")


@dataclass(frozen=True)
class Written:
    """A trace as a reader gets it: its problem, the ids that it has emitted [T], and whether it has ended."""

    problem: str
    ids: Sequence[int]
    ended: bool


class Reader(Protocol):
    """Something that scores texts."""

    def read(self, written: Sequence[Written], at: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[int]]:
        """Scores in [0, 1] of each trace after each of the given numbers of tokens, and how many tokens each cost."""


class TextScorer:
    """The Scorer of a reader, live and stored."""

    rider: Rider | None = None
    bounded = True

    def __init__(self, reader: Reader, every: int = 32) -> None:
        self.reader, self.every = reader, every

    def __call__(self, live: LiveBatch) -> Sequence[float] | None:
        traces = live.scorable
        written = [
            Written(trace.problem.text, steps.ids[:, 0].tolist(), trace.status is not Status.RUNNING)
            for trace, steps in zip(traces, live.so_far(), strict=True)
        ]
        scores, read = self.reader.read(written, [[len(w.ids)] for w in written])
        for trace, tokens in zip(traces, read, strict=True):
            trace.probe_tokens += tokens
        return [score for (score,) in scores]

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares] when the given shares of each trace were written."""
        written = [Written(t.problem.text, t.steps.ids[:, 0].tolist(), True) for t, _ in stored if t.steps is not None]
        scores, _ = self.reader.read(written, [[tokens_at(len(w.ids), s) for s in shares] for w in written])
        return np.array(scores, dtype=np.float64)

    def release(self) -> None:
        """Nothing of the traces' model was touched."""


class Fitting:
    """Work in batches of rows of like length; a batch that does not fit into memory is halved, and that is said."""

    def __init__(self, rows: int, say: Callable[[str], None]) -> None:
        self.rows, self.say = rows, say

    def __call__(self, lengths: Sequence[int], work: Callable[[list[int]], Sequence[T]]) -> list[T]:
        """`work` takes the numbers of some rows and gives their results; all results, in order.

        Raises:
            ModelError: a single row does not fit.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        found: dict[int, T] = {}
        while len(found) < len(order):
            chosen = order[len(found) : len(found) + self.rows]
            try:
                found.update(zip(chosen, work(chosen), strict=True))
            except torch.OutOfMemoryError as error:
                longest = max(lengths[i] for i in chosen)
                if len(chosen) == 1:
                    raise ModelError(
                        f"a text of {longest} tokens does not fit into memory; mend: a smaller model, or --device cpu"
                    ) from error
                self.rows = len(chosen) // 2
                self.say(
                    f"{len(chosen)} texts of {longest} tokens do not fit into memory: going on with {self.rows} at a time"
                )
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return [found[i] for i in range(len(order))]


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, N] of ragged rows, padded behind, and the mask [B, N] of what counts."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1])[None] < torch.tensor([len(row) for row in rows])[:, None]
    return ids.to(device), mask.to(device)
