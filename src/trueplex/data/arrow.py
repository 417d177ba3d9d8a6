"""Traces as an Arrow stream of zstd-packed batches that survives cuts and damage.

Every batch carries, in the custom metadata of its message, a checksum of all its bytes and the number of records before
it; other Arrow readers ignore both. Damage costs only the batches that it lies in: those after it are found and read.

Upgrading from version 0.2: its files have no checksums. They are read as before and may be appended to; the new batches
have checksums, the old ones stay as they are, and damage to their numbers cannot be noticed. Version 0.2 and other
Arrow readers still read such files.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trueplex.data.append import Appended, Row
from trueplex.data.messages import (
    BATCH,
    END_OF_STREAM,
    MARKER,
    SCHEMA,
    STAMP,
    UNSTAMPED,
    Damage,
    Message,
    is_intact,
    messages,
    stamped,
)
from trueplex.errors import MissingExtra, StoreError, reason
from trueplex.files import failure

log = logging.getLogger(__name__)

STEPS = ("ids", "weights", "logps", "entropy", "confidence")  # columns with numbers for every step


class ArrowStream(Appended):
    """Batches of traces in columns; each `append` is one batch.

    Opening cuts off a last batch that is not all there, and keeps its bytes in ``NAME.damaged``. Nothing else is cut.

    Raises:
        StoreError: the file cannot be written, another run has it open, or it is not a stream of traces of this version.
    """

    def __init__(self, path: str | Path) -> None:
        self._arrow = _arrow()
        super().__init__(path)
        try:
            self._head = self._packed([])
            self.records = 0
            if self.special:
                self.write(self._head)
            else:
                self._continue()
        except BaseException:
            self.close()
            raise

    def append(self, rows: Sequence[Row]) -> None:
        if rows:
            self.write(stamped(self._packed(rows)[len(self._head) :]))
            self.records += len(rows)

    def _continue(self) -> None:
        """Find where the next batch goes, and move a last batch that was cut off out of the way."""
        end, tail = 0, b""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            for piece in _pieces(self._arrow, self.path, file, size):
                if isinstance(piece, Message):
                    end, self.records = piece.end, _records(piece, self.records)
                elif piece.cut:
                    file.seek(piece.at)
                    tail = file.read()
                else:
                    end, self.records = piece.end, self.records + (piece.rows or 0)
        if tail and not self._head.startswith(tail):
            self._keep(tail)
        self._file.truncate(end)  # an end-of-stream mark after the last batch goes, too
        if not end:
            self.write(self._head)

    def _keep(self, tail: bytes) -> None:
        beside = self.path.with_name(self.path.name + ".damaged")
        try:
            with beside.open("ab") as file:
                file.write(tail)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise failure("write", beside, error) from error
        log.warning(f"{self.path}: its last batch was cut off; its {len(tail)} bytes are moved to {beside.name}")

    def _packed(self, rows: Sequence[Row]) -> bytes:
        """A stream of these records, without its end mark."""
        pa = self._arrow
        sink, schema = pa.BufferOutputStream(), _schema(pa)
        writer = pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        if rows:
            batch = pa.RecordBatch.from_pylist(list(rows), schema=schema)
            writer.write_batch(batch, {STAMP: UNSTAMPED.format(first=self.records)})
        writer.close()
        return sink.getvalue().to_pybytes()[: -len(END_OF_STREAM)]


def read_stream(path: Path, file: io.BufferedIOBase, columns: Iterable[str] | None, problem: str | None,
                complain: bool) -> Iterator[Row]:  # fmt: skip
    """The whole records of a file, all columns or some, of all problems or one; what is damaged is logged and skipped.

    Raises:
        StoreError: it is not a stream of traces of this version.
    """
    pa = _arrow()
    wanted, size = list(columns or ()), file.seek(0, os.SEEK_END)
    records, waiting = 0, list[Damage]()
    tell: Callable[[str], None] = log.warning if complain else lambda told: None
    for piece in _pieces(pa, path, file, size):
        if isinstance(piece, Damage):
            waiting.append(piece)
        elif piece.header.kind == BATCH:
            first = piece.header.first
            if waiting or (first is not None and first > records):
                tell(_told(path, waiting, piece.at, None if first is None else max(0, first - records)))
                waiting = []
            records = _records(piece, records)
            batch = _batch(pa, piece)
            if problem is not None:
                batch = batch.filter(pa.compute.equal(batch["problem"], problem))
            yield from _rows(batch.select(wanted) if wanted else batch)
    if waiting:
        tell(_told(path, waiting, size, None))


def _rows(batch: Any) -> Iterator[Row]:
    """The records of a batch; what there is of every step as arrays, without a Python object for each number."""
    arrays = [name for name in batch.schema.names if name in STEPS]
    for number, row in enumerate(batch.drop_columns(arrays).to_pylist()):
        for name in arrays:
            row[name] = batch[name][number].values.to_numpy().copy()  # a view would keep the whole batch in memory
        yield row


def _records(piece: Message, before: int) -> int:
    """The number of records up to the end of a message; a checksum tells how many were before it, damaged ones too."""
    first = piece.header.first
    return (before if first is None else first) + (piece.header.rows if piece.header.kind == BATCH else 0)


def _told(path: Path, found: Sequence[Damage], end: int, lost: int | None) -> str:
    """The message about damage before byte ``end``: how many records, at which byte. ``lost``: their exact number, if known."""
    if found and found[-1].cut:
        return f"{path}: its last batch was cut off at byte {end} (it begins at byte {found[-1].at}); it is left out"
    what = "an unknown number of records are"
    if lost is not None:
        what = "no record is" if not lost else "1 record is" if lost == 1 else f"{lost} records are"
    elif (least := sum(piece.rows or 0 for piece in found)) > 0:
        what = "at least " + ("1 record is" if least == 1 else f"{least} records are")
    where = f"byte {found[0].at} ({sum(p.end - p.at for p in found)} bytes are damaged)" if found else f"byte {end}"
    return f"{path}: {what} lost at {where}; all other records are read"


def _pieces(pa: Any, path: Path, file: io.BufferedIOBase, size: int) -> Iterator[Message | Damage]:
    """The schema, the batches and the damage of a file. Raises StoreError when it is not a stream of traces."""
    schema = _schema(pa)
    file.seek(0)
    foreign = _foreign(pa, file.read(1 << 16), schema)
    found = False
    for piece in messages(file, size, lambda message: _is_whole(pa, message, schema, foreign)):
        found = found or isinstance(piece, Message)
        if isinstance(piece, Damage) and piece.end == size and not found:
            break
        yield piece
    if size and not found:
        file.seek(0)
        content = file.read(1 << 16)
        if foreign:
            raise StoreError(f"{path} was written by another version. Try: make its traces again")
        if not _empty(pa, schema).startswith(content):
            raise StoreError(f"{path} is not a store of traces. Try: give another file")
        yield Damage(0, size, True, None)


def _foreign(pa: Any, content: bytes, schema: Any) -> bool:
    """Whether a file begins with another schema: batches without a checksum are then not read as traces."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(content)) != schema
    except (pa.ArrowException, OSError, EOFError, ValueError, MemoryError):
        return False


def _is_whole(pa: Any, message: Message, schema: Any, foreign: bool) -> bool:
    try:
        if message.header.kind == SCHEMA:
            # A damaged length can swallow the beginning of a batch and leave the schema readable.
            alone = MARKER not in message.content[len(MARKER) :]
            return alone and pa.ipc.read_schema(pa.py_buffer(message.content)) == schema
        if message.header.custom:
            return is_intact(message.content)
        if not foreign:
            _batch(pa, message).validate(full=True)
            return True
    except (pa.ArrowException, OSError, EOFError, ValueError, MemoryError):  # whatever pyarrow raises for damaged bytes
        pass
    return False


def _batch(pa: Any, message: Message) -> Any:
    try:
        return pa.ipc.read_record_batch(pa.py_buffer(message.content), _schema(pa))
    except pa.ArrowNotImplementedError as error:
        raise StoreError(f"this pyarrow cannot unpack zstd ({reason(error)}). Try: pip install -U pyarrow") from error


def _empty(pa: Any, schema: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, schema).close()
    return sink.getvalue().to_pybytes()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
    except ImportError as error:
        raise MissingExtra("pyarrow", "train") from error
    return pyarrow


def _schema(pa: Any) -> Any:
    text, number, floats = pa.string(), pa.int32(), pa.list_(pa.float32())
    kinds = {
        "problem": text, "id": text, "answers": pa.list_(text), "index": number, "seed": pa.int64(), "status": text,
        "reason": text, "closing": text, "text": text, "answer": text, "correct": pa.bool_(), "tokens": number,
        "thinking_tokens": number, "probe_tokens": number, "score_tokens": pa.list_(number),
        "scores": pa.list_(pa.float64()), "model": text, "tokenizer": text, "thinking": text,
        "prompt_ids": pa.list_(number), "width": number, "ids": pa.list_(number), "weights": floats, "logps": floats,
        "entropy": floats, "confidence": floats,
    }  # fmt: skip
    return pa.schema(list(kinds.items()))
