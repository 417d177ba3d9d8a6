"""Outcome and process reward models: plain Hugging Face checkpoints that read a text and score it.

They are loaded without remote code: where a published model brings code of its own, only its weights are
read, and the head is made here (see `forms` for what each is shown). A folder that `trueplex train reward`
wrote has a card, ``reward.json``, that says how its texts were parted into steps.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import cached_file

from trueplex.engine.fitting import Fitting
from trueplex.errors import ModelError, OptionError, VerifierError, reason
from trueplex.models.load import cached_only, default_device, default_dtype, locate, missing_weights, unreported
from trueplex.verify.readers import forms
from trueplex.verify.readers.branches import Grafted
from trueplex.verify.readers.reading import Grouped, Written, padded
from trueplex.verify.readers.transcript import SEPARATORS, Words

log = logging.getLogger(__name__)

CARD = "reward.json"
ROWS = 32  # texts read together at first
NAMES = {"outcome": "orm:{}", "process": "prm:math-shepherd:{}", "generative": "genrm:{}"}  # of models trained here
UNREAD = 0.5  # the score before the first step is whole

AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "mean": lambda scores: sum(scores) / len(scores),
    "product": math.prod,
}


class Rewarding(nn.Module):
    """A transformer, and a head that reads its last hidden states: what all reward models here are.

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


class One(nn.Module):
    """A linear layer with one output, as numbers [n]."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: Tensor) -> Tensor:
        return _in_float32(self.linear, hidden).squeeze(-1)


class Against(nn.Module):
    """The logit of one output against another: a sigmoid of it is their softmax."""

    def __init__(self, outputs: nn.Module, good: int, bad: int) -> None:
        super().__init__()
        self._outputs = (outputs,)  # a tuple: an output layer that is tied to the embeddings belongs to the model
        self.good, self.bad = good, bad

    def forward(self, hidden: Tensor) -> Tensor:
        (outputs,) = self._outputs
        if isinstance(outputs, nn.Linear):  # the two words of a vocabulary
            good, bad = _in_float32(outputs, hidden, [self.good, self.bad]).unbind(-1)
            return good - bad
        logits = outputs(hidden).float()
        return logits[:, self.good] - logits[:, self.bad]


def _in_float32(layer: Any, hidden: Tensor, rows: Sequence[int] | None = None) -> Tensor:
    """What a linear layer gives, or so many rows of it, in float32: a score of 8 bits would tie traces that differ."""
    kept = slice(None) if rows is None else rows
    bias = None if getattr(layer, "bias", None) is None else layer.bias[kept].float()
    with torch.autocast(hidden.device.type, enabled=False):
        return linear(hidden.float(), layer.weight[kept].float(), bias)


@torch.inference_mode()
def scores_at(rewarding: Rewarding, shown: Sequence[forms.Shown], fitting: Fitting) -> list[list[float]]:
    """Scores in [0, 1] of each text at its columns."""
    warn_of_length(rewarding, shown)

    def work(chosen: list[int]) -> list[list[float]]:
        ids, mask = padded([shown[i][0] for i in chosen], rewarding.model.device)
        places = [(row, column) for row, i in enumerate(chosen) for column in shown[i][1]]
        if not places:
            return [[] for _ in chosen]
        rows, columns = torch.tensor(places, device=ids.device).T
        found = iter(torch.sigmoid(rewarding(ids, mask, rows, columns).double()).tolist())
        return [[next(found) for _ in shown[i][1]] for i in chosen]

    return fitting([len(ids) for ids, _ in shown], work)


def warn_of_length(rewarding: Rewarding, shown: Sequence[forms.Shown]) -> None:
    """Say it when a text is longer than the model was made for."""
    most = getattr(rewarding.model.config, "max_position_embeddings", None)
    longest = max((len(ids) for ids, _ in shown), default=0)
    if most and longest > most:
        log.warning(f"{rewarding.tokenizer.name_or_path} was made for {most} tokens and reads texts of up to {longest}: its scores of "
            "such long ones mean little")  # fmt: skip


class OutcomeReader:
    """An outcome model: the sigmoid of its one logit at the end of the text so far, as if that were the whole solution."""

    def __init__(self, rewarding: Rewarding, words: Words, system: str | None) -> None:
        self.rewarding, self.words, self.system = rewarding, words, system
        self._grouped = Grouped(rewarding.model.config, Fitting(ROWS), lambda ids: (list(ids), [len(ids) - 1]), self._alone,
                                self._grafted, rewarding.model.device)  # fmt: skip

    def read(self, written: Sequence[Written], at: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[int]]:
        shown = [
            [self.show(w.problem, w.ids[:tokens]) for tokens in counts] for w, counts in zip(written, at, strict=True)
        ]
        warn_of_length(self.rewarding, [text for own in shown for text in own])
        return self._grouped(shown), [self._grouped.cost(own) for own in shown]

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
        solution = forms.solution_for(self.rewarding.tokenizer, lambda tags: self.words.text(ids, tags))
        shown = forms.outcome(self.rewarding.tokenizer, problem, solution, self.system)
        return shown, [len(shown) - 1]


class ProcessReader:
    """A process model: the scores of the steps that are whole, aggregated; one reading serves every prefix.

    The model is causal, so what it says of a step does not change by what follows. A step that is not
    whole yet is not judged; before the first one the score is 0.5.
    """

    def __init__(self, rewarding: Rewarding, words: Words, form: forms.Form, parted: str, aggregation: str) -> None:  # fmt: skip
        self.rewarding, self.words, self.form, self.parted = rewarding, words, form, parted
        self.aggregate = AGGREGATIONS[aggregation]
        self.fitting = Fitting(ROWS)

    def read(self, written: Sequence[Written], at: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[int]]:
        shown, ends = [], []
        for w, counts in zip(written, at, strict=True):
            most = max(counts)
            ends.append(self.words.step_ends(w.ids[:most], self.parted, w.ended and most == len(w.ids)))
            shown.append(self.show(w.problem, w.ids, ends[-1]))
        found = scores_at(self.rewarding, shown, self.fitting)
        scores = [
            [self._so_far(steps, sum(end <= tokens for end in own)) for tokens in counts]
            for steps, own, counts in zip(found, ends, at, strict=True)
        ]
        return scores, [len(ids) for ids, _ in shown]

    def most(self, written: Written) -> int:
        ends = self.words.step_ends(written.ids, self.parted, written.ended)
        return len(self.show(written.problem, written.ids, ends)[0])

    def _so_far(self, steps: Sequence[float], whole: int) -> float:
        return self.aggregate(steps[:whole]) if whole else UNREAD

    def show(self, problem: str, ids: Sequence[int], ends: Sequence[int]) -> forms.Shown:
        """What the model is shown of the steps that end there; nothing when there are none."""
        if not ends:
            return [0], []
        return self.form.show(self.rewarding.tokenizer, problem, self.words.steps(ids, ends))


# -- loading --------------------------------------------------------------------------------------


def load_outcome(name: str, form: str, words: Words, device: str | None) -> OutcomeReader:
    """An outcome model by folder or hub id.

    Raises:
        ModelError: nothing is there, or it cannot be read.
        VerifierError: it has no head of one logit, or no chat template.
    """
    card_of(name, "outcome")
    model, tokenizer = _load(AutoModelForSequenceClassification, name, device, num_labels=1)
    reader = OutcomeReader(Rewarding(model, One(model.score), tokenizer), words, forms.SYSTEMS[form])
    forms.outcome(tokenizer, "1+1?", "2", reader.system)
    return reader


def load_process(name: str, form: str, aggregation: str, words: Words, device: str | None) -> ProcessReader:  # fmt: skip
    """A process model by folder or hub id.

    Raises:
        OptionError: there is no such form or aggregation.
        ModelError: nothing is there, or it cannot be read.
        VerifierError: it is no model of this form: the tokenizer has not its step token, or the weights not its head.
    """
    if form not in forms.FORMS:
        raise OptionError(f"unknown form of process model {form!r}. Try: one of {', '.join(forms.FORMS)}")
    if aggregation not in AGGREGATIONS:
        raise OptionError(f"unknown aggregation {aggregation!r}. Try: one of {', '.join(AGGREGATIONS)}")
    own, card = forms.FORMS[form], card_of(name, "process", form)
    model, tokenizer = _load(AutoModelForCausalLM if own.head == "words" else AutoModel, name, device)
    own.check(tokenizer)
    head = _head(own, name, model, tokenizer).to(model.device, model.dtype)
    parted = SEPARATORS[card["steps"]] if card else own.parted
    return ProcessReader(Rewarding(model, head, tokenizer), words, own, parted, aggregation)


def card_of(name: str, kind: str, form: str | None = None) -> dict[str, Any] | None:
    """The card of a reward model that was trained here; None for any other.

    Raises:
        VerifierError: it is of another kind or form.
    """
    path = Path(os.path.expanduser(name)) / CARD
    if not os.path.isfile(path):
        return None
    card = json.loads(path.read_text())
    if (card["kind"], card.get("form")) != (kind, form):
        raise VerifierError(f"{name} is another reward model. Try: {NAMES[card['kind']].format(name)}")
    return card


def _head(form: forms.Form, name: str, model: Any, tokenizer: Any) -> nn.Module:
    if form.head == "words":
        good, bad = (forms.single(tokenizer, word) for word in (form.good, form.bad))
        return Against(model.get_output_embeddings(), good, bad)
    size = model.config.hidden_size
    if form.head == "value":
        layer = nn.Linear(size, 1)
        _read_weights(name, "v_head.summary.", layer)
        return One(layer)
    layers = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))
    _read_weights(name, "score.", layers)
    return Against(layers, 1, 0)


def _load(kind: Any, name: str, device: str | None, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer, of safetensors alone and without remote code; a head that is not there is an error."""
    path, device = locate(name), device or default_device()
    local = cached_only(path)
    try:
        with unreported():
            model, report = kind.from_pretrained(
                path, dtype=default_dtype(device), use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, **local, **options,
            )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **local)
    except Exception as error:  # transformers, safetensors and the hub raise many kinds for one cause
        raise ModelError(
            f"cannot load reward model {name!r}: {reason(error)}. Try: check the name, the files and the network"
        ) from error
    if wrong := missing_weights(report):
        raise VerifierError(f"{name} has no weights for {wrong}, so it is no such reward model. Try: check its kind")
    return model.to(device).eval().requires_grad_(False), tokenizer


def _read_weights(name: str, prefix: str, module: nn.Module) -> None:
    """Fill a head from the tensors of a checkpoint whose names begin so."""
    path = locate(name)
    local = cached_only(path)
    index = cached_file(path, "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False, **local)
    shards = ["model.safetensors"]
    if index:
        named = json.loads(Path(index).read_text())["weight_map"]
        shards = sorted({shard for key, shard in named.items() if key.startswith(prefix)})
    found: dict[str, Tensor] = {}
    for shard in shards:
        file = cached_file(path, shard, **local)
        assert file is not None
        with safe_open(file, "pt") as tensors:
            found |= {key[len(prefix) :]: tensors.get_tensor(key) for key in tensors.keys() if key.startswith(prefix)}  # noqa: SIM118
    own = module.state_dict()
    if found.keys() != own.keys() or any(found[key].shape != own[key].shape for key in own):
        raise VerifierError(f"{name} has no head {prefix}{'|'.join(own)} of the right shape. Try: name the form that it was "
                            "trained in")  # fmt: skip
    module.load_state_dict(found)
