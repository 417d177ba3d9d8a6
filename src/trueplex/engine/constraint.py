"""What the tokens of an answer must be, where a request says so: a hook before the draw. Thinking is never constrained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from trueplex.engine.distribution import HIDDEN
from trueplex.models.markers import Markers
from trueplex.types import Trace

if TYPE_CHECKING:
    from trueplex.engine.slots import Slots


class Constraint(Protocol):
    """The state of one trace's answer: which tokens may come next."""

    def mask(self, logits: Tensor) -> None:
        """Set the logits [V] float32 of what may not come next to −inf, in place; some token is always left."""

    def take(self, token: int) -> None:
        """The answer goes on with this token."""


NewConstraint = Callable[[], Constraint]


class Constraints:
    """The constraints of the running traces of a batch. A model without tags answers from its first token on."""

    def __init__(self, markers: Markers | None) -> None:
        self._markers = markers
        self._of: dict[int, Constraint] = {}

    def add(self, trace: Trace, new: NewConstraint | None, waiting: bool) -> None:
        """Constrain a trace from here on. One that was suspended has written a part of its answer already."""
        if new is None:
            return
        self._of[id(trace)] = constraint = new()
        if trace.steps is not None and not waiting:
            first = trace.thinking_tokens if self._markers and trace.closing != "prompt" else 0
            for token in trace.steps.ids[first:, 0] if trace.closing or not self._markers else ():
                constraint.take(int(token))

    def drop(self, traces: Sequence[Trace]) -> None:
        for trace in traces:
            self._of.pop(id(trace), None)

    def rows(self, traces: Sequence[Trace], slots: Slots) -> Mapping[int, Constraint]:
        """The constraints that act in the next step, by row."""
        if not self._of:
            return {}
        free = self._markers is not None
        return {
            row: self._of[id(trace)]
            for row, trace in enumerate(traces)
            if id(trace) in self._of and not (free and not slots.answering[row])
        }

    def masked(self, logits: Tensor, rows: Mapping[int, Constraint], slots: Slots) -> Tensor:
        """A copy of the logits [B, V] without what may not come next. The model may still open its thinking instead."""
        logits = logits.clone()
        for row, constraint in rows.items():
            openers = (
                [s[0] for s in self._markers.start]
                if self._markers and slots.waiting[row] and not slots.tokens[row]
                else []
            )
            kept = logits[row, openers].clone()
            constraint.mask(logits[row])
            logits[row, openers] = kept
        return logits.clamp_(min=HIDDEN)  # finite, so that entropies are

    def take(self, rows: Mapping[int, Constraint], emitted: np.ndarray, opened: np.ndarray) -> None:
        """Tell the constraints which tokens [B] were drawn; one that opened the thinking is no answer."""
        for row, constraint in rows.items():
            if not opened[row]:
                constraint.take(int(emitted[row]))
