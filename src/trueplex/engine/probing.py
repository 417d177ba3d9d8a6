"""What the engine asks of a probe: an input column that reads a trace's KV and leaves nothing behind."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor


class ProbeColumn(Protocol):
    """A query column beside each trace's token, or alone behind it."""

    @property
    def embedding(self) -> Tensor:
        """The probe's input embedding, [H]."""

    def probing(self, columns: int) -> AbstractContextManager[None]:
        """What must hold in the model while the last `columns` query columns are probes."""

    def read(self, hidden: Tensor) -> Tensor:
        """Final hidden states [B, H] of the probe's column → readings [B]."""
