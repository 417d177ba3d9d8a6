"""What a whole run may spend: tokens, seconds and paths, as hard limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trueplex.clock import now
from trueplex.errors import OptionError


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a run; None is no limit.

    Attributes:
        tokens: thinking, answer and probe tokens of all traces. Prompt tokens are not counted.
        seconds: from the first token on. Traces that are still running then are truncated, and the vote counts what has
            finished.
        paths: traces of all problems together, in the order of the problems.

    Raises:
        OptionError: a limit is not positive.
    """

    tokens: int | None = None
    seconds: float | None = None
    paths: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "seconds", "paths"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"the budget of {name} is {value}. Try: a positive number")

    def stride(self, wanted: int, spent: int, rows: int, probe: int) -> int:
        """The largest stride up to `wanted` that `rows` traces can afford (with `probe` tokens of a probe each); 0 for none."""
        if self.tokens is None or not rows:
            return wanted
        left = (self.tokens - spent) // rows - probe
        return max(0, min(wanted, left))

    def deadline(self) -> float:
        """The time (`clock.now`) at which the run ends, if it starts now."""
        return now() + (self.seconds or math.inf)
