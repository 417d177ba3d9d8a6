"""What every training run here shares: a folder of one recipe, and a judge at checkpoints."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed import barrier, destroy_process_group
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from trueplex.errors import InputError, OptionError
from trueplex.files import write_text, write_with

JUDGED_BY = "within_auroc@1.0"


class Watch(TrainerCallback):
    """Judge whenever a checkpoint is due, keep the best weights, and stop when none is better."""

    def __init__(self, judge: Callable[[], dict[str, float]], weights: nn.Module, out: Path, patience: int) -> None:
        self.judge, self.weights, self.out, self.patience = judge, weights, out, patience
        self.best = out / "best.safetensors"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint that a kill left unjudged is judged now."""
        log = self.out / "validation.jsonl"
        judged = [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []
        if state.global_step and state.global_step not in judged:
            self.on_save(args, state, control, **kwargs)

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
        records = [*(r for r in before if r["step"] < step), {"step": step, **self.judge()}]
        best = max(range(len(records)), key=lambda i: (records[i][JUDGED_BY], -i))
        if (
            self.patience and best == len(records) - 1
        ):  # before it is noted: a kill in between has it judged and kept again
            write_with(self.best, lambda temporary: save_file(self.weights.state_dict(), temporary))
        write_text(log, "".join(json.dumps(r) + "\n" for r in records))
        return self.patience > 0 and len(records) - 1 - best >= self.patience

    def restore(self) -> None:
        """Give the weights what was best, where that was kept."""
        if self.patience and self.best.exists():
            self.weights.load_state_dict(load_file(self.best))


def arguments_for(recipe: Any, out: Path, on_cpu: bool, about: dict[str, str], bf16: bool = False) -> TrainingArguments:
    """The arguments of a run in `out`, its rows shared evenly by the processes.

    The folder is claimed for the recipe, and for what else it is ``about``: the base model and the traces. With
    ``bf16`` the passes run under autocast.

    Raises:
        OptionError: the rows cannot be shared evenly.
        InputError: the folder holds a run with another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), num_train_epochs=recipe.epochs, learning_rate=recipe.lr,
        lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.01, save_steps=recipe.every, save_total_limit=2,
        logging_steps=50, seed=recipe.seed, report_to="none", remove_unused_columns=False,
        use_cpu=on_cpu, bf16=bf16, label_names=[], dataloader_pin_memory=False,
    )  # fmt: skip
    if recipe.rows % arguments.world_size:
        raise OptionError(f"{recipe.rows} rows cannot be shared evenly by {arguments.world_size} processes. Try: "
                          "--batch a multiple of them")  # fmt: skip
    arguments.per_device_train_batch_size = recipe.rows // arguments.world_size
    _claim(out, asdict(recipe) | about, arguments.process_index == 0)
    return arguments


def run(trainer: Trainer) -> None:
    """Train, from the last checkpoint where there is one."""
    last = last_checkpoint(Path(trainer.args.output_dir))
    if last and _finished(Path(last)):
        trainer._load_from_checkpoint(last)  # train() would look whether it is at its end only after a further step
    else:
        trainer.train(resume_from_checkpoint=last)


def _finished(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    return state["global_step"] >= state["max_steps"]


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: transformers writes its state last, and a kill may come before."""
    whole = {}
    for state in folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}"):
        try:
            whole[int(json.loads(state.read_text())["global_step"])] = str(state.parent)
        except (ValueError, KeyError):
            continue  # it was cut off
    return whole[max(whole)] if whole else None


def leave_together(arguments: TrainingArguments) -> None:
    """One process that leaves early would have the others killed before they have saved.

    Call it when no name holds the trainer. Its wrapped model holds the group, whose threads would otherwise outlive the
    interpreter, and sometimes abort the process ("terminate called without an active exception") after all is done.
    """
    if arguments.world_size > 1:
        barrier()
        gc.collect()
        destroy_process_group()


def _claim(out: Path, own: dict[str, Any], first: bool) -> None:
    """Write the recipe of a new run, or check that an old one says the same."""
    path, own = out / "recipe.json", json.loads(json.dumps(own))
    if path.exists():
        told = json.loads(path.read_text())
        if told != own:
            differing = ", ".join(name for name in own if told.get(name) != own[name])
            raise InputError(
                f"{out} holds a run with another recipe ({differing}). Try: the same options, or another --out folder"
            )
    elif first:
        write_text(path, json.dumps(own) + "\n")
