"""A request: a problem with options of its own; and what requests that are submitted together may spend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from trueplex.clock import now
from trueplex.decide.budget import Budget
from trueplex.decide.calibration import Calibration
from trueplex.engine.constraint import NewConstraint
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Prompt, Trace
from trueplex.verify.scorer import Scorer


class Account:
    """The budget that some requests share, and what they have spent of it.

    Attributes:
        spent: tokens and probe tokens of traces that have stopped.
        paths: traces that may still be started.
        deadline: the moment of `clock.now` at which they end; it is set when the first of them begins.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.spent = 0
        self.paths = budget.paths or math.inf
        self.deadline: float | None = None

    def begin(self) -> float:
        """The deadline, counted from the first call on."""
        if self.deadline is None:
            self.deadline = self.budget.deadline()
        return self.deadline

    @property
    def late(self) -> bool:
        return self.deadline is not None and now() >= self.deadline

    def take_paths(self, wanted: float) -> int:
        """As many of the wanted traces as may be started."""
        taken = int(min(wanted, self.paths))
        self.paths -= taken
        return taken


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A problem, how it is to be solved, and what was done of it before.

    Attributes:
        scorer: scores the traces; None leaves a plain majority.
        calibration: what makes a confidence of a vote. One of other runs counts for nothing.
        resumed: traces of an earlier run: stopped ones count as they are, suspended ones go on where they were.
        account: shared by requests that were submitted together; None gives the request its settings' whole budget.
        prompt: the prompt, where it was made already; None makes it of the problem in the model's own way.
        constraint: makes what the tokens of a path's answer must follow; None leaves them free.
    """

    problem: Problem
    settings: Settings = field(default_factory=Settings)
    scorer: Scorer | None = None
    calibration: Calibration | None = None
    resumed: Sequence[Trace] = ()
    account: Account | None = None
    prompt: Prompt | None = None
    constraint: NewConstraint | None = None
