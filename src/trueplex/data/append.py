"""A file that is only appended to: a record is on the disk whole, or not at all; one run at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from trueplex.files import failure, is_special
from trueplex.locks import lock

Row = dict[str, Any]  # a trace as plain columns


class Appended:
    """A file opened for appending, and locked until it is closed or the process ends.

    Raises:
        StoreError: the file cannot be opened, another run has it open, or (in `write`) the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = lock(path)
        try:
            self.special = is_special(path)
            if not self.special:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except (OSError, ValueError) as error:
            self._lock.release()
            raise failure("write", path, error) from error

    def write(self, record: bytes) -> None:
        left = memoryview(record)
        start = self._file.seek(0, os.SEEK_END) if self._file.seekable() else 0
        try:
            while left:  # a disk that is filling up takes a part of it before it refuses
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # not a regular file: there is nothing to take back
                self._file.truncate(start)
            raise failure("write", self.path, error) from error

    def close(self) -> None:
        self._file.close()
        self._lock.release()
