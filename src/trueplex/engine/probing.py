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

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers of whose output at the trace's own last token `read` is told; see `Backbone.tapping`."""

    def probing(self, columns: int) -> AbstractContextManager[None]:
        """What must hold in the model while the last `columns` query columns are probes."""

    def read(self, hidden: Tensor, own: Tensor) -> Tensor:
        """Hidden states of the probe's columns, [B, M, H or more], the final ones first → readings [B].

        ``own`` [B, taps · H] are the tapped ones of the trace's last token, as it was read without the probe.
        """
