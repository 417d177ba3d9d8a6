"""Scorers that reread a trace's text: what outcome, process and generative reward models share.

Live, the text so far is reread every `every` tokens, and every token read counts as a probe token:
that is the cost that one-token verification avoids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.fitting import Fitting
from trueplex.engine.look import Look
from trueplex.engine.probing import ProbeColumn
from trueplex.errors import ModelError
from trueplex.types import Status
from trueplex.verify.readers import branches
from trueplex.verify.stored import Stored, tokens_at

log = logging.getLogger(__name__)

Shown = TypeVar("Shown", bound=tuple[Any, ...])


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

    def most(self, written: Written) -> int:
        """How many tokens a reading of a whole trace takes, at most."""


class TextScorer:
    """The Scorer of a reader, live and stored."""

    probe: ProbeColumn | None = None
    fingerprint: str | None = None
    bounded = True

    def __init__(self, reader: Reader, every: int = 32) -> None:
        self.reader, self.every = reader, every

    def __call__(self, look: Look) -> Sequence[float] | None:
        written = self._written(look)
        scores, read = self.reader.read(written, [[len(w.ids)] for w in written])
        for trace, tokens in zip(look.traces, read, strict=True):
            trace.probe_tokens += tokens
        return [score for (score,) in scores]

    def cost(self, look: Look) -> int:
        """All texts, as they would be shown."""
        return sum(map(self.reader.most, self._written(look)))

    def _written(self, look: Look) -> list[Written]:
        return [
            Written(trace.problem.text, steps.ids[:, 0].tolist(), trace.status is not Status.RUNNING)
            for trace, steps in zip(look.traces, look.steps(), strict=True)
        ]

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares] when the given shares of each trace were written."""
        written = [Written(t.problem.text, t.steps.ids[:, 0].tolist(), True) for t, _ in stored if t.steps is not None]
        scores, _ = self.reader.read(written, [[tokens_at(len(w.ids), s) for s in shares] for w in written])
        return np.array(scores, dtype=np.float64)


class Grouped(Generic[Shown]):
    """Values of texts in groups with a common prefix: read as branches where the model can, else one by one.

    A text is what a model is shown, its ids first. ``alone`` gives values [n] of n texts, ``grafted`` values [B, R] of
    B groups; ``sample`` makes a text of ids, to compare the two.
    """

    def __init__(
        self, config: Any, fitting: Fitting, sample: Callable[[branches.Row], Shown],
        alone: Callable[[Sequence[Shown]], Tensor], grafted: Callable[[Sequence[Sequence[Shown]], branches.Grafted], Tensor],
        device: torch.device,
    ) -> None:  # fmt: skip
        self.fitting, self.alone, self.device = fitting, alone, device
        self.grafted = lambda groups: grafted(
            groups, branches.graft([[t[0] for t in group] for group in groups], device)
        )
        with torch.inference_mode():
            self.branches = branches.can_branch(
                config, lambda texts: alone([sample(t) for t in texts]),
                lambda groups: self.grafted([[sample(t) for t in group] for group in groups]),
            )  # fmt: skip

    @torch.inference_mode()
    def __call__(self, groups: Sequence[Sequence[Shown]]) -> list[list[float]]:
        """A value for each text of each group."""
        if self.branches and any(len(group) > 1 for group in groups):
            try:
                values = self.fitting(
                    [branches.width([t[0] for t in group]) for group in groups],
                    lambda chosen: self.grafted([groups[i] for i in chosen]).tolist(),
                )
                return [own[: len(group)] for own, group in zip(values, groups, strict=True)]
            except ModelError:  # a single group does not fit; its texts may, one by one
                self.branches = False
                log.warning(
                    "a group of texts does not fit into memory at once: texts are read one by one from here on, which is slower"
                )
        texts = [text for group in groups for text in group]
        found = iter(
            self.fitting([len(t[0]) for t in texts], lambda chosen: self.alone([texts[i] for i in chosen]).tolist())
        )
        return [[next(found) for _ in group] for group in groups]

    def cost(self, group: Sequence[Shown]) -> int:
        """Tokens that are read for a group."""
        ids = [t[0] for t in group]
        return branches.tokens(ids) if self.branches and len(ids) > 1 else sum(map(len, ids))


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, N] of ragged rows, padded behind, and the mask [B, N] of what counts."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.arange(ids.shape[1])[None] < torch.tensor([len(row) for row in rows])[:, None]
    return ids.to(device), mask.to(device)
