"""One run in one folder: what transformers' Trainer is told, and the claim of the folder for one recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from trueplex.errors import InputError, OptionError
from trueplex.files import damaged, read_json, write_json
from trueplex.models.backbone import Backbone
from trueplex.train.common.recipe import renamed
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.types import Problem


def arguments_for(recipe: PolicyRecipe, out: Path, on_cpu: bool) -> TrainingArguments:
    """What transformers' Trainer is told: checkpoints, rate, precision; the rest is done here.

    Raises:
        OptionError: the prompts cannot be shared evenly by the processes.
    """
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"), max_steps=recipe.steps * recipe.updates, learning_rate=recipe.lr,
        lr_scheduler_type="constant_with_warmup", warmup_steps=recipe.warmup * recipe.updates, weight_decay=0.0,
        max_grad_norm=0.0, save_steps=recipe.every * recipe.updates, save_total_limit=2, logging_strategy="no",
        per_device_train_batch_size=1, seed=recipe.seed, report_to="none", remove_unused_columns=False,
        use_cpu=on_cpu, bf16=recipe.bf16, label_names=[], dataloader_pin_memory=False,
        ignore_data_skip=True, disable_tqdm=True, ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )  # fmt: skip
    if recipe.prompts % (recipe.minibatches * arguments.world_size):
        raise OptionError(f"{recipe.prompts} prompts cannot be shared evenly by {arguments.world_size} processes in "
                          f"{recipe.minibatches} minibatches. Try: --prompts a multiple of their product")  # fmt: skip
    return arguments


def claim(out: Path, recipe: PolicyRecipe, backbone: Backbone, problems: Sequence[Problem], validation: Sequence[Problem],
          first: bool) -> None:  # fmt: skip
    """Write what a new run is, or check that an old one was the same.

    Raises:
        InputError: the run in `out` was another one.
        StoreError: its recipe cannot be read.
    """
    path = out / "recipe.json"
    own = {"model": backbone.name, "fingerprint": backbone.fingerprint, "problems": _digest(problems),
           "validation": _digest(validation), "recipe": recipe.identity()}  # fmt: skip
    own = json.loads(json.dumps(own))
    if path.exists():
        old = backbone.renamed(read_json(path, dict[str, Any]), path)
        if not isinstance(old.get("recipe"), dict):
            raise damaged(path, "it holds no recipe of a policy")
        old["recipe"] = renamed(old["recipe"])
        if old != own:
            differing = [k for k in own["recipe"] if old["recipe"].get(k) != own["recipe"][k]]
            what = ", ".join(differing) or "the model or the problems"
            raise InputError(f"{out} holds a run with another configuration ({what}). Try: the same options, or another "
                             "--out folder")  # fmt: skip
    elif first:
        write_json(path, own, indent=1)


def _digest(problems: Sequence[Problem]) -> str:
    """A name for these problems, their order and what counts as right."""
    told = json.dumps([[p.text, list(p.answers or ())] for p in problems])
    return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()
