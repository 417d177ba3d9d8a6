"""The folder of a verifier, in PEFT's format, and a card beside it.

``adapter_config.json`` and ``adapter_model.safetensors`` are what PEFT reads; the probe's token and head stand among
the saved modules as ``probe``. The card, ``verifier.json``, names the base model that the verifier belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trueplex.errors import VerifierError, reason
from trueplex.files import read_json, write_json, write_text, write_with, writing
from trueplex.models.fingerprint import fingerprint_of

WEIGHTS, CARD = "adapter_model.safetensors", "verifier.json"


@dataclass(frozen=True)
class Card:
    """What of ``verifier.json`` makes a verifier. ``weights`` names the values of its tensors; version 0.2 had no such name."""

    rank: int
    alpha: float
    base_fingerprint: str
    base: str = ""
    targets: tuple[str, ...] = ()
    weights: str | None = None
    probe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError("the rank is negative")


@dataclass(frozen=True)
class Stored:
    """What a verifier's folder holds: all of its card, what of it makes a verifier, and its weights in float32."""

    told: dict[str, Any]
    card: Card
    tensors: dict[str, Tensor]


def read(folder: Path) -> Stored:
    """Read a verifier's folder.

    Raises:
        VerifierError: there is no verifier there, it cannot be read, was changed, or its weights are not finite.
    """
    missing = next((name for name in (CARD, WEIGHTS) if not os.path.isfile(folder / name)), None)
    if missing is not None:
        raise VerifierError(f"{folder} is not a verifier: {missing} is missing. "
                            "Try: give a folder that `trueplex train verifier` wrote")  # fmt: skip
    try:
        told, card = read_json(folder / CARD, dict[str, Any]), read_json(folder / CARD, Card)
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:  # a StoreError is an OSError
        raise VerifierError(
            f"the verifier in {folder} cannot be read: {reason(error)}. Try: copy or train it again"
        ) from error
    if name := not_finite(tensors):
        raise VerifierError(
            f"the verifier in {folder} has weights that are not finite ({name}). Try: copy or train it again"
        )
    if card.weights is not None and card.weights != fingerprint_of(tensors):
        raise VerifierError(f"the weights of the verifier in {folder} are not those that its {CARD} was written for. "
                            "Try: copy or train it again")  # fmt: skip
    return Stored(told, card, tensors)


def write(folder: Path, tensors: Mapping[str, Tensor], card: dict[str, Any]) -> None:
    """Write a verifier's folder: the weights and the card each appear whole or not at all.

    Raises:
        VerifierError: a weight is not finite; nothing is written then.
    """
    if name := not_finite(tensors):
        raise VerifierError(
            f"the verifier is not saved: its weights are not finite ({name}). Try: a lower learning rate"
        )
    kept = {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in tensors.items()}
    write_with(folder / WEIGHTS, lambda file: save_file(kept, file, metadata={"format": "pt"}))
    config = LoraConfig(
        r=card["rank"] or 1, lora_alpha=card["alpha"], target_modules=list(card["targets"]), modules_to_save=["probe"],  # type: ignore[arg-type]
        task_type="CAUSAL_LM", base_model_name_or_path=card["base"], inference_mode=True,
    )  # fmt: skip
    with writing(folder):
        config.save_pretrained(str(folder))
    write_json(folder / CARD, card | {"weights": fingerprint_of(kept)}, indent=1)
    write_text(folder / "README.md", _readme(card))


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that holds NaN or infinity, if any does."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)


def version(folder: Path, names: Sequence[str] = (WEIGHTS, CARD)) -> tuple[int, ...]:
    """Times of change [ns] and sizes [bytes] of a verifier's files: another version of it has others. Empty if one is missing."""
    try:
        found = [os.stat(folder / name) for name in names]
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
