"""Whether the Hugging Face hub can be reached: asked at once, before its libraries ask for half a minute."""

from __future__ import annotations

from huggingface_hub import constants
from huggingface_hub.utils import get_session

SECONDS = 5  # how long the hub may take to answer before the files at hand are all there is


def answers() -> bool:
    """Whether the hub answers now.

    Without a network every file that transformers or datasets look for takes half a minute of retries, and a warning each.
    """
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception:  # no network, no such name, a proxy that refuses, HF_HUB_OFFLINE: each library's own kind
        return False
    return True
