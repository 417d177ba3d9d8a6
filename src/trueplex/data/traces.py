"""Traces on disk: one record of plain columns per trace, in one appendable file that survives a kill.

A record holds everything that was thought (ids, weights, log-probs, entropy, confidence, scores) and
where it comes from (model, tokenizer, thinking options), so a stored trace can be replayed or gone on
with, and one of another model is refused. Two forms, chosen by the file's name:

- ``*.arrow``: columnar, an Arrow stream of zstd-packed batches; what rollouts and evaluations write.
  Read it with `datasets.Dataset.from_file(PATH)` or `pyarrow.ipc.open_stream(PATH).read_pandas()`.
- ``*.jsonl``: a line per trace; `pandas.read_json(PATH, lines=True)`.

Both are only ever appended to. A file cut off at any byte gives all its whole records, and says what
was dropped. A later record of the same trace stands for an earlier one, which was unfinished then.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trueplex.errors import MissingExtra, StoreError
from trueplex.types import Problem, Status, Steps, Trace

log = logging.getLogger(__name__)

Row = dict[str, Any]
ARROW = ".arrow"


@dataclass(slots=True, frozen=True)
class Origin:
    """Where traces come from: fingerprints of the model and the tokenizer, and the thinking options as JSON.

    ``model`` is None where only the tokenizer matters, as for reading a trace's words.
    """

    model: str | None
    tokenizer: str
    thinking: str

    def require(self, row: Row, path: Path) -> None:
        """Raise StoreError for a record of another model or tokenizer, or that thinks otherwise if ``thinking`` is set."""
        for name, own in (("model", self.model), ("tokenizer", self.tokenizer)):
            if own is not None and row[name] != own:
                raise StoreError(f"{path} holds traces of {name} {row[name]}, and this {name} is {own}. Try: give the "
                                 "model that they were made with")  # fmt: skip
        if self.thinking and row["thinking"] != self.thinking:
            raise StoreError(f"the traces in {path} were made by other options ({row['thinking']}). Try: go on with those, or "
                             "give another file")  # fmt: skip


def to_row(trace: Trace, prompt_ids: Sequence[int], origin: Origin) -> Row:
    """A trace as plain columns; step arrays are flat, T · width values in step order."""
    assert trace.steps is not None, "only a trace that stopped or was laid aside can be stored"
    steps = trace.steps
    return {
        "problem": trace.problem.text, "id": trace.problem.id, "answers": list(trace.problem.answers or ()),
        "index": trace.index, "seed": trace.seed, "status": trace.status.value, "reason": trace.reason,
        "closing": trace.closing, "text": trace.text, "answer": trace.answer, "correct": trace.correct,
        "tokens": trace.tokens, "thinking_tokens": trace.thinking_tokens, "probe_tokens": trace.probe_tokens,
        "score_tokens": [at for at, _ in trace.scores], "scores": [score for _, score in trace.scores],
        "model": origin.model, "tokenizer": origin.tokenizer, "thinking": origin.thinking,
        "prompt_ids": list(prompt_ids), "width": int(steps.ids.shape[1]),
        "ids": steps.ids.ravel(), "weights": steps.weights.ravel(), "logps": steps.logps.ravel(),
        "entropy": steps.entropy, "confidence": steps.confidence,
    }  # fmt: skip


def from_row(row: Row) -> tuple[Trace, tuple[int, ...]]:
    """The trace of a record, exactly as it was, and its prompt's ids. Raises StoreError for a malformed one."""
    try:
        shape = (-1, row["width"])
        steps = Steps(
            np.asarray(row["ids"], dtype=np.int32).reshape(shape),
            *(np.asarray(row[name], dtype=np.float32).reshape(shape) for name in ("weights", "logps")),
            *(np.asarray(row[name], dtype=np.float32) for name in ("entropy", "confidence")),
        )
        trace = Trace(
            Problem(row["problem"], row["id"], tuple(row["answers"]) or None), row["index"], row["seed"],
            Status(row["status"]), row["reason"], row["closing"], row["tokens"], row["thinking_tokens"], row["probe_tokens"],
            list(zip(row["score_tokens"], row["scores"], strict=True)), steps, row["text"], row["answer"], row["correct"],
        )  # fmt: skip
        return trace, tuple(row["prompt_ids"])
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"a stored trace is malformed ({error!r}). Try: make it again with this version") from error


class Store(Protocol):
    """A file that traces are appended to."""

    def append(self, rows: Sequence[Row]) -> None:
        """Write records; each is on the disk whole, or not at all."""

    def close(self) -> None: ...


def open_store(path: str | Path) -> Store:
    """The store at `path`, new or to be gone on with, by its suffix.

    Raises:
        StoreError: it cannot be opened, or is something else.
        MissingExtra: pyarrow is not installed and the file is ``*.arrow``.
    """
    return ArrowStream(path) if Path(path).suffix == ARROW else JsonLines(path)


def read(
    path: str | Path, columns: Iterable[str] | None = None, problem: str | None = None, complain: bool = True
) -> Iterator[Row]:
    """The whole records of a store, or of one problem; all columns or some. What had to be dropped is said.

    Raises:
        StoreError: there is no such file, or it is no store of traces.
    """
    path = Path(path)
    if path.is_dir():
        path = path / f"traces{ARROW}"
    try:
        file = path.open("rb")
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}. Try: check the path") from error
    with file:
        yield from (_read_arrow if path.suffix == ARROW else _read_lines)(path, file, columns, problem, complain)


def read_traces(
    path: str | Path, origin: Origin | None = None, problem: str | None = None
) -> Iterator[tuple[Trace, tuple[int, ...]]]:
    """Traces and their prompts' ids, the latest record of each; with an origin, those of another are refused."""
    path, latest = Path(path), {}
    for number, row in enumerate(read(path, ("problem", "index", "seed"), problem)):
        latest[row["problem"], row["seed"], row["index"]] = number
    wanted = set(latest.values())
    for number, row in enumerate(read(path, problem=problem, complain=False)):
        if number in wanted:
            if origin is not None:
                origin.require(row, path)
            yield from_row(row)


# -- JSON lines -----------------------------------------------------------------------------------


class _Appended:
    """A file that is only appended to, a whole record or nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}. Try: choose another file") from error

    def _write(self, record: bytes) -> None:
        left = memoryview(record)
        start = self._file.seek(0, os.SEEK_END) if self._file.seekable() else 0
        try:
            while left:  # a disk that is filling up takes a part of it before it refuses
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # not a regular file: there is nothing to take back
                self._file.truncate(start)
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}. Try: free some space; whole traces are kept"
            ) from error

    def close(self) -> None:
        self._file.close()


class JsonLines(_Appended):
    """A line per trace.

    Raises:
        StoreError: the file cannot be opened or written (a full disk); lines before stay whole.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        # A line that was cut off is ended, so that the next one is whole.
        if self.path.is_file() and self.path.stat().st_size:
            with self.path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    self._write(b"\n")

    def append(self, rows: Sequence[Row]) -> None:
        for row in rows:
            plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()}
            self._write(json.dumps(plain).encode() + b"\n")


def _read_lines(path: Path, file: io.BufferedReader, columns: Iterable[str] | None,
                problem: str | None, complain: bool) -> Iterator[Row]:  # fmt: skip
    wanted = list(columns) if columns else None
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if problem is None or row["problem"] == problem:
                yield {name: row[name] for name in wanted} if wanted else row
        except (ValueError, KeyError, TypeError):
            if complain:
                log.warning(f"{path}, line {number}: no whole trace; it is left out")


# -- Arrow ----------------------------------------------------------------------------------------


class ArrowStream(_Appended):
    """Batches of traces in columns; each `append` is one batch.

    Raises:
        StoreError: the file cannot be written, or is not a stream of traces of this version.
    """

    def __init__(self, path: str | Path) -> None:
        self._arrow = _arrow()
        super().__init__(path)
        with self.path.open("rb") as file:
            end = max((at for at, _ in _batches(self._arrow, self.path, file)), default=0)
        self._head = self._packed([])
        # What was cut off is dropped (reading it says so), so that the next batch is read after a whole one.
        self._file.truncate(end)
        if not end:
            self._write(self._head)

    def append(self, rows: Sequence[Row]) -> None:
        if rows:
            self._write(self._packed(rows)[len(self._head) :])

    def _packed(self, rows: Sequence[Row]) -> bytes:
        """A stream of these records, without its end mark."""
        pa = self._arrow
        sink, schema = pa.BufferOutputStream(), _schema(pa)
        writer = pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        if rows:
            writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))
        writer.close()
        return sink.getvalue().to_pybytes()[: -len(END_OF_STREAM)]


END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def _batches(pa: Any, path: Path, file: io.BufferedReader) -> Iterator[tuple[int, Any]]:
    """Each whole batch of an Arrow stream with the byte it ends at; first the schema, with no batch."""
    schema = _schema(pa)
    if not os.fstat(file.fileno()).st_size:
        return
    try:
        messages = pa.ipc.MessageReader.open_stream(file)
        found = pa.ipc.read_schema(messages.read_next_message())
    except (pa.ArrowInvalid, EOFError, StopIteration, OSError) as error:
        file.seek(0)
        if not _is_cut_off_head(pa, file.read()):
            raise StoreError(f"{path} is no store of traces. Try: give another file") from error
        return
    if found != schema:
        raise StoreError(f"{path} was written by another version. Try: make its traces again")
    yield file.tell(), None
    while True:
        try:
            message = messages.read_next_message()
            batch = pa.ipc.read_record_batch(message, schema)
        except (pa.ArrowInvalid, EOFError, StopIteration, OSError):
            return
        yield file.tell(), batch


def _is_cut_off_head(pa: Any, content: bytes) -> bool:
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, _schema(pa)).close()
    return sink.getvalue().to_pybytes().startswith(content)


def _read_arrow(path: Path, file: io.BufferedReader, columns: Iterable[str] | None,
                problem: str | None, complain: bool) -> Iterator[Row]:  # fmt: skip
    pa, whole = _arrow(), 0
    for end, batch in _batches(pa, path, file):
        whole = end
        if batch is not None:
            if problem is not None:
                batch = batch.filter(pa.compute.equal(batch["problem"], problem))
            yield from (batch.select(list(columns)) if columns else batch).to_pylist()
    cut = path.stat().st_size - whole
    if cut and complain:
        log.warning(f"{path}: its last {cut} bytes are no whole records; they are left out")


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
