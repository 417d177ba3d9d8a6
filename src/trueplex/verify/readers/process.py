"""Process reward models: a score for every step of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from trueplex.engine.fitting import Fitting
from trueplex.verify.readers import checkpoint, forms
from trueplex.verify.readers.reading import Written
from trueplex.verify.readers.reward_model import ROWS, LogitDifference, OneLogit, RewardModel, scores_at
from trueplex.verify.readers.transcript import SEPARATORS, Transcript

UNREAD = 0.5  # the score before the first step is finished

AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "mean": lambda scores: sum(scores) / len(scores),
    "product": math.prod,
}


class ProcessReader:
    """A process model: the scores of the finished steps, aggregated; one forward pass serves every prefix.

    The model is causal, so its score of a step does not change with what follows. An unfinished step is not scored;
    before the first finished one the score is 0.5.
    """

    def __init__(self, rewarding: RewardModel, transcript: Transcript, form: forms.Form, separator: str, aggregation: str) -> None:  # fmt: skip
        self.rewarding, self.transcript, self.form, self.separator = rewarding, transcript, form, separator
        self.aggregate = AGGREGATIONS[aggregation]
        self.fitting = Fitting(ROWS)

    def read(self, written: Sequence[Written], at: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[int]]:
        shown, ends = [], []
        for w, counts in zip(written, at, strict=True):
            most = max(counts)
            ends.append(self.transcript.step_ends(w.ids[:most], self.separator, w.ended and most == len(w.ids)))
            shown.append(self.show(w.problem, w.ids, ends[-1]))
        found = scores_at(self.rewarding, shown, self.fitting)
        scores = [
            [self._aggregated(steps, sum(end <= tokens for end in own)) for tokens in counts]
            for steps, own, counts in zip(found, ends, at, strict=True)
        ]
        return scores, [len(ids) for ids, _ in shown]

    def most(self, written: Written) -> int:
        ends = self.transcript.step_ends(written.ids, self.separator, written.ended)
        return len(self.show(written.problem, written.ids, ends)[0])

    def _aggregated(self, steps: Sequence[float], finished: int) -> float:
        return self.aggregate(steps[:finished]) if finished else UNREAD

    def show(self, problem: str, ids: Sequence[int], ends: Sequence[int]) -> forms.Shown:
        """What the model is shown of the steps that end there; nothing to score when there are none."""
        if not ends:
            return [0], []
        return self.form.show(self.rewarding.tokenizer, problem, self.transcript.steps(ids, ends))


def load_process(name: str, form: str, aggregation: str, transcript: Transcript, device: str | None) -> ProcessReader:  # fmt: skip
    """A process model by folder or hub id.

    Raises:
        ModelError: nothing is found there, or it cannot be read.
        VerifierError: it is not a model of this form: its tokenizer lacks the step token, or its weights lack the head.
    """
    own, card = forms.FORMS[form], checkpoint.card_of(name, "process", form)
    model, tokenizer = checkpoint.load(AutoModelForCausalLM if own.head == "tokens" else AutoModel, name, device)
    own.check(tokenizer)
    head = _head(own, name, model, tokenizer).to(model.device, model.dtype)
    separator = SEPARATORS[card["steps"]] if card else own.separator
    return ProcessReader(RewardModel(model, head, tokenizer), transcript, own, separator, aggregation)


def _head(form: forms.Form, name: str, model: Any, tokenizer: Any) -> nn.Module:
    if form.head == "tokens":
        good, bad = (forms.single(tokenizer, token) for token in (forms.GOOD, forms.BAD))
        return LogitDifference(model.get_output_embeddings(), good, bad)
    size = model.config.hidden_size
    if form.head == "value":
        layer = nn.Linear(size, 1)
        checkpoint.read_weights(name, "v_head.summary.", layer)
        return OneLogit(layer)
    layers = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
    checkpoint.read_weights(name, "score.", layers)
    return LogitDifference(layers, 1, 0)
