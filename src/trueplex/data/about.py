"""What a store of traces says of where it comes from: the model's name and the problems' order, kept beside it.

A folder of rollouts has its manifest; a file that `solve --save` writes has ``NAME.about.json``. Neither is needed to read it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trueplex.errors import StoreError
from trueplex.files import is_special, write_json

MANIFEST = "rollout.json"  # of a folder of rollouts


@dataclass(frozen=True, slots=True)
class About:
    """The model's name, None where it is not known, and the keys of the problems in the order of their file."""

    model: str | None = None
    order: tuple[int, ...] = ()


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".about.json")


def note(path: Path, model: str, keys: Sequence[int]) -> None:
    """Keep it beside the store; problems of earlier runs stand first. A file that cannot be written beside it is left out."""
    if is_special(path):
        return
    order = list(dict.fromkeys((*about(path).order, *keys)))
    with contextlib.suppress(StoreError):
        write_json(_beside(path), {"model": model, "problems": order})


def about(path: Path) -> About:
    """What is known of a store, be it a file or a folder of rollouts."""
    manifest = (path if path.is_dir() else path.parent) / MANIFEST
    try:
        if _beside(path).exists():
            told = json.loads(_beside(path).read_text())
            return About(told["model"], tuple(told["problems"]))
        if manifest.exists() and (path.is_dir() or path.name == "traces.arrow"):
            told = json.loads(manifest.read_text())
            return About(told["config"]["model"], tuple(told["problems"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it only helps to find things
    return About()
