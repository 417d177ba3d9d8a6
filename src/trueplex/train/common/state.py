"""Reading what an earlier run left: JSON, lines of JSON, weights and checkpoints, each checked before it is believed.

What a kill can leave (a last line that was cut off, a checkpoint without its end) is passed over; what only damage can
leave is one line of StoreError, or for a checkpoint a warning and the one before it.
"""

from __future__ import annotations

import json
import logging
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME

from trueplex.checksums import check_seal, seal
from trueplex.errors import StoreError, reason
from trueplex.files import damaged, parsed, read_json, write_with
from trueplex.models.fingerprint import fingerprint_of
from trueplex.stamps import CHECKSUM, stamped

log = logging.getLogger(__name__)

NUMBER = (int, float)
Fields = Mapping[str, Any]  # name → type or types, as isinstance takes them


@dataclass(frozen=True)
class TrainerState:
    """What is read of transformers' ``trainer_state.json``."""

    global_step: int
    max_steps: int = 0


def as_line(row: dict[str, Any]) -> str:
    """A row of a file of JSON lines, with its checksum; None for NaN and infinities, which JSON does not have."""
    return json.dumps(stamped(_finite(row))) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
    *lines, tail = text.split("\n")
    if tail:
        log.warning(f"{path}: its last line was cut off, and is left out")
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        row = parsed(line, dict[str, Any], where)
        for name, kind in {"step": int, **(fields or {})}.items():
            if name not in row or not isinstance(row[name], kind) or isinstance(row[name], bool):
                raise damaged(where, f"it has no valid {name!r}")
        rows.append(row)
    return rows


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, with a checksum of their values. Raises StoreError as `files.write_with`."""
    write_with(path, lambda file: save_file(dict(state), file, {CHECKSUM: fingerprint_of(state)}))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises StoreError."""
    try:
        with safe_open(path, framework="pt") as file:
            told, state = (file.metadata() or {}).get(CHECKSUM), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise damaged(path, reason(error)) from error
    if told is not None and told != fingerprint_of(state):
        raise damaged(path, "its checksum does not match its contents")
    return state


def seal_checkpoint(folder: Path, step: int) -> None:
    """Write the checksums of a checkpoint that transformers has just written; other processes may still write theirs."""
    seal(folder / f"checkpoint-{step}", without=("rng_state_*",))


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole; None where there is none.

    transformers writes its state last, so one without it was cut off by a kill. One with damaged files is told by a
    warning, and the one before it is taken.
    """
    found: dict[int, Path] = {}
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            found[read_json(checkpoint / TRAINER_STATE_NAME, TrainerState).global_step] = checkpoint
        except StoreError:
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
    try:
        check_seal(checkpoint)
    except StoreError as error:
        return reason(error)
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
