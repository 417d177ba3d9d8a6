"""The rows of a batch in plain numbers: what each one's trace may still do, and who waits for a row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trueplex.engine.limits import Ending
from trueplex.types import Prompt, Trace


@dataclass(slots=True)
class Group:
    """A problem's traces that wait for rows: new ones, and ones that were begun, whose steps are read again."""

    prompt: Prompt
    traces: list[Trace]

    def __post_init__(self) -> None:
        self.traces.sort(key=lambda t: t.steps is not None)  # new ones share the prompt's rows

    def split(self, count: int) -> Group:
        """Take out the first `count` traces."""
        entering, self.traces = self.traces[:count], self.traces[count:]
        return Group(self.prompt, entering)


class Rows:
    """What is known of every row besides tensors; arrays of one entry a row.

    Attributes:
        keys: the names of the traces' randomness.
        lengths: columns of the cache that count.
        tokens: steps so far.
        limits, budgets: the step at which the trace ends, and at which its thinking is closed.
        cold: steps of low entropy in a row.
        deadlines: moments of `time.monotonic`.
        answering: whether thinking is closed.
    """

    def __init__(self, count: int) -> None:
        self.keys = np.zeros(count, dtype=np.uint64)
        self.lengths, self.tokens, self.limits, self.budgets, self.cold = np.zeros((5, count), dtype=np.int64)
        self.deadlines = np.zeros(count)
        self.answering = np.zeros(count, dtype=bool)

    def seat(self, row: int, key: int, prompt_tokens: int, trace: Trace, rules: Ending, room: int, most: int,
             deadline: float) -> None:  # fmt: skip
        """Give a row to a trace, new or begun; `room` is what the model has left of positions, `most` its own limit."""
        limits, budgets = rules.limits(np.array([room]), most)
        self.keys[row], self.lengths[row] = key, prompt_tokens + trace.tokens
        self.tokens[row], self.limits[row], self.budgets[row] = trace.tokens, limits[0], budgets[0]
        self.deadlines[row] = min(deadline, time.monotonic() + (rules.max_seconds or float("inf")))
        self.answering[row] = bool(trace.closing)
        self.cold[row] = 0 if trace.steps is None else rules.cold_run(trace.steps.entropy)

    def swap(self, rows: Sequence[int], sources: Sequence[int]) -> None:
        """The rows take what is known of the sources, the same rows in another order."""
        for column in (self.keys, self.lengths, self.tokens, self.limits, self.budgets, self.cold, self.deadlines,
                       self.answering):  # fmt: skip
            column[rows] = column[sources]
