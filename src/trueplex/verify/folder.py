"""The folder of a verifier, in PEFT's format, and a card beside it.

``adapter_config.json`` and ``adapter_model.safetensors`` are what PEFT reads; the probe's token and head stand among
the saved modules as ``probe``. The card, ``verifier.json``, names the base model that the verifier belongs to.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trueplex.errors import VerifierError
from trueplex.files import write_json, write_text, write_with

WEIGHTS, CARD = "adapter_model.safetensors", "verifier.json"


@dataclass(frozen=True)
class Stored:
    """What a verifier's folder holds: its card, its weights in float32, and what of the card makes a verifier."""

    card: dict[str, Any]
    tensors: dict[str, Tensor]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    base: str
    probe: dict[str, Any]


def read(folder: Path) -> Stored:
    """Read a verifier's folder.

    Raises:
        VerifierError: there is no verifier there, it cannot be read, or its weights are not finite.
    """
    try:
        card = json.loads((folder / CARD).read_text())
        tensors = load_file(folder / WEIGHTS)
        stored = Stored(
            card, tensors, card["rank"], card["alpha"], tuple(card.get("targets", ())), card["base_fingerprint"],
            dict(card.get("probe", {})),
        )  # fmt: skip
        if type(stored.rank) is not int or stored.rank < 0 or not math.isfinite(stored.alpha):
            raise ValueError(f"{CARD} has rank {stored.rank!r} and alpha {stored.alpha!r}")
    except FileNotFoundError as error:
        raise VerifierError(f"{folder} is not a verifier: {Path(error.filename or '').name} is missing. "
                            "Try: give a folder that `trueplex train verifier` wrote") from error  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise VerifierError(f"the verifier in {folder} cannot be read: {error}. Try: copy or train it again") from error
    if name := not_finite(tensors):
        raise VerifierError(
            f"the verifier in {folder} has weights that are not finite ({name}). Try: copy or train it again"
        )
    return stored


def write(folder: Path, tensors: Mapping[str, Tensor], card: dict[str, Any]) -> None:
    """Write a verifier's folder: the weights and the card each appear whole or not at all.

    Raises:
        VerifierError: a weight is not finite; nothing is written then.
    """
    if name := not_finite(tensors):
        raise VerifierError(
            f"the verifier is not saved: its weights are not finite ({name}). Try: a lower learning rate"
        )
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in tensors.items()}
    write_with(folder / WEIGHTS, lambda file: save_file(kept, file, metadata={"format": "pt"}))
    LoraConfig(
        r=card["rank"] or 1, lora_alpha=card["alpha"], target_modules=list(card["targets"]), modules_to_save=["probe"],  # type: ignore[arg-type]
        task_type="CAUSAL_LM", base_model_name_or_path=card["base"], inference_mode=True,
    ).save_pretrained(str(folder))  # fmt: skip
    write_json(folder / CARD, card, indent=1)
    write_text(folder / "README.md", _readme(card))


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity, if any does."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)


def version(folder: Path) -> tuple[int, ...]:
    """Times of change [ns] and sizes [bytes] of a verifier's files: another version of it has others. Empty if one is missing."""
    try:
        found = [os.stat(folder / name) for name in (WEIGHTS, CARD)]
    except OSError:
        return ()
    return tuple(number for stat in found for number in (stat.st_mtime_ns, stat.st_size))


def _readme(card: dict[str, Any]) -> str:
    """The model card that the hub shows."""
    lines = ["---", "library_name: peft", f"base_model: {card['base']}", "tags: [trueplex, one-token-verification]", "---", "",
             f"# A One-Token verifier of {card['base']}", "",
             "A LoRA adapter and one probe token that read a running trace's KV cache and score it (arXiv 2603.01025). It loads only "
             f"onto the base model with fingerprint `{card['base_fingerprint']}`:", "",
             f"    trueplex solve PROBLEM --model {card['base']} --verifier THIS_FOLDER", ""]  # fmt: skip
    if "validation" in card:
        lines += [
            f"Trained on {card['traces']} traces ({card['data'] or 'unnamed'}), rank {card['rank']}. On validation problems:",
            "",
        ]
        lines += [f"- {name}: {value:.3f}" for name, value in card["validation"].items()]
    return "\n".join(lines) + "\n"
