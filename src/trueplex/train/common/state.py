"""Reading what an earlier run left: JSON, lines of JSON, weights and checkpoints, each checked before it is believed.

What a kill can leave (a last line that was cut off, a checkpoint without its end) is passed over; what only damage can
leave is one line of StoreError, or for a checkpoint a warning and the one before it.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME

from trueplex.errors import StoreError, reason

log = logging.getLogger(__name__)

NUMBER = (int, float)
Fields = Mapping[str, Any]  # name → type or types, as isinstance takes them


def damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"cannot read {path} ({why}). Try: restore it, or start anew in another folder")


def read_object(path: Path, fields: Fields | None = None) -> dict[str, Any]:
    """The JSON object in a file that has at least these fields. Raises StoreError."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"not valid JSON: {reason(error)}") from error
    return _checked(path, found, fields or {})


def read_lines(path: Path, fields: Fields | None = None) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, each with a whole number ``step`` and these fields; a cut-off last line is left out.

    Raises:
        StoreError: another line is damaged, or a field is missing.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise damaged(path, reason(error)) from error
    rows = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                break  # a kill cut it off
            raise damaged(path, f"line {number} is not valid JSON") from error
        rows.append(_checked(path, found, {"step": int, **(fields or {})}, f"line {number} "))
    return rows


def _checked(path: Path, found: Any, fields: Fields, where: str = "") -> dict[str, Any]:
    if not isinstance(found, dict):
        raise damaged(path, f"{where}is not a JSON object".strip())
    for name, kind in fields.items():
        if name not in found or not isinstance(found[name], kind) or isinstance(found[name], bool):
            raise damaged(path, f"{where}has no valid {name!r}")
    return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises StoreError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, reason(error)) from error


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; None where there is none.

    transformers writes its state last, so one without it was cut off by a kill. One with damaged files is told by a
    warning, and the one before it is taken.
    """
    found: dict[int, Path] = {}
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
            found[int(state["global_step"])] = checkpoint
        except (OSError, ValueError, KeyError, TypeError):
            log.warning(f"{checkpoint} is not complete; it is passed over")
    for step in sorted(found, reverse=True):
        why = damage(found[step])
        if why is None:
            return str(found[step])
        log.warning(
            f"{found[step]} is damaged ({why}); taking the checkpoint before it, or starting from the beginning"
        )
    return None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None if nothing is."""
    names = [path.name for path in checkpoint.iterdir()]
    for part in ("optimizer", "scheduler", "rng_state"):
        if not any(name.startswith(part) for name in names):
            return f"it has no {part}"
    if not any("model" in name for name in names):
        return "it has no weights"
    for path in sorted(p for p in checkpoint.rglob("*") if p.is_file()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        return f"{path.name} has a wrong checksum"
        except (OSError, SafetensorError, zipfile.BadZipFile, EOFError) as error:
            return f"{path.name}: {reason(error)}"
    return None
