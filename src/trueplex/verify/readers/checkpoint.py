"""Reward models as files: plain Hugging Face checkpoints, loaded without remote code.

Where a published model brings code of its own, only its weights are read, and the head is built here (see `forms`
for what each model is shown). A folder that `trueplex train reward` wrote has a card, ``reward.json``, that says how
texts were separated into steps.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer

from trueplex.checksums import check_seal
from trueplex.errors import OptionError, VerifierError, reason
from trueplex.files import read_json
from trueplex.models.fingerprint import weight_files
from trueplex.models.load import (
    GGUF,
    default_device,
    loading,
    locate,
    missing_weights,
    reading,
    unmark_gguf,
    unreported,
    weights_only,
)
from trueplex.models.precision import resolve_dtype
from trueplex.verify.readers.transcript import separator

CARD = "reward.json"
NAMES = {"outcome": "orm:{}", "process": "prm:math-shepherd:{}", "generative": "genrm:{}"}  # of models trained here


def card_of(name: str, kind: str, form: str | None = None) -> dict[str, Any] | None:
    """The card of a reward model that trueplex trained; None for any other.

    Raises:
        VerifierError: it is of another kind or form, or its card cannot be read.
    """
    path = Path(os.path.expanduser(name)) / CARD
    if not os.path.isfile(path):
        return None
    try:
        card = read_json(path, dict[str, Any])
        own, right = NAMES[card["kind"]].format(name), (card["kind"], card.get("form")) == (kind, form)
        if kind == "process" and right:
            separator(card["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OptionError) as error:
        raise VerifierError(
            f"the card of the reward model in {name} cannot be read: {reason(error)}. Try: copy or train it again"
        ) from error
    if not right:
        raise VerifierError(f"{name} is another reward model. Try: {own}")
    return card


def load(kind: Any, name: str, device: str | None, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer, from safetensors or GGUF only and without remote code.

    Raises:
        ModelError: it cannot be loaded.
        VerifierError: the checkpoint lacks weights of the model, such as its head.
        StoreError: a file does not match the checksums beside it.
    """
    path, device = locate(name), device or default_device()
    check_seal(Path(path))
    with loading(f"reward model {name!r}"):
        found = reading(path)
        with unreported():
            model, report = kind.from_pretrained(
                dtype=torch.float32 if device == "cpu" else resolve_dtype(None, device),
                output_loading_info=True,
                **weights_only(found),
                **options,
            )
        unmark_gguf(model)
        tokenizer = AutoTokenizer.from_pretrained(trust_remote_code=False, **found)
    if wrong := missing_weights(report):
        raise VerifierError(
            f"{name} has no weights for {wrong}, so it is not a reward model of this kind. Try: check its kind"
        )
    return model.to(device).eval().requires_grad_(False), tokenizer


def read_weights(name: str, prefix: str, module: nn.Module) -> None:
    """Fill a head from the tensors of a checkpoint whose names begin with ``prefix``.

    Raises:
        VerifierError: the checkpoint has no such head.
    """
    path = locate(name)
    if path.endswith(GGUF):
        raise VerifierError(f"{name} is a GGUF file, which has no head {prefix}. Try: the model's safetensors")
    found: dict[str, Tensor] = {}
    for file in weight_files(path):
        with safe_open(file, "pt") as tensors:
            found |= {key[len(prefix) :]: tensors.get_tensor(key) for key in tensors.keys() if key.startswith(prefix)}  # noqa: SIM118
    own = module.state_dict()
    if found.keys() != own.keys() or any(found[key].shape != own[key].shape for key in own):
        raise VerifierError(f"{name} has no head {prefix}{'|'.join(own)} of the right shape. Try: name the form that it was "
                            "trained in")  # fmt: skip
    module.load_state_dict(found)
