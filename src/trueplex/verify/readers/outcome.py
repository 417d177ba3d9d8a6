"""Outcome reward models: one logit at the end of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from trueplex.engine.fitting import Fitting
from trueplex.verify.readers import checkpoint, forms
from trueplex.verify.readers.branches import Grafted
from trueplex.verify.readers.reading import Grouped, Written, padded
from trueplex.verify.readers.reward_model import ROWS, OneLogit, RewardModel, warn_of_length
from trueplex.verify.readers.transcript import Transcript


class OutcomeReader:
    """An outcome model: the sigmoid of its one logit at the end of the text so far, read as a whole solution."""

    def __init__(self, rewarding: RewardModel, transcript: Transcript, system: str | None) -> None:
        self.rewarding, self.transcript, self.system = rewarding, transcript, system
        self.grouped = Grouped(rewarding.model.config, Fitting(ROWS), lambda ids: (list(ids), [len(ids) - 1]), self._alone,
                                self._grafted, rewarding.model.device)  # fmt: skip

    def read(self, written: Sequence[Written], at: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[int]]:
        shown = [
            [self.show(w.problem, w.ids[:tokens]) for tokens in counts] for w, counts in zip(written, at, strict=True)
        ]
        warn_of_length(self.rewarding, [text for own in shown for text in own])
        return self.grouped(shown), [self.grouped.cost(own) for own in shown]

    def most(self, written: Written) -> int:
        return len(self.show(written.problem, written.ids)[0])

    def _alone(self, shown: Sequence[forms.Shown]) -> Tensor:
        ids, mask = padded([ids for ids, _ in shown], self.rewarding.model.device)
        rows = torch.arange(len(shown), device=ids.device)
        return torch.sigmoid(self.rewarding(ids, mask, rows, mask.sum(1) - 1).double())

    def _grafted(self, groups: Sequence[Sequence[forms.Shown]], grafted: Grafted) -> Tensor:
        return torch.sigmoid(self.rewarding.of_branches(grafted).double())

    def show(self, problem: str, ids: Sequence[int]) -> forms.Shown:
        """What the model is shown of a solution."""
        solution = forms.solution_for(self.rewarding.tokenizer, lambda tags: self.transcript.text(ids, tags))
        shown = forms.outcome(self.rewarding.tokenizer, problem, solution, self.system)
        return shown, [len(shown) - 1]


def load_outcome(name: str, form: str, transcript: Transcript, device: str | None) -> OutcomeReader:
    """An outcome model by folder or hub id.

    Raises:
        ModelError: nothing is found there, or it cannot be read.
        VerifierError: it has no head with one logit, or no chat template.
    """
    checkpoint.card_of(name, "outcome")
    model, tokenizer = checkpoint.load(AutoModelForSequenceClassification, name, device, num_labels=1)
    reader = OutcomeReader(RewardModel(model, OneLogit(model.score), tokenizer), transcript, forms.SYSTEMS[form])
    forms.outcome(tokenizer, "1+1?", "2", reader.system)
    return reader
