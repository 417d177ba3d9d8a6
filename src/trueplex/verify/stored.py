"""Stored traces as scorers get them, and where in them they are scored."""

from __future__ import annotations

import math

from trueplex.types import Trace

Stored = tuple[Trace, tuple[int, ...]]  # with the ids of its prompt


def tokens_at(length: int, share: float) -> int:
    """How many tokens the share of a trace is, at least one."""
    return max(1, math.ceil(share * length))
