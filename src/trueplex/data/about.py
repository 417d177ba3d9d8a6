"""What a store of traces says of where it comes from: the model's name and the problems' order, kept beside it.

A folder of rollouts has its manifest; a file that `solve --save` writes has ``NAME.about.json``. Neither is needed to read it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trueplex.errors import StoreError, reason
from trueplex.files import is_special, read_json, write_json

log = logging.getLogger(__name__)

MANIFEST = "rollout.json"  # of a folder of rollouts


@dataclass(frozen=True, slots=True)
class About:
    """The model's name, None where it is not known, and the keys of the problems in the order of their file."""

    model: str | None = None
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Noted:
    """The file beside a store."""

    model: str
    problems: list[int]


@dataclass(frozen=True)
class _Config:
    """What is read here of the options in a manifest."""

    model: str


@dataclass(frozen=True)
class _Manifest:
    """What is read here of a folder's manifest."""

    config: _Config
    problems: list[int]


def _beside(path: Path) -> Path:
    return Path(f"{path}.about.json")  # the root has no name, and so no `with_name`


def note(path: Path, model: str, keys: Sequence[int]) -> None:
    """Keep it beside the store; problems of earlier runs stand first. A file that cannot be written beside it is left out."""
    if is_special(path):
        return
    order = list(dict.fromkeys((*about(path).order, *keys)))
    with contextlib.suppress(StoreError):
        write_json(_beside(path), {"model": model, "problems": order})


def about(path: Path) -> About:
    """What is known of a store, be it a file or a folder of rollouts; nothing, and a warning, where that cannot be read."""
    manifest = (path if path.is_dir() else path.parent) / MANIFEST
    try:
        if _beside(path).exists():
            noted = read_json(_beside(path), _Noted)
            return About(noted.model, tuple(noted.problems))
        if manifest.exists() and (path.is_dir() or path.name == "traces.arrow"):
            told = read_json(manifest, _Manifest)
            return About(told.config.model, tuple(told.problems))
    except StoreError as error:
        log.warning(f"{reason(error)}; problems are in the order of their traces")
    except OSError:  # a name that no file can have: whoever reads the store says so
        pass
    return About()
