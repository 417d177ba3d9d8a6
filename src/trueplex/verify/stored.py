"""Stored traces as scorers get them, and where in them they are scored."""

from __future__ import annotations

import math

from trueplex.types import Trace

Stored = tuple[Trace, tuple[int, ...]]  # with the ids of its prompt


def length(stored: Stored) -> int:
    """Tokens of the prompt and the trace together."""
    trace, prompt = stored
    return len(prompt) + trace.tokens


def tokens_at(tokens: int, share: float) -> int:
    """How many tokens the share of a trace is, at least one."""
    return max(1, math.ceil(share * tokens))
