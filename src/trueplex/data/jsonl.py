"""Traces as JSON lines, each with a checksum of its other fields.

A line of version 0.2 has no checksum and is read as it is; a file may hold both. Who edits a line by hand drops its
``checksum``, or the line counts as damaged.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from trueplex.data.append import Appended, Row

log = logging.getLogger(__name__)

CHECKSUM = "checksum"
KEY = {"problem": str, "seed": int, "index": int}  # what tells one trace from another
START = b'{"problem": '  # within a text its quotation marks would be escaped, so this always begins a record
_STAMPED = re.compile(rb', ".{8}": "([0-9a-f]{16})"\}$')  # any name: even if that is damaged, the checksum decides


class JsonLines(Appended):
    """A line per trace.

    Raises:
        StoreError: the file cannot be opened or written, or another run has it open; lines before stay whole.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        # A line that was cut off is ended, so that the next one is whole.
        if not self.special and self.path.stat().st_size:
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    self.write(b"\n")

    def append(self, rows: Sequence[Row]) -> None:
        for row in rows:
            plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()}
            line = json.dumps(plain).encode()
            self.write(line[:-1] + f', "{CHECKSUM}": "{_digest(line)}"}}\n'.encode())


def read_lines(path: Path, file: io.BufferedIOBase, columns: Iterable[str] | None, problem: str | None,
               complain: bool) -> Iterator[Row]:  # fmt: skip
    """The whole records of a file, all columns or some, of all problems or one; what is damaged is logged and skipped."""
    wanted, damaged, at = list(columns or ()), 0, 0
    for number, line in enumerate(file, 1):
        found, whole = _rows(line) if line.strip() else ([], True)
        fitting = [row for row in found if row.keys() >= set(wanted)]
        whole = whole and len(fitting) == len(found)
        if not whole:
            damaged += 1
            if complain and damaged == 1:
                what = "is damaged" if line.endswith(b"\n") else "was cut off"
                log.warning(
                    f"{path}, line {number} (byte {at}) {what} and is skipped; all other whole records are read"
                )
        at += len(line)
        for row in fitting:
            if problem is None or row["problem"] == problem:
                yield {name: row[name] for name in wanted} if wanted else row
    if complain and damaged > 1:
        log.warning(f"{path}: {damaged} of its lines are damaged and are skipped")


def _rows(line: bytes) -> tuple[list[Row], bool]:
    """The records in a line, and whether they are all of it: two stand in one where the end of a line was damaged."""
    row = _row(line)
    if row is not None:
        return [row], True
    pieces = [START + piece for piece in line.split(START)[1:]]
    found = [_row(piece[: piece.rfind(b"}") + 1]) for piece in pieces]
    rows = [row for row in found if row is not None]
    return rows, bool(rows) and len(rows) == len(pieces) and line.startswith(START)


def _row(line: bytes) -> Row | None:
    """The record that a line is; None where it is damaged."""
    line = line.strip()
    stamp = _STAMPED.search(line)
    as_written = stamp is not None and _digest(line[: stamp.start()] + b"}") == stamp[1].decode()
    try:
        row = json.loads(line[: stamp.start()] + b"}" if stamp and as_written else line)
        if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in KEY.items()):
            return None
        # Another program may have written the same values with other spaces.
        if CHECKSUM in row and row.pop(CHECKSUM) != _digest(json.dumps(row).encode()):
            return None
    except (ValueError, RecursionError):
        return None
    return row


def _digest(line: bytes) -> str:
    return hashlib.blake2b(line, digest_size=8).hexdigest()
