"""Texts with a common prefix, read in one pass: the prefix once (the trunk), then the rest of each as a branch.

What a reward model is shown of a growing trace at ten of its lengths is ten texts that differ in their last tokens. A
branch has the positions of its own text, and attends to itself and to the trunk up to where it leaves it: the model
gives what it would have given for each text alone, which is the plain twin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trueplex.errors import ModelError
from trueplex.models.backbone import kinds_of

Row = Sequence[int]  # the ids of a text
LONG = [1 + 7 * i % 5 for i in range(40)]
SAMPLE = [[LONG, [*LONG[:25], 2, 2, 4], [*LONG[:3], 5]], [LONG[7:12]]]
CLOSE = 5e-2  # of log-odds, in half precision


@dataclass(frozen=True)
class Grafted:
    """Groups of texts as one batch. Every text ends at one of ``ends`` [R], the same columns in all rows.

    ids and positions [B, N] int64, seen [B, 1, N, N] bool. A group of fewer than R texts is filled up.
    """

    ids: Tensor
    positions: Tensor
    seen: Tensor
    ends: Tensor

    def mask(self, dtype: torch.dtype) -> Tensor:
        """What the model takes as attention_mask, additive."""
        blank = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
        return blank.masked_fill_(~self.seen, torch.finfo(dtype).min)


def _cuts(texts: Sequence[Row]) -> tuple[Row, list[int]]:
    """The longest text, and after how many ids each text leaves it, its last id at the latest."""
    trunk = max(texts, key=len)
    whole = np.asarray(trunk)
    cuts = []
    for text in texts:
        differs = np.flatnonzero(np.asarray(text) != whole[: len(text)])
        cuts.append(min(int(differs[0]) if len(differs) else len(text), len(text) - 1))
    return trunk, cuts


def width(texts: Sequence[Row]) -> int:
    """How many columns a group takes by itself."""
    _, cuts = _cuts(texts)
    return max(cuts) + len(texts) * max(len(text) - cut for text, cut in zip(texts, cuts, strict=True))


def tokens(texts: Sequence[Row]) -> int:
    """How many tokens of a group are read: the trunk, and the end of every text."""
    _, cuts = _cuts(texts)
    return max(cuts) + sum(len(text) - cut for text, cut in zip(texts, cuts, strict=True))


def graft(groups: Sequence[Sequence[Row]], device: torch.device) -> Grafted:
    """One row per group: its trunk, and R branches of one width, padded in front so that they end at the same columns."""
    cut = [_cuts(texts) for texts in groups]
    trunk = max(max(cuts) for _, cuts in cut)
    count = max(map(len, groups))
    branch = max(
        len(t) - c for texts, (_, cuts) in zip(groups, cut, strict=True) for t, c in zip(texts, cuts, strict=True)
    )
    ids = torch.zeros(len(groups), trunk + count * branch, dtype=torch.long)
    positions = torch.zeros_like(ids)
    positions[:, :trunk] = torch.arange(trunk)
    lengths, leaves = (
        torch.ones(len(groups), count, dtype=torch.long),
        torch.zeros(len(groups), count, dtype=torch.long),
    )
    for row, (texts, (whole, cuts)) in enumerate(zip(groups, cut, strict=True)):
        own = min(trunk, len(whole))
        ids[row, :own] = torch.tensor(whole[:own])
        for number, (text, at) in enumerate(zip(texts, cuts, strict=True)):
            end, length = trunk + (number + 1) * branch, len(text) - at
            ids[row, end - length : end] = torch.tensor(text[at:])
            positions[row, end - length : end] = torch.arange(at, len(text))
            lengths[row, number], leaves[row, number] = length, at
    return Grafted(*(t.to(device) for t in (ids, positions, _seen(trunk, branch, lengths, leaves),
                                            trunk + branch * torch.arange(1, count + 1) - 1)))  # fmt: skip


def _seen(trunk: int, branch: int, lengths: Tensor, leaves: Tensor) -> Tensor:
    """[B, 1, N, N]: what each column attends to; padding attends to itself, so that no softmax is empty."""
    rows, count = lengths.shape
    size = trunk + count * branch
    seen = torch.zeros(rows, size, size, dtype=torch.bool)
    seen[:, :trunk, :trunk] = torch.ones(trunk, trunk, dtype=torch.bool).tril()
    column = torch.arange(branch)
    causal, itself = torch.ones(branch, branch, dtype=torch.bool).tril(), torch.eye(branch, dtype=torch.bool)
    for number in range(count):
        own = slice(trunk + number * branch, trunk + (number + 1) * branch)
        seen[:, own, :trunk] = (torch.arange(trunk) < leaves[:, number, None])[:, None]
        seen[:, own, own] = causal & (column >= branch - lengths[:, number, None])[:, None] | itself
    return seen[:, None]


def can_branch(
    config: Any, alone: Callable[[Sequence[Row]], Tensor], grafted: Callable[[Sequence[Sequence[Row]]], Tensor]
) -> bool:
    """Whether a model reads branches as it reads texts: its attention is full, and both agree on a small sample.

    ``alone`` gives a probability [n] for each text, ``grafted`` probabilities [B, R] for groups.
    """
    try:
        if set(kinds_of(config.get_text_config(decoder=True)).layers) != {"full_attention"}:
            return False
        found = grafted(SAMPLE)
    except (ModelError, TypeError, ValueError):  # other layers, or a model that takes no positions or no such mask
        return False
    values = torch.cat([found[row, : len(texts)] for row, texts in enumerate(SAMPLE)])
    expected = alone([text for texts in SAMPLE for text in texts])
    values, expected = (torch.logit(v.double().cpu(), 1e-9) for v in (values, expected))
    return bool(((values - expected).abs() <= CLOSE * (1 + expected.abs())).all())
