"""Train a One-Token verifier on stored rollouts with linear pseudo-labels (arXiv 2603.01025).

Every trace is read once by the frozen base; then probes at sampled positions read its KV in one
pass. The label of a probe runs linearly from 0.5 at the first generated token to 1 at the last of
a right trace, to 0 of a wrong one; the loss is the mean squared error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from trueplex.backbone import Backbone
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, OptionError
from trueplex.evals.metrics import within_auroc
from trueplex.settings import origin
from trueplex.store import read_traces
from trueplex.types import Status, Steps
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import base_pass, pad_inputs, probe_pass, score_shares


@dataclass(frozen=True)
class Recipe:
    """How to train. ``positions`` probes a trace a step are drawn anew each time, the last always.

    Raises:
        OptionError: a value is out of range.
    """

    rank: int = 16
    positions: int = 32
    rows: int = 32
    epochs: float = 1.0
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("positions", "rows", "epochs", "lr"):
            if getattr(self, name) <= 0:
                raise OptionError(f"{name} is {getattr(self, name)}; mend: a positive number")


@dataclass(frozen=True)
class Labelled:
    """A stored trace with its label: prompt ids, steps, right or wrong, and its problem's key."""

    prompt: tuple[int, ...]
    steps: Steps
    correct: bool
    problem: int


def ramp(length: int, positions: np.ndarray, correct: bool) -> np.ndarray:
    """Pseudo-labels [M] at token positions 0 … length − 1: linear from 0.5 to 1 (right) or 0 (wrong)."""
    progress = positions / max(1, length - 1)
    return (0.5 + 0.5 * progress if correct else 0.5 - 0.5 * progress).astype(np.float32)


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


class Labels(Dataset):
    """The labelled traces, as torch wants them."""

    def __init__(self, traces: Sequence[Labelled]) -> None:
        self.traces = traces

    def __len__(self) -> int:
        return len(self.traces)

    def __getitem__(self, i: int) -> Labelled:
        return self.traces[i]


def collate(backbone: Backbone, recipe: Recipe) -> Any:
    """A batch of traces → inputs [B, N, H], probed columns [B, M], labels [B, M]."""
    rng = np.random.default_rng(recipe.seed)

    def batch(traces: list[Labelled]) -> dict[str, Tensor]:
        inputs, _ = pad_inputs(backbone, [(t.prompt, t.steps) for t in traces])
        columns, labels = [], []
        for trace in traces:
            length = len(trace.steps)
            at = np.append(rng.integers(0, length, recipe.positions - 1), length - 1)
            columns.append(at + len(trace.prompt))
            labels.append(ramp(length, at, trace.correct))
        return {
            "inputs": inputs,
            "columns": torch.from_numpy(np.stack(columns)),
            "labels": torch.from_numpy(np.stack(labels)),
        }

    return batch


class ProbeTask(nn.Module):
    """The loss as one module: base pass, probe pass, mean squared error."""

    def __init__(self, verifier: OneTokenVerifier) -> None:
        super().__init__()
        self.verifier = verifier

    def forward(self, inputs: Tensor, columns: Tensor, labels: Tensor) -> dict[str, Tensor]:
        base = base_pass(self.verifier.backbone, inputs)
        scores = torch.sigmoid(probe_pass(self.verifier, base, columns))
        return {"loss": nn.functional.mse_loss(scores, labels), "logits": scores}


SHARES = (0.25, 0.5, 0.75, 1.0)  # of a trace, where a verifier is judged while it learns


def quality(verifier: OneTokenVerifier, traces: Sequence[Labelled]) -> dict[str, float]:
    """AUROC within problems at a quarter, half, three quarters and the end of the given traces."""
    table = score_shares(verifier, [(t.prompt, t.steps) for t in traces], SHARES)
    problems, correct = [t.problem for t in traces], [t.correct for t in traces]
    return {
        f"within_auroc@{share}": within_auroc(problems, correct, table[:, i].tolist()) for i, share in enumerate(SHARES)
    }


WATCHED = 2000  # validation traces judged at every checkpoint; all of them at the end


class _Watch(TrainerCallback):
    """Measure on validation traces whenever a checkpoint is due."""

    def __init__(self, verifier: OneTokenVerifier, validation: Sequence[Labelled], log: Path) -> None:
        self.verifier, self.validation, self.log = verifier, validation, log

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        record = {"step": state.global_step, **quality(self.verifier, self.validation)}
        with self.log.open("a") as log:
            log.write(json.dumps(record) + "\n")


def train_verifier(
    backbone: Backbone, train: Sequence[Labelled], validation: Sequence[Labelled], recipe: Recipe, out: str | Path,
    data: str = "",
) -> OneTokenVerifier:  # fmt: skip
    """Train, checkpointing under `out`/checkpoints and resuming from there, and write the verifier to `out`."""
    out = Path(out)
    torch.manual_seed(recipe.seed)
    verifier = OneTokenVerifier(backbone, recipe.rank)
    task = ProbeTask(verifier)
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), num_train_epochs=recipe.epochs, per_device_train_batch_size=recipe.rows,
        learning_rate=recipe.lr, lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.01,
        save_steps=250, save_total_limit=2, logging_steps=50, seed=recipe.seed, report_to="none",
        remove_unused_columns=False, use_cpu=backbone.device.type == "cpu", label_names=[], dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = _Lengths(
        task, arguments, train_dataset=Labels(train), data_collator=collate(backbone, recipe),
        callbacks=[_Watch(verifier, validation[:WATCHED], out / "validation.jsonl")],
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    last = get_last_checkpoint(str(out / "checkpoints")) if (out / "checkpoints").is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    measured = quality(verifier.eval(), validation)
    verifier.save(out, {"data": data, "traces": len(train), "recipe": asdict(recipe), "validation": measured,
                        "labels": "ramp", "loss": "mse"})  # fmt: skip
    return verifier


class _Lengths(Trainer):
    """Group traces of like length into a batch: our dataset knows its lengths without a column."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        from transformers.trainer_pt_utils import LengthGroupedSampler

        lengths = [len(t.steps) + len(t.prompt) for t in self.train_dataset.traces]  # type: ignore[union-attr]
        generator = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths, generator=generator)
