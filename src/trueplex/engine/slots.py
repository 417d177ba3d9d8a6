"""The rows of a batch in plain numbers: what each one's trace may still do, and who waits for a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trueplex.clock import now
from trueplex.engine.constraint import NewConstraint
from trueplex.engine.limits import Ending
from trueplex.engine.random import trace_key
from trueplex.engine.thinking import Thinking
from trueplex.models.markers import Markers
from trueplex.types import Prompt, Trace


@dataclass(slots=True, frozen=True)
class Limits:
    """What the model allows any trace: its positions, and the tokens of one trace where nobody says otherwise."""

    positions: int
    tokens: int


@dataclass(slots=True)
class Entry:
    """Traces of one request that wait for rows: new ones, and suspended ones, whose steps are read again.

    Attributes:
        request: the id of the request; equal problems may be two requests.
        together: all of them enter at once or none does, as they are compared with each other.
        deadline: the moment of `clock.now` at which they are truncated.
        suspended: whether they ran before, until the memory did not suffice.
        constraint: makes what the answer of each of them must follow; None leaves it free.
    """

    request: int
    prompt: Prompt
    thinking: Thinking
    traces: list[Trace]
    together: bool = True
    deadline: float = math.inf
    suspended: bool = False
    constraint: NewConstraint | None = None

    def __post_init__(self) -> None:
        self.traces.sort(key=lambda t: t.steps is not None)  # new ones share the prompt's rows

    def split(self, count: int) -> Entry:
        """Take out the first `count` traces."""
        entering, self.traces = self.traces[:count], self.traces[count:]
        return replace(self, traces=entering)


class Slots:
    """What is known of every row besides tensors; arrays of one entry a row.

    Attributes:
        places: where their histories are.
        entered: the number of their entrance: the youngest has the highest.
        entries: the `Entry` that each came with, as it was split.
        options: which of the batch's thinking options a row follows (`Sampler.options`).
        keys: the names of the traces' randomness.
        prompts: tokens of the prompt.
        lengths: columns of the cache that count.
        tokens: steps so far.
        limits, budgets: the step at which the trace ends, and at which its thinking is closed.
        cold: steps of low entropy in a row; cold_entropy, cold_steps: below which, and how many close the thinking.
        deadlines: moments of `clock.now`.
        answering: whether thinking is closed, or was not opened.
        waiting: whether the model may still open it.
        recent: the last emitted ids, as many as the longest marker has; −1 before the first.
        written: how many ids of a closing marker are written already, of more than one.
        cooled: whether a cold stop is what writes them.
        version: counts the changes of which row belongs to whom and in which phase it is.
    """

    def __init__(self, markers: Markers | None) -> None:
        self.markers = markers
        self.count = self.version = self._entrances = 0
        self.options, self.prompts, self.lengths, self.tokens = (_none(np.int64) for _ in range(4))
        self.places, self.entered, self.entries = _none(np.int64), _none(np.int64), _none(object)
        self.limits, self.budgets, self.cold, self.cold_steps = (_none(np.int64) for _ in range(4))
        self.cold_entropy, self.deadlines = _none(np.float64), _none(np.float64)
        self.keys, self.written = _none(np.uint64), _none(np.int64)
        self.answering, self.waiting, self.cooled = _none(np.bool_), _none(np.bool_), _none(np.bool_)
        self.recent = np.zeros((0, markers.longest if markers else 1), dtype=np.int64)

    def _columns(self) -> dict[str, np.ndarray]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def reserve(self, rows: int) -> None:
        """Have at least so many rows."""
        if rows > self.count:
            for name, column in self._columns().items():
                setattr(
                    self,
                    name,
                    np.concatenate([column, np.zeros((rows - self.count, *column.shape[1:]), dtype=column.dtype)]),
                )
            self.count = rows

    def assign(self, row: int, entry: Entry, trace: Trace, option: int, limits: Limits) -> None:
        """Give a row to a trace, new or suspended."""
        rules, prompt = entry.thinking.ending, len(entry.prompt.ids)
        remaining = limits.positions - 1 - prompt
        most, closes = rules.limits(np.array([remaining]), limits.tokens)
        self.options[row] = option
        self.entered[row], self.entries[row] = self._entrances, entry
        self._entrances += 1
        self.keys[row] = trace_key(trace.seed, entry.prompt.problem.key, trace.index)
        self.prompts[row], self.lengths[row], self.tokens[row] = prompt, prompt + trace.tokens, trace.tokens
        self.limits[row], self.budgets[row] = most[0], closes[0]
        self.deadlines[row] = min(entry.deadline, now() + (rules.max_seconds or math.inf))
        self.cold_entropy[row] = -math.inf if rules.cold_entropy is None else rules.cold_entropy
        self.cold_steps[row] = rules.most_cold_steps
        self._place(row, entry.prompt, trace, rules)
        self.version += 1

    def _place(self, row: int, prompt: Prompt, trace: Trace, rules: Ending) -> None:
        """Where the trace stands: whether it thinks, and what the rules that close its thinking have counted."""
        if prompt.thinking == "closed" and self.markers:
            trace.closing = "prompt"
        ids = np.zeros(0, dtype=np.int64) if trace.steps is None else trace.steps.ids[:, 0].astype(np.int64)
        unopened = prompt.thinking == "model" and self.markers is not None and not self.markers.opened(ids.tolist())
        self.answering[row] = bool(trace.closing) or unopened
        self.waiting[row] = unopened and not trace.closing
        self.recent[row] = -1
        if len(ids):
            tail = ids[-self.recent.shape[1] :]
            self.recent[row, -len(tail) :] = tail
        self.cold[row] = 0 if trace.steps is None else rules.cold_run(trace.steps.entropy)
        self.written[row], self.cooled[row] = 0, False
        if trace.steps is not None and self.markers and not self.answering[row]:
            self._resume_closing(row, ids, trace.steps.entropy, rules)

    def _resume_closing(self, row: int, ids: np.ndarray, entropy: np.ndarray, rules: Ending) -> None:
        """A trace that was suspended while a marker of several ids was being written goes on writing it."""
        assert self.markers is not None
        end = self.markers.end[0]
        for written in range(len(end) - 1, 0, -1):
            before = len(ids) - written
            cooled = rules.cold_run(entropy[: before + 1]) >= rules.most_cold_steps
            if (
                before >= 0
                and tuple(ids[before:]) == end[:written]
                and (cooled or before + len(end) >= self.budgets[row])
            ):
                self.written[row], self.cooled[row] = written, cooled
                return

    def turn(self, closed: np.ndarray, opened: np.ndarray) -> None:
        """Rows [B] bool begin to answer, and others to think."""
        if closed.any() or opened.any():
            n = len(closed)
            self.answering[:n] = (self.answering[:n] | closed) & ~opened
            self.waiting[:n] &= ~opened
            self.version += 1

    def emit(self, ids: np.ndarray) -> np.ndarray:
        """Remember the emitted ids [B]; returns the last ones of every row [B, L]."""
        recent = self.recent[: len(ids)]
        recent[:, :-1] = recent[:, 1:]
        recent[:, -1] = ids
        return recent

    def cool(self, entropy: np.ndarray) -> np.ndarray:
        """Count the steps of low entropy [B] in nats, and tell which rows have had enough of them."""
        n = len(entropy)
        self.cold[:n] = np.where(entropy < self.cold_entropy[:n], self.cold[:n] + 1, 0)
        return self.cold[:n] >= self.cold_steps[:n]

    def reorder(self, order: Sequence[int]) -> None:
        """The first rows become these."""
        for column in self._columns().values():
            column[: len(order)] = column[list(order)]
        self.version += 1


def _none(dtype: type) -> np.ndarray:
    return np.zeros(0, dtype=dtype)
