"""The Hugging Face hub: what a name on it looks like, whether it can be reached, and a folder of weights from it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import get_session

from trueplex.errors import TrueplexError, reason

VERIFIER = [
    "verifier.json",
    "adapter_model.safetensors",
    "adapter_config.json",
    "calibration.json",
    "combined.json",
    "linear.json",
    "linear.safetensors",
    "README.md",
]
SECONDS = 5  # how long the hub may take to answer before the files at hand are all there is


@lru_cache(maxsize=1)
def answers() -> bool:
    """Whether the hub answers: asked once a process, before its libraries ask for half a minute.

    Without a network every file that transformers or datasets look for takes half a minute of retries, and a warning each.
    """
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # no network, no such name, a proxy that refuses, HF_HUB_OFFLINE: each library's own kind
        return False
    return True


def is_id(name: str) -> bool:
    """Whether a name has the form OWNER/NAME."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def fetched(name: str, wrong: type[TrueplexError]) -> Path:
    """The folder of a verifier's weights and cards, which are all that is fetched; raises `wrong` when it cannot be had."""
    try:
        return Path(snapshot_download(name, allow_patterns=VERIFIER, local_files_only=not answers()))
    except Exception as error:  # no such repository, no network and nothing at hand: the library raises many kinds
        raise wrong(
            f"{name!r} is no folder, and cannot be had from the hub ({reason(error).split('. ')[0][:200]}). Try: check the spelling and the network"
        ) from error
