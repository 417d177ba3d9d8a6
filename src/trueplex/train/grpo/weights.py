"""Which weights of a model learn, and the folders that the learned ones are written to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from trueplex.checksums import seal
from trueplex.errors import ModelError
from trueplex.files import writing
from trueplex.models.backbone import Backbone
from trueplex.models.precision import quantised
from trueplex.train.common.sharded import full_state
from trueplex.train.grpo.reading import reads
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.verify.lora import left_out
from trueplex.verify.one_token import linear_names

log = logging.getLogger(__name__)

MODEL, ADAPTER = "model", "adapter"  # the folder that a run writes what it learned to
BEST = "best"  # the folder with such a folder in it, of what validated best


def trainable(backbone: Backbone, recipe: PolicyRecipe) -> Any:
    """The module to train: the model itself, or a `PeftModel` around it; the engine keeps using `backbone`.

    The model stays in evaluation mode, as dropout would make the ratio another than 1; with
    ``gradient_checkpointing`` its layers alone are in training mode, which is what makes them recompute activations.

    With LoRA the base keeps its dtype and the adapters learn in float32 beside it.

    Raises:
        ModelError: all weights are to learn and are not in float32, in which alone small updates are not lost; or they are
            quantised.
        OptionError: no linear layer is called as a target says.
    """
    model = backbone.model
    if quantised(model):
        raise ModelError("quantised weights cannot be trained, nor rolled out with an adapter beside them. Try: without "
                         "--quantize, in bfloat16")  # fmt: skip
    if not recipe.rank and backbone.dtype != torch.float32:
        raise ModelError(f"weights in {str(backbone.dtype).removeprefix('torch.')} would lose small updates. Try: float32 weights, "
                         "with --bf16 for the forward passes; or --rank N, whose adapters are in float32")  # fmt: skip
    if recipe.rank:
        names = linear_names(backbone, recipe.target_modules)
        if missed := left_out(model):
            log.info(missed)
        torch.manual_seed(recipe.seed)
        model = get_peft_model(model, LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, lora_dropout=0.0,
                                                 target_modules=names, task_type="CAUSAL_LM"))  # fmt: skip
        model.peft_config["default"].base_model_name_or_path = backbone.name
    else:
        model.requires_grad_(True)
    model.eval()
    backbone.kept["reads"] = reads(backbone)
    if recipe.gradient_checkpointing:
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def recompute(backbone: Backbone, on: bool) -> None:
    """Have the layers that can recompute their activations do so, or not, as the engine's cache needs."""
    for module in backbone.model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = on


def frozen(reference: Backbone | None) -> Any:
    """A second copy of a model, ready to read merged inputs; it never learns."""
    if reference is None:
        return None
    reads(reference)
    return reference.model


def save(backbone: Backbone, model: Any, out: Path, writes: bool) -> Path:
    """Write what was learned: a folder that `--model` takes, or, with LoRA, a PEFT adapter; returns it.

    All processes call it, as each may hold a shard of the weights, and one ``writes``.
    """
    folder, state = folder_of(model, out), full_state(model)
    if writes:
        with writing(folder):
            if folder.name == MODEL:
                model.save_pretrained(str(folder), state_dict=state)
                backbone.tokenizer.save_pretrained(folder)
            else:  # no embeddings are trained, and PEFT would ask the hub whether the vocabulary has grown
                model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
        seal(folder)
    return folder


def folder_of(model: Any, out: Path) -> Path:
    return out / (ADAPTER if isinstance(model, PeftModel) else MODEL)


def release(backbone: Backbone, model: Any, recipe: PolicyRecipe) -> None:
    """Leave the model as it was found, but for what it learned."""
    backbone.kept.pop("reads")()
    if recipe.gradient_checkpointing:
        backbone.model.gradient_checkpointing_disable()
    backbone.model.eval().requires_grad_(False)
    for name in ("fingerprint", "former_fingerprint"):
        vars(backbone).pop(name, None)  # computed anew when it is next asked for
