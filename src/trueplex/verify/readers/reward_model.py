"""What all reward models here are: a transformer, a head on its last hidden states, and a tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from trueplex.engine.fitting import Fitting
from trueplex.verify.readers import forms
from trueplex.verify.readers.branches import Grafted
from trueplex.verify.readers.reading import padded

log = logging.getLogger(__name__)

ROWS = 32  # texts read together at first


class RewardModel(nn.Module):
    """A transformer and a head that reads its last hidden states.

    ``head`` takes hidden states [n, H] and gives logits of the score [n].
    """

    def __init__(self, model: Any, head: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.head, self.tokenizer = model, head, tokenizer

    def forward(self, ids: Tensor, mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits [n] float32 at the given rows [n] and columns [n] of ids [B, N]."""
        hidden = self.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False).last_hidden_state
        return self.head(hidden[rows, columns]).float()

    def of_branches(self, grafted: Grafted) -> Tensor:
        """Logits [B, R] float32 at the end of every branch."""
        hidden = self.model.base_model(
            input_ids=grafted.ids, attention_mask=grafted.mask(self.model.dtype), position_ids=grafted.positions,
            use_cache=False,
        ).last_hidden_state[:, grafted.ends]  # fmt: skip
        return self.head(hidden.flatten(0, 1)).float().view(hidden.shape[:2])


class OneLogit(nn.Module):
    """A linear layer with one output, as numbers [n]."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: Tensor) -> Tensor:
        return _in_float32(self.linear, hidden).squeeze(-1)


class LogitDifference(nn.Module):
    """One output's logit less another's: the sigmoid of it is the softmax of the two."""

    def __init__(self, outputs: nn.Module, good: int, bad: int) -> None:
        super().__init__()
        self._outputs = (outputs,)  # a tuple: an output layer that is tied to the embeddings belongs to the model
        self.good, self.bad = good, bad

    def forward(self, hidden: Tensor) -> Tensor:
        (outputs,) = self._outputs
        if isinstance(outputs, nn.Linear):  # the whole vocabulary, of which two tokens are wanted
            good, bad = _in_float32(outputs, hidden, [self.good, self.bad]).unbind(-1)
            return good - bad
        logits = outputs(hidden).float()
        return logits[:, self.good] - logits[:, self.bad]


def _in_float32(layer: Any, hidden: Tensor, rows: Sequence[int] | None = None) -> Tensor:
    """A linear layer, or some of its output rows, in float32: bfloat16 scores would tie traces that differ."""
    kept = slice(None) if rows is None else rows
    bias = None if getattr(layer, "bias", None) is None else layer.bias[kept].float()
    with torch.autocast(hidden.device.type, enabled=False):
        return linear(hidden.float(), layer.weight[kept].float(), bias)


@torch.inference_mode()
def scores_at(model: RewardModel, shown: Sequence[forms.Shown], fitting: Fitting) -> list[list[float]]:
    """Scores in [0, 1] of each text at its columns."""
    warn_of_length(model, shown)

    def work(chosen: list[int]) -> list[list[float]]:
        ids, mask = padded([shown[i][0] for i in chosen], model.model.device)
        positions = [(row, column) for row, i in enumerate(chosen) for column in shown[i][1]]
        if not positions:
            return [[] for _ in chosen]
        rows, columns = torch.tensor(positions, device=ids.device).T
        found = iter(torch.sigmoid(model(ids, mask, rows, columns).double()).tolist())
        return [[next(found) for _ in shown[i][1]] for i in chosen]

    return fitting([len(ids) for ids, _ in shown], work)


def warn_of_length(model: RewardModel, shown: Sequence[forms.Shown]) -> None:
    """Warn when a text is longer than the model supports."""
    most = getattr(model.model.config, "max_position_embeddings", None)
    longest = max((len(ids) for ids, _ in shown), default=0)
    if most and longest > most:
        log.warning(f"{model.tokenizer.name_or_path} supports {most} tokens and reads texts of up to {longest}: scores beyond its limit "
            "are unreliable")  # fmt: skip
