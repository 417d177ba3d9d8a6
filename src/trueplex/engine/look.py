"""What scorers see of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from trueplex.engine.pooling import pooled_rows
from trueplex.types import Steps

if TYPE_CHECKING:
    from trueplex.engine.batch import Batch


class Look:
    """What scorers see: traces that run or have just stopped.

    Attributes:
        traces: those to score, in order.
        readings: what the last probe read of each [n] float64, None where none did.
    """

    def __init__(self, batch: Batch, rows: Sequence[int]) -> None:
        self._batch, self._rows = batch, rows
        traces = batch.traces + batch.stopped
        self.traces = [traces[row] for row in rows]
        readings = batch._readings[list(rows)] if len(batch._readings) == len(traces) else np.zeros(0)
        self.readings = readings if len(readings) and not np.isnan(readings).any() else None

    def pooled(self, layers: Sequence[int]) -> Tensor:
        """What each trace's values are as a whole in these layers, [n, layers · windows · heads · D] float32 (`engine.pooling`)."""
        return pooled_rows(self._batch._rows, self._rows, layers)

    def steps(self, since: Sequence[int] | None = None) -> Iterator[Steps]:
        """What each trace remembers, up to its last token; of each only from a step on, where those are given."""
        yield from self._batch.steps(self._rows, [trace.tokens for trace in self.traces], since)
