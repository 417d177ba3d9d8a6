"""Pseudo-labels: what a probe in the midst of a trace is told, when only the trace's end is known.

A kind is a function of progress in [0, 1], 0 at the first generated token and 1 at the last; the label is
0.5 ± half of it, for a right or a wrong trace. ``monte-carlo`` is no such guess: it was measured, by letting the
model continue prefixes of the trace (see `values`), and is interpolated between them; ``measured`` is the same where a
trace was valued, and the ramp where it was not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trueplex.errors import OptionError

POWER = 2.0
MONTE_CARLO, MEASURED = "monte-carlo", "measured"

KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ramp": lambda progress: progress,  # the paper's: linear
    "constant": lambda progress: np.ones_like(progress),  # the outcome at every token
    "final": lambda progress: np.ones_like(progress),  # the outcome, asked at the last token alone
    "power": lambda progress: progress**POWER,  # as the ramp, but later
}


def known(kind: str) -> None:
    """Raise OptionError for a kind that there is not."""
    if kind not in (*KINDS, MONTE_CARLO, MEASURED):
        raise OptionError(f"unknown labels {kind!r}. Try: one of {', '.join(KINDS)}, {MONTE_CARLO}, {MEASURED}")


def labels(
    kind: str, length: int, positions: np.ndarray, correct: bool, values: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Labels [M] float32 in [0, 1] at token positions 0 … length − 1 of a trace (arXiv 2603.01025 for ``ramp``).

    ``values`` are numbers of tokens [V], rising, and what the trace was worth behind them [V].
    """
    if kind == MONTE_CARLO or (kind == MEASURED and values is not None):
        assert values is not None, "a trace without values has no such labels"
        tokens, worth = values
        return np.interp(positions + 1, tokens, worth).astype(np.float32)
    certain = KINDS["ramp" if kind == MEASURED else kind](positions / max(1, length - 1))
    return (0.5 + (0.5 if correct else -0.5) * certain).astype(np.float32)
