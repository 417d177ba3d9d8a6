"""The --save file of a run: traces are appended while it goes on, and a disk that fills up stops only the saving."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from trueplex.data.append import Row
from trueplex.data.traces import open_store
from trueplex.errors import StoreError

log = logging.getLogger(__name__)


class Saving:
    """A store that may be none (``path`` None), and may fail: that is said when it happens and, with what to try, at the end.

    Raises:
        StoreError: it cannot be opened, is something else, or another run has it open.
    """

    def __init__(self, path: Path | None) -> None:
        self.failed: StoreError | None = None
        self._store = open_store(path) if path else None

    @property
    def open(self) -> bool:
        """Whether what is appended is kept."""
        return self._store is not None and not self.failed

    def append(self, rows: Sequence[Row]) -> None:
        if self._store is None or self.failed:
            return
        try:
            self._store.append(rows)
        except StoreError as error:
            self.failed = error
            log.info(f"{error.args[0].partition(' Try: ')[0]} Nothing more is saved; solving goes on")

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        if self.failed:
            log.info(str(self.failed))
