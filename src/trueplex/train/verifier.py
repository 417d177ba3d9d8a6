"""Train a One-Token verifier on stored rollouts with pseudo-labels (arXiv 2603.01025).

Every trace is read once by the frozen base; then probes at chosen positions read its KV in one
pass. By default the label of a probe runs linearly from 0.5 at the first generated token to 1 at the last of
a right trace, to 0 of a wrong one, and the loss is the mean squared error.

Runs under `torchrun` too: each process takes its share of every batch, and the first one writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import barrier, destroy_process_group
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from trueplex.backbone import Backbone
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, OptionError
from trueplex.evals.metrics import within_auroc
from trueplex.settings import origin
from trueplex.store import read_traces
from trueplex.train.batches import Labelled, Order, Probes, collate
from trueplex.train.labels import known
from trueplex.types import Status
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import base_pass, probe_pass, score_shares

LOSSES = ("mse", "bce")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        rank: LoRA rank; 0 trains the probe token and the head alone.
        targets: ends of the names of the linear layers that get LoRA; empty for all of them.
        positions: probes a trace a step, drawn anew each epoch, the last token always; None for every token.
        rows: traces a step, over all processes.
        labels: ``ramp`` (the paper's), ``constant``, ``final`` or ``power``.
        loss: ``mse`` (the paper's) or ``bce``, both against the soft label.
        ranking: weight of a loss on pairs, a right and a wrong trace of one problem at the same share of both.
        balanced: as many right as wrong traces of every problem, drawn anew each epoch.
        patience: stop after so many checkpoints without a better AUROC within problems on validation, and
            keep the best; 0 trains to the end.
        every: steps between checkpoints.
        checkpointing: recompute activations in the backward pass: slower, in less memory.

    Raises:
        OptionError: a value is out of range, or an option could not act.
    """

    rank: int = 16
    targets: tuple[str, ...] = ()
    positions: int | None = 32
    rows: int = 32
    epochs: float = 1.0
    lr: float = 1e-3
    seed: int = 0
    labels: str = "ramp"
    loss: str = "mse"
    ranking: float = 0.0
    balanced: bool = False
    patience: int = 0
    every: int = 250
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("positions", "rows", "epochs", "lr", "every"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise OptionError(f"{name} is {value}; mend: a positive number")
        known(self.labels)
        if self.loss not in LOSSES:
            raise OptionError(f"unknown loss {self.loss!r}; mend: one of {', '.join(LOSSES)}")
        if self.ranking < 0 or self.patience < 0:
            raise OptionError("ranking and patience cannot be negative; mend: 0 turns them off")
        if self.rank == 0 and self.targets:
            raise OptionError(
                "with rank 0 no layer gets LoRA, so targets act on nothing; mend: drop them or raise the rank"
            )
        if self.ranking and self.positions is None:
            raise OptionError("ranking compares traces at the same shares; mend: give a number of positions")
        if self.labels == "final" and self.positions != 1:
            raise OptionError("final labels ask the last token alone; mend: --positions 1")


def read_labelled(path: str | Path, backbone: Backbone, say: Callable[[str], None] = print) -> list[Labelled]:
    """The traces of a store, or of a rollout folder, that a verifier can learn from.

    Traces whose answer the grader could not judge are left out and counted, never taken as wrong.

    Raises:
        StoreError: the traces are another model's.
        InputError: all are right, or all are wrong: there is nothing to tell apart.
    """
    traces, ungraded = [], 0
    for trace, prompt in read_traces(path, say, origin(Thinking(), backbone)):
        ungraded += trace.correct is None and trace.status in (Status.FINISHED, Status.TRUNCATED)
        if trace.correct is not None and trace.tokens > 0:
            assert trace.steps is not None
            traces.append(Labelled(prompt, trace.steps, trace.correct, trace.problem.key))
    if ungraded:
        say(f"{path}: {ungraded} traces have an answer that could not be graded; they are left out")
    right = sum(t.correct for t in traces)
    if right in (0, len(traces)):
        raise InputError(f"{path} holds {len(traces)} gradable traces, {right} right; mend: roll out problems of which "
                         "some paths are right and some wrong")  # fmt: skip
    return traces


def mixed(traces: Sequence[Labelled]) -> list[Labelled]:
    """The traces of problems that have both right and wrong ones.

    The others teach which problems are hard, not which path of a problem to trust.
    """
    outcomes: dict[int, set[bool]] = {}
    for trace in traces:
        outcomes.setdefault(trace.problem, set()).add(trace.correct)
    return [t for t in traces if len(outcomes[t.problem]) == 2]


class ProbeTask(nn.Module):
    """The loss as one module: base pass, probe pass, loss."""

    def __init__(self, verifier: OneTokenVerifier, recipe: Recipe) -> None:
        super().__init__()
        self.verifier, self.recipe = verifier, recipe
        self._layers = (_forgetful(verifier.backbone),) if recipe.checkpointing else ()  # no submodules of the task

    def forward(self, inputs: Tensor, columns: Tensor, labels: Tensor, weights: Tensor, correct: Tensor,
                problems: Tensor) -> dict[str, Tensor]:  # fmt: skip
        verifier = self.verifier
        verifier.switch.columns = 0
        self._recompute(False)
        base = base_pass(verifier.backbone, inputs)
        self._recompute(True)
        logits = probe_pass(verifier, base, columns)
        if self._layers:
            verifier.switch.columns = columns.shape[1]  # the backward pass computes the layers once more
        if self.recipe.loss == "mse":
            each = (torch.sigmoid(logits) - labels) ** 2
        else:
            each = binary_cross_entropy_with_logits(logits, labels, reduction="none")
        loss = (each * weights).sum() / weights.sum()
        if self.recipe.ranking:
            loss = loss + self.recipe.ranking * ranking_loss(logits, correct, problems)
        return {"loss": loss, "logits": logits}

    def _recompute(self, on: bool) -> None:
        """A layer forgets its activations when it believes to be trained; it then drops the cache of the base pass, too."""
        for layers in self._layers:
            for layer in layers:
                layer.training = on

    def release(self) -> None:
        """Leave the base model as it was."""
        self.verifier.switch.columns = 0
        if self._layers:
            self.verifier.backbone.model.gradient_checkpointing_disable()
            self.verifier.backbone.model.eval()


def _forgetful(backbone: Backbone) -> list[nn.Module]:
    """The layers of transformers that can compute their activations once more."""
    backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    return [m for m in backbone.model.modules() if getattr(m, "gradient_checkpointing", False)]


def ranking_loss(logits: Tensor, correct: Tensor, problems: Tensor) -> Tensor:
    """Mean of softplus(wrong − right) over all pairs of one problem, probe by probe; logits [B, M]. 0 without pairs."""
    pairs = (problems[:, None] == problems[None, :]) & correct[:, None] & ~correct[None, :]
    right, wrong = pairs.nonzero(as_tuple=True)
    if not len(right):
        return logits.sum() * 0.0
    return softplus(logits[wrong] - logits[right]).mean()


SHARES = (0.25, 0.5, 0.75, 1.0)  # of a trace, where a verifier is judged while it learns


def quality(verifier: OneTokenVerifier, traces: Sequence[Labelled]) -> dict[str, float]:
    """AUROC within problems at a quarter, half, three quarters and the end of the given traces."""
    table = score_shares(verifier, [(t.prompt, t.steps) for t in traces], SHARES)
    problems, correct = [t.problem for t in traces], [t.correct for t in traces]
    return {
        f"within_auroc@{share}": within_auroc(problems, correct, table[:, i].tolist()) for i, share in enumerate(SHARES)
    }


WATCHED = 2000  # validation traces judged at every checkpoint; all of them at the end
JUDGED_BY = "within_auroc@1.0"


class _Watch(TrainerCallback):
    """Judge on validation traces whenever a checkpoint is due, keep the best, and stop when none is better."""

    def __init__(self, verifier: OneTokenVerifier, validation: Sequence[Labelled], out: Path, patience: int) -> None:
        self.verifier, self.validation, self.out, self.patience = verifier, validation, out, patience
        self.best = out / "best.safetensors"

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        stop = [state.is_world_process_zero and self._judge(state.global_step)]
        if args.world_size > 1:  # all processes stop, or none
            broadcast_object_list(stop)
        control.should_training_stop = stop[0] or control.should_training_stop

    def _judge(self, step: int) -> bool:
        """Log the figures of this checkpoint, keep it if it is the best; True when patience is at its end."""
        log = self.out / "validation.jsonl"
        before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        # A resumed run may come here again.
        records = [*(r for r in before if r["step"] < step), {"step": step, **quality(self.verifier, self.validation)}]
        log.with_suffix(".tmp").write_text("".join(json.dumps(r) + "\n" for r in records))
        log.with_suffix(".tmp").replace(log)
        best = max(range(len(records)), key=lambda i: (records[i][JUDGED_BY], -i))
        if self.patience and best == len(records) - 1:
            save_file(self.verifier.state_dict(), self.best.with_suffix(".tmp"))
            self.best.with_suffix(".tmp").replace(self.best)
        return self.patience > 0 and len(records) - 1 - best >= self.patience


class _Trainer(Trainer):
    """A Trainer whose batches are `Order`'s."""

    def __init__(self, *arguments: Any, order: Order, **named: Any) -> None:
        self.order = order
        super().__init__(*arguments, **named)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order


def train_verifier(
    backbone: Backbone, train: Sequence[Labelled], validation: Sequence[Labelled], recipe: Recipe, out: str | Path,
    data: str = "",
) -> OneTokenVerifier:  # fmt: skip
    """Train, checkpointing under `out`/checkpoints and resuming from there, and write the verifier to `out`.

    A run that is taken up again ends in the weights that an uninterrupted one would have had.

    Raises:
        InputError: no trace could be compared with another, or the run in `out` had another recipe.
        OptionError: the rows cannot be shared evenly by the processes.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    verifier = OneTokenVerifier(backbone, recipe.rank, targets=recipe.targets)
    probes = Probes(train, recipe.positions, recipe.seed, together=recipe.ranking > 0)
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), num_train_epochs=recipe.epochs, learning_rate=recipe.lr,
        lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.01, save_steps=recipe.every, save_total_limit=2,
        logging_steps=50, seed=recipe.seed, report_to="none", remove_unused_columns=False,
        use_cpu=backbone.device.type == "cpu", label_names=[], dataloader_pin_memory=False,
    )  # fmt: skip
    if recipe.rows % arguments.world_size:
        raise OptionError(f"{recipe.rows} rows cannot be shared evenly by {arguments.world_size} processes; mend: "
                          "--batch a multiple of them")  # fmt: skip
    arguments.per_device_train_batch_size = recipe.rows // arguments.world_size
    _claim(out, recipe, arguments.process_index == 0)
    order = Order(probes, recipe.rows, recipe.balanced)
    if not len(order):
        raise InputError(
            "no problem has both right and wrong traces, so none can be balanced; mend: roll out more paths"
        )
    watch = _Watch(verifier, validation[:WATCHED], out, recipe.patience)
    task = ProbeTask(verifier, recipe)
    trainer = _Trainer(
        task, arguments, train_dataset=probes, data_collator=collate(backbone, recipe.labels),
        callbacks=[watch], order=order,
    )  # fmt: skip
    last = get_last_checkpoint(str(out / "checkpoints")) if (out / "checkpoints").is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    task.release()
    if recipe.patience and watch.best.exists():
        verifier.load_state_dict(load_file(watch.best))
    if arguments.process_index == 0:
        measured = quality(verifier.eval(), validation)
        verifier.save(out, {"data": data, "traces": len(train), "recipe": asdict(recipe), "validation": measured})
    if arguments.world_size > 1:  # one process that leaves early would have the others killed before they have saved
        barrier()
        destroy_process_group()
    return verifier


def _claim(out: Path, recipe: Recipe, first: bool) -> None:
    """Write the recipe of a new run, or check that an old one says the same."""
    path, own = out / "recipe.json", json.loads(json.dumps(asdict(recipe)))
    if path.exists():
        if json.loads(path.read_text()) != own:
            raise InputError(f"{out} holds a run with another recipe; mend: the same options, or another --out folder")
    elif first:
        path.write_text(json.dumps(own) + "\n")
