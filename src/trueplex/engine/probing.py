"""What the engine asks of a probe: input columns that read a trace's KV and leave nothing behind."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor


class ProbeColumn(Protocol):
    """M query columns behind each trace's token; each sees those before it."""

    @property
    def embeddings(self) -> Tensor:
        """The probe's input embeddings, [M, H]."""

    def probing(self, columns: int) -> AbstractContextManager[None]:
        """What must hold in the model while the last `columns` query columns are probes."""

    def read(self, hidden: Tensor) -> Tensor:
        """Final hidden states [B, M, H] of the probe's columns → readings [B]."""
