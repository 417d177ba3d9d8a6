"""Train the rivals of a One-Token verifier on the very rollouts that it learns from.

Three kinds, one loss. An ``outcome`` model gets a head on the base model and reads whole solutions; a
``process`` model is one of Math-Shepherd's form, whose labels at the ends of steps are Monte-Carlo values
where a trace was valued (`values`) and its outcome at its last step; a ``generative`` one says "Yes" or "No".
Each is a logit at some columns of a text, against a label in [0, 1], by binary cross-entropy.

What is written is a plain Hugging Face folder, LoRA merged in, with a card: ``orm:FOLDER``,
``prm:math-shepherd:FOLDER`` and ``genrm:FOLDER`` read it as they read published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.modules.module import _IncompatibleKeys
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from trueplex.checksums import seal
from trueplex.errors import InputError, ModelError, OptionError
from trueplex.evals.metrics import within_auroc
from trueplex.files import write_json, writing
from trueplex.locks import locks
from trueplex.models.backbone import Backbone
from trueplex.models.load import reading, unmark_gguf, unreported, weights_of, weights_only
from trueplex.models.precision import quantised
from trueplex.train.common.batches import Examples, Labelled, Order
from trueplex.train.common.memory import OrderedTrainer
from trueplex.train.common.recipe import check_numbers, check_seed, check_trackers
from trueplex.train.common.run import about, arguments_for, dtype_of, leave_together, run
from trueplex.train.common.watch import Watch, watched
from trueplex.verify.readers import forms
from trueplex.verify.readers.checkpoint import CARD
from trueplex.verify.readers.generative import GenerativeReader
from trueplex.verify.readers.outcome import OutcomeReader
from trueplex.verify.readers.process import ProcessReader
from trueplex.verify.readers.reading import Reader, Written, padded
from trueplex.verify.readers.reward_model import LogitDifference, OneLogit, RewardModel
from trueplex.verify.readers.transcript import Transcript, separator
from trueplex.verify.stored import tokens_at

FORM = "math-shepherd"  # of the process models that are trained here
SHARES = (0.5, 1.0)  # of a trace, where a model is judged while it learns


@dataclass(frozen=True)
class RewardRecipe:
    """How to train.

    Attributes:
        kind: ``outcome``, ``process`` or ``generative``.
        rank: LoRA rank on every linear layer; 0 trains all weights.
        batch_size: traces a step, over all processes.
        steps: where the steps of a text end for a process model, at ``lines`` or ``paragraphs``.
        balanced: as many right as wrong traces of every problem, drawn anew each epoch.
        patience: stop after so many checkpoints without a better AUROC within problems on validation, and
            keep the best; 0 trains to the end.
        every: steps between checkpoints.
        report_to: where figures are shown: ``tensorboard``, ``wandb``, ``trackio``.

    Raises:
        OptionError: a value is out of range, or an option has no effect here.
    """

    kind: str = "outcome"
    rank: int = 16
    batch_size: int = 32
    epochs: float = 1.0
    lr: float = 1e-3
    seed: int = 0
    steps: str | None = None
    balanced: bool = False
    patience: int = 0
    every: int = 250
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"unknown kind of reward model {self.kind!r}. Try: one of {', '.join(KINDS)}")
        check_numbers(self, ("batch_size", "epochs", "lr", "every"), ("rank", "patience"))
        check_seed(self.seed)
        check_trackers(self.report_to)
        if self.steps is not None:
            if self.kind != "process":
                raise OptionError(f"only a process model sees steps, not an {self.kind} one. Try: drop --steps")
            separator(self.steps)


@dataclass(frozen=True)
class Example:
    """A text with labels at some of its columns, and the trace that it shows."""

    ids: list[int]
    columns: list[int]
    labels: list[float]
    problem: int
    correct: bool

    def __len__(self) -> int:
        return len(self.ids)


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Examples → ids and mask [B, N]; rows, columns and labels [n] of all places that have a label."""
    ids, mask = padded([e.ids for e in examples], torch.device("cpu"))
    places = [(row, column) for row, e in enumerate(examples) for column in e.columns]
    rows, columns = torch.tensor(places).T
    return {"ids": ids, "mask": mask, "rows": rows, "columns": columns,
            "labels": torch.tensor([label for e in examples for label in e.labels])}  # fmt: skip


class RewardTask(nn.Module):
    """The loss as one module. Its state is what is trained, each weight once: a base model may tie some."""

    def __init__(self, rewarding: RewardModel) -> None:
        super().__init__()
        self.rewarding = rewarding

    def forward(self, ids: Tensor, mask: Tensor, rows: Tensor, columns: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.rewarding(ids, mask, rows, columns)
        return {"loss": binary_cross_entropy_with_logits(logits, labels), "logits": logits}

    def counts(self, batch: dict[str, Tensor]) -> float:
        return float(len(batch["labels"]))

    def state_dict(self, *arguments: Any, **named: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        assert own.keys() == state_dict.keys()
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state_dict[name])
        return _IncompatibleKeys([], [])


# -- the three kinds ------------------------------------------------------------------------------


class Learner(NamedTuple):
    """A model that learns: what is trained, what reads with it, and what it is shown of a trace, with labels."""

    rewarding: RewardModel
    reader: Reader
    example: Callable[[Labelled], Example]


def _outcome(backbone: Backbone, recipe: RewardRecipe) -> Learner:
    model, tokenizer = _base(AutoModelForSequenceClassification, backbone, num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    rewarding = RewardModel(model, OneLogit(model.score), tokenizer)
    reader = OutcomeReader(rewarding, Transcript(backbone), None)

    def example(trace: Labelled) -> Example:
        ids, columns = reader.show(trace.text, trace.steps.ids[:, 0].tolist())
        return Example(ids, columns, [float(trace.correct)], trace.problem, trace.correct)

    return Learner(rewarding, reader, example)


def _process(backbone: Backbone, recipe: RewardRecipe) -> Learner:
    model, tokenizer = _base(AutoModelForCausalLM, backbone)
    form, transcript, between = forms.FORMS[FORM], Transcript(backbone), separator(recipe.steps or "lines")
    if len(tokenizer(form.tag, add_special_tokens=False)["input_ids"]) != 1:
        tokenizer.add_tokens([form.tag])
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            with unreported():
                model.resize_token_embeddings(len(tokenizer))
    form.check(tokenizer)
    good, bad = (forms.single(tokenizer, word) for word in (forms.GOOD, forms.BAD))
    rewarding = RewardModel(model, LogitDifference(model.get_output_embeddings(), good, bad), tokenizer)
    reader = ProcessReader(rewarding, transcript, form, between, "last")

    def example(trace: Labelled) -> Example:
        ids = trace.steps.ids[:, 0].tolist()
        ends = transcript.step_ends(ids, between, True)
        shown, columns = reader.show(trace.text, ids, ends)
        worth = dict(zip(*(a.tolist() for a in trace.values), strict=True)) if trace.values else {}
        if ends:
            worth[ends[-1]] = float(trace.correct)
        known = [(column, worth[end]) for column, end in zip(columns, ends, strict=True) if end in worth]
        return Example(shown, [c for c, _ in known], [w for _, w in known], trace.problem, trace.correct)

    return Learner(rewarding, reader, example)


def _generative(backbone: Backbone, recipe: RewardRecipe) -> Learner:
    model, tokenizer = _base(AutoModelForCausalLM, backbone)
    reader = GenerativeReader(Backbone(backbone.name, model, tokenizer), Transcript(backbone), None)
    _, yes, no = reader.show("1+1?", [])

    def example(trace: Labelled) -> Example:
        ids, *_ = reader.show(trace.text, trace.steps.ids[:, 0].tolist())
        return Example(ids, [len(ids) - 1], [float(trace.correct)], trace.problem, trace.correct)

    return Learner(
        RewardModel(model, LogitDifference(model.get_output_embeddings(), yes, no), tokenizer), reader, example
    )


KINDS = {"outcome": _outcome, "process": _process, "generative": _generative}


def _base(kind: Any, backbone: Backbone, **options: Any) -> tuple[Any, Any]:
    """The base model once more, to be trained, and its tokenizer; a new head is drawn from the seed."""
    path, _ = weights_of(backbone.name)
    found = reading(path)
    with unreported():
        model = kind.from_pretrained(dtype=backbone.dtype, **weights_only(found), **options)
    unmark_gguf(model)
    model.base_model.load_state_dict(backbone.model.base_model.state_dict())  # with what an adapter has learned
    return model.to(backbone.device), AutoTokenizer.from_pretrained(trust_remote_code=False, **found)


def _prepare(rewarding: RewardModel, rank: int) -> Any:
    """Choose what is trained: LoRA and the new head, or everything, in float32. The PEFT wrapper, if there is one."""
    model = rewarding.model
    new_head = list(rewarding.head.parameters())
    if not rank:
        model.float().requires_grad_(True)
        return None
    trunk = model.base_model
    names = [f"{model.base_model_prefix}.{name}" for name, m in trunk.named_modules() if isinstance(m, nn.Linear)]
    wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names))
    for parameter in new_head:
        parameter.data = parameter.data.float()  # in bfloat16 small updates would be lost
        parameter.requires_grad_(True)
    return wrapped


@locks("out")
def train_reward(
    backbone: Backbone, train: Sequence[Labelled], validation: Sequence[Labelled], recipe: RewardRecipe,
    out: str | Path, data: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Train, checkpointing under `out`/checkpoints and resuming from there, and write the model to `out`; its card.

    With a base in bfloat16 the passes run in it, and what is learned is kept in float32. A resumed run ends in the
    weights that an uninterrupted one would have had.

    Raises:
        ModelError: the base model is quantised.
        InputError: there is nothing to learn from, or the run in `out` had another recipe.
        OptionError: the batch cannot be shared evenly by the processes.
        TrueplexError: memory ran out, or the weights are not finite.
        StoreError: what an earlier run left in `out` cannot be read.
    """
    out = Path(out)
    if quantised(backbone.model):
        raise ModelError(
            "a reward model cannot be trained from quantised weights. Try: without --quantize, in bfloat16"
        )
    torch.manual_seed(recipe.seed)
    learner = KINDS[recipe.kind](backbone, recipe)
    wrapped = _prepare(learner.rewarding, recipe.rank)
    task, judge = _judged(learner, backbone)
    arguments = arguments_for(recipe, out, backbone.device.type == "cpu", about(backbone, train, validation),
                              backbone.dtype == torch.bfloat16)  # fmt: skip
    examples = [e for e in map(learner.example, train) if e.columns]
    order = Order(Examples(examples, recipe.seed), recipe.batch_size, recipe.balanced)
    if not len(order):
        raise InputError(
            "no trace can be learned from. Try: roll out problems of which some paths are right and some wrong"
        )
    watch = Watch(lambda: judge(watched(validation)), task, out, recipe.patience)
    run(OrderedTrainer(task, arguments, train_dataset=order.data, callbacks=[watch], order=order, collate=collate), watch,
        out, recipe.report_to)  # fmt: skip
    card: dict[str, Any] = {}
    if arguments.process_index == 0:
        model = (wrapped.merge_and_unload() if wrapped else learner.rewarding.model).to(backbone.dtype)
        measured = judge(validation)  # of what is written: merged, in the base's precision
        with writing(out):
            model.save_pretrained(out)
            learner.rewarding.tokenizer.save_pretrained(out)
        process = {"form": FORM, "steps": recipe.steps or "lines"} if recipe.kind == "process" else {}
        card = {"kind": recipe.kind, **process, "base": backbone.name, "base_fingerprint": backbone.fingerprint, "data": data,
                "traces": len(examples), "dtype": dtype_of(backbone), "recipe": asdict(recipe), "validation": measured}  # fmt: skip
        write_json(out / CARD, card, indent=1)
        seal(out, without=("recipe.json", "validation.jsonl", "best.safetensors"))
    leave_together(arguments)
    return card


def _judged(
    learner: Learner, backbone: Backbone
) -> tuple[RewardTask, Callable[[Sequence[Labelled]], dict[str, float]]]:
    """The task of a learner, and how good it is on given traces."""
    task = RewardTask(learner.rewarding)

    def judge(traces: Sequence[Labelled]) -> dict[str, float]:
        task.eval()
        try:
            with torch.autocast(backbone.device.type, torch.bfloat16, enabled=backbone.dtype == torch.bfloat16):
                return quality(learner.reader, traces)
        finally:
            task.train()

    return task, judge


def quality(reader: Reader, traces: Sequence[Labelled]) -> dict[str, float]:
    """AUROC within problems at half and the end of the given traces."""
    written = [Written(t.text, t.steps.ids[:, 0].tolist(), True) for t in traces]
    scores, _ = reader.read(written, [[tokens_at(len(w.ids), share) for share in SHARES] for w in written])
    problems, correct = [t.problem for t in traces], [t.correct for t in traces]
    return {
        f"within_auroc@{share}": within_auroc(problems, correct, [s[i] for s in scores])
        for i, share in enumerate(SHARES)
    }
