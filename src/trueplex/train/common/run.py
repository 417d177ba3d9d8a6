"""One run in one folder: claimed for its recipe, resumed from its last whole checkpoint, left by all processes together."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.distributed import barrier, destroy_process_group
from transformers import ProgressCallback, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from trueplex.checksums import is_named
from trueplex.errors import InputError, OptionError
from trueplex.files import read_json, write_json, writing
from trueplex.models.attention import without_cudnn
from trueplex.models.backbone import Backbone
from trueplex.train.common.bar import Bar
from trueplex.train.common.batches import Labelled
from trueplex.train.common.finite import check_finite
from trueplex.train.common.recipe import RENAMED, renamed
from trueplex.train.common.state import TrainerState, last_checkpoint
from trueplex.train.common.tracking import trackers
from trueplex.train.common.watch import Watch

FREE = ("report_to", "memory")  # may differ when a run is resumed
FORMER = "former base"  # what version 0.2 called the base model: compared, not stored
# Fields that recipes did not always have, with what runs did before: such a run is resumed as it was.
LATER = {
    "probe_tokens": 1,
    "probe_repeated": False,
    "probe_pool": "last",
    "start": "",
    "hard_negatives": False,
    "spread": False,
    "standardise": False,
}


def arguments_for(recipe: Any, out: Path, on_cpu: bool, about: dict[str, str], bf16: bool = False) -> TrainingArguments:
    """The arguments of a run in `out`, its batch shared evenly by the processes.

    The folder is claimed for the recipe, and for what else it is ``about``: the base model and the traces. With
    ``bf16`` the passes run under autocast.

    Raises:
        OptionError: the batch cannot be shared evenly.
        InputError: the folder holds a run with another recipe.
        StoreError: its recipe cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), num_train_epochs=recipe.epochs, learning_rate=recipe.lr,
        lr_scheduler_type="cosine", warmup_steps=0.03, weight_decay=0.01, save_steps=recipe.every, save_total_limit=2,
        logging_steps=50, seed=recipe.seed, report_to="none", remove_unused_columns=False,
        use_cpu=on_cpu, bf16=bf16, label_names=[], dataloader_pin_memory=False,
    )  # fmt: skip
    if recipe.batch_size % arguments.world_size:
        raise OptionError(f"a batch of {recipe.batch_size} traces cannot be shared evenly by {arguments.world_size} processes. "
                          "Try: --batch a multiple of them")  # fmt: skip
    arguments.per_device_train_batch_size = recipe.batch_size // arguments.world_size
    told = {name: value for name, value in asdict(recipe).items() if name not in FREE}
    own = {name: value for name, value in told.items() if name not in LATER or LATER[name] != value}
    claim(out, own | about, arguments.process_index == 0)
    return arguments


def about(backbone: Backbone, train: Sequence[Labelled], validation: Sequence[Labelled]) -> dict[str, str]:
    """What a run's weights come from, besides its recipe."""
    digest = hashlib.blake2b(digest_size=12)
    for traces in (train, validation):
        digest.update(json.dumps([[t.problem, len(t.steps), t.correct, t.values is not None] for t in traces]).encode())
    return {
        "base": backbone.fingerprint,
        FORMER: backbone.former_fingerprint,
        "dtype": dtype_of(backbone),
        "traces": digest.hexdigest(),
    }


def dtype_of(backbone: Backbone) -> str:
    return str(backbone.dtype).removeprefix("torch.")


def run(trainer: Trainer, watch: Watch, out: Path, report_to: Sequence[str]) -> None:
    """Train, from the last whole checkpoint where there is one; the weights are then the best, or the last.

    Raises:
        TrueplexError: memory ran out, or the weights are not finite.
        StoreError: what an earlier run left cannot be read, or a checkpoint cannot be written.
    """
    last = last_checkpoint(Path(trainer.args.output_dir))
    state = read_json(Path(last) / TRAINER_STATE_NAME, TrainerState) if last else TrainerState(0)
    for callback in trackers(report_to, out, trainer.args, state.global_step):
        trainer.add_callback(callback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar())
    watch.log = trainer.log
    ended = False
    if last:  # train() itself would look whether it is at its end, or out of patience, only after a further step
        trainer._load_from_checkpoint(last)
        trainer.state.global_step = state.global_step
        ended = watch.ends_at(state.global_step, trainer.args) or state.global_step >= state.max_steps
    if not ended:
        try:
            with writing(out), without_cudnn(trainer.args.device):  # batches have unlike lengths
                trainer.train(resume_from_checkpoint=last)
        finally:
            end_bar(trainer)
    watch.restore()
    check_finite(trainer.model.named_parameters(), trainer.state.global_step)


def end_bar(trainer: Trainer) -> None:
    """End the line of a progress bar that an error or an interrupt has left, so that what is said of it has its own."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
            callback.training_bar.close()


def leave_together(arguments: TrainingArguments) -> None:
    """One process that leaves early would have the others killed before they have saved.

    Call it when no name holds the trainer. Its wrapped model holds the group, whose threads would otherwise outlive the
    interpreter, and sometimes abort the process ("terminate called without an active exception") after all is done.
    """
    if arguments.world_size > 1:
        barrier()
        gc.collect()
        destroy_process_group()


def claim(out: Path, own: dict[str, Any], first: bool) -> None:
    """Write the recipe of a new run, or check that an old one says the same."""
    path, former = out / "recipe.json", own.get(FORMER)
    own = json.loads(json.dumps({name: value for name, value in own.items() if name != FORMER}))
    if path.exists():
        told = renamed(read_json(path, dict[str, Any]), RENAMED | {"rows": "batch_size"})
        if "base" in own and is_named(told.get("base"), own["base"], former, path):
            told["base"] = own["base"]
        if told != own:
            differing = ", ".join(name for name in own if told.get(name) != own[name])
            raise InputError(
                f"{out} holds a run with another recipe ({differing}). Try: the same options, or another --out folder"
            )
    elif first:
        write_json(path, own)
