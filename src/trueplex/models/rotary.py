"""Up to which position a row's rotary frequencies are its own.

The kinds ``dynamic`` and ``longrope`` choose the frequencies of all rows by the longest one: what stands in the batch beside a
trace would change it, and keys that are cached already would keep the old ones. Up to the length that such a model was first
trained on the frequencies are fixed, so its traces end there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

log = logging.getLogger(__name__)

CHANGING = ("dynamic", "longrope")
BESIDE = 16  # positions behind a trace's end that a probe may stand at


def fixed_positions(config: Any) -> int | None:
    """The positions that a trace may have; None where the frequencies are fixed for good."""
    lengths = [length for kind, length in _kinds(config) if kind in CHANGING]
    return min(lengths) - BESIDE if lengths else None


def _kinds(config: Any) -> Iterator[tuple[str, int]]:
    """Kind and trained length of the rotary embeddings, of every kind of layer where these have their own."""
    given = getattr(config, "rope_parameters", None) or {}
    for parameters in given.values() if all(isinstance(p, dict) for p in given.values()) else [given]:
        trained = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
        yield parameters.get("rope_type", "default"), trained


def tell(config: Any, name: str) -> None:
    """Say it where a model's traces end early."""
    if (most := fixed_positions(config)) is not None and most + BESIDE < config.max_position_embeddings:
        log.warning(f"{name} changes its rotary frequencies with the longest row of a batch: prompt and path together end at {most:,} "
                    f"tokens, up to which they are fixed, and not at {config.max_position_embeddings:,}")  # fmt: skip
