"""What is known of a trace for nothing: numbers that its steps remember anyway."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trueplex.errors import OptionError
from trueplex.types import Steps

RECENT = 16  # tokens

FREE: dict[str, Callable[[Steps, int], float]] = {
    "logprob": lambda steps, n: float(steps.logps[:n, 0].mean()),
    "least logprob": lambda steps, n: float(steps.logps[:n, 0].min()),
    "entropy": lambda steps, n: float(steps.entropy[:n].mean()),
    "recent entropy": lambda steps, n: float(steps.entropy[max(0, n - RECENT) : n].mean()),
    "highest entropy": lambda steps, n: float(steps.entropy[:n].max()),
    "confidence": lambda steps, n: float(steps.confidence[:n].mean()),
    "explored": lambda steps, n: float(1 - steps.consensus[:n].mean()),
    "length": lambda steps, n: math.log1p(n),
}
"""Features by name: functions of a trace's first n steps."""


def check_free(names: Sequence[str]) -> None:
    """Raise OptionError for a feature that there is not, or that is named twice."""
    if unknown := [name for name in names if name not in FREE]:
        raise OptionError(f"unknown feature {unknown[0]!r}. Try: some of {', '.join(FREE)}")
    if len(set(names)) < len(names):
        raise OptionError(f"features names one twice ({', '.join(names)}). Try: each once")


def free(names: Sequence[str], steps: Steps, tokens: int) -> list[float]:
    """The features of a trace's first tokens, of which there is at least one, in the order of ``names``."""
    return [FREE[name](steps, tokens) for name in names]
