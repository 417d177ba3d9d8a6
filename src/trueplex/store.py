"""Traces on disk: one row of plain columns per trace, as JSON lines or as Parquet parts.

A row holds everything that was thought (ids, weights, log-probs, entropy, scores), so a stored
trace can be replayed. JSON lines are what `--save` appends, trace by trace; a folder of Parquet
parts is what rollouts write, each part under a temporary name first, so a kill at any moment
leaves whole parts only. Both read with pandas or `datasets`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.errors import MissingExtra, StoreError
from trueplex.types import Problem, Status, Steps, Trace

Row = dict[str, Any]


def to_row(trace: Trace, prompt_ids: Sequence[int], fingerprint: str) -> Row:
    """A stopped trace as plain columns; step arrays are flat, T · width values in step order."""
    assert trace.steps is not None, "only a stopped trace can be stored"
    steps = trace.steps
    return {
        "problem": trace.problem.text, "id": trace.problem.id, "answers": list(trace.problem.answers or ()),
        "index": trace.index, "seed": trace.seed, "status": trace.status.value, "reason": trace.reason,
        "text": trace.text, "answer": trace.answer, "correct": trace.correct,
        "tokens": trace.tokens, "thinking_tokens": trace.thinking_tokens, "probe_tokens": trace.probe_tokens,
        "score_tokens": [at for at, _ in trace.scores], "scores": [score for _, score in trace.scores],
        "model": fingerprint, "prompt_ids": list(prompt_ids), "width": int(steps.ids.shape[1]),
        "ids": steps.ids.ravel(), "weights": steps.weights.ravel(), "logps": steps.logps.ravel(), "entropy": steps.entropy,
    }  # fmt: skip


def from_row(row: Row) -> tuple[Trace, tuple[int, ...]]:
    """The trace of a row, exactly as it was, and its prompt's ids. Raises StoreError for a malformed row."""
    try:
        width = row["width"]
        steps = Steps(
            np.asarray(row["ids"], dtype=np.int32).reshape(-1, width),
            np.asarray(row["weights"], dtype=np.float32).reshape(-1, width),
            np.asarray(row["logps"], dtype=np.float32).reshape(-1, width),
            np.asarray(row["entropy"], dtype=np.float32),
        )
        trace = Trace(
            Problem(row["problem"], row["id"], tuple(row["answers"]) or None), row["index"], row["seed"],
            Status(row["status"]), row["reason"], row["tokens"], row["thinking_tokens"], row["probe_tokens"],
            list(zip(row["score_tokens"], row["scores"], strict=True)), steps, row["text"], row["answer"], row["correct"],
        )  # fmt: skip
        return trace, tuple(row["prompt_ids"])
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"a stored trace is malformed ({error}); mend: make it again with this version") from error


class JsonLines:
    """An append-only file of traces: one line each, on the disk whole before the next is begun.

    Raises:
        StoreError: the file cannot be opened or written (a full disk, say); lines before stay whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise StoreError(f"cannot write {self.path}: {error.strerror}; mend: choose another --save file") from error

    def append(self, row: Row) -> None:
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items()}
        line = memoryview(json.dumps(plain).encode() + b"\n")
        start = self._file.seek(0, os.SEEK_END) if self._file.seekable() else 0
        try:
            while line:  # a disk that is filling up takes a part of it before it refuses
                line = line[self._file.write(line) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # not a regular file: there is nothing to take back
                self._file.truncate(start)
            raise StoreError(
                f"cannot write {self.path}: {error.strerror}; mend: free some space; whole traces are kept"
            ) from error

    def close(self) -> None:
        self._file.close()


def read_json_lines(path: str | Path) -> Iterator[Row]:
    """Rows of a `JsonLines` file. Raises StoreError naming the first line that is not whole."""
    try:
        opened = Path(path).open("rb")  # noqa: SIM115 - only opening may fail for the reason given below
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}; mend: check the path") from error
    with opened as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise StoreError(f"{path}, line {number}: not whole JSON; mend: remove that line") from error


def write_part(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Add a Parquet part to a folder of traces; it appears whole or not at all."""
    pyarrow, parquet = _arrow()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{name}.tmp"
    try:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema(pyarrow)), temporary, compression="zstd")
        os.replace(temporary, folder / f"{name}.parquet")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {folder}: {error}; mend: free some space; earlier parts are kept") from error


def read_parts(folder: str | Path, columns: Iterable[str] | None = None) -> Iterator[Row]:
    """Rows of all parts in order, with all columns or the given ones.

    Raises:
        StoreError: there are no parts, or one cannot be read.
    """
    _, parquet = _arrow()
    parts = sorted(Path(folder).glob("*.parquet"))
    if not parts:
        raise StoreError(f"{folder} holds no traces; mend: make some with `trueplex rollout --out {folder}`")
    for part in parts:
        try:
            table = parquet.read_table(part, columns=list(columns) if columns else None)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{part} cannot be read: {error}; mend: delete it and run the same rollout again"
            ) from error
        yield from table.to_pylist()


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train") from error
    return pyarrow, pyarrow.parquet


def _schema(pa: Any) -> Any:
    text, number, floats = pa.string(), pa.int32(), pa.list_(pa.float32())
    kinds = {
        "problem": text, "id": text, "answers": pa.list_(text), "index": number, "seed": pa.int64(), "status": text,
        "reason": text, "text": text, "answer": text, "correct": pa.bool_(), "tokens": number,
        "thinking_tokens": number, "probe_tokens": number, "score_tokens": pa.list_(number),
        "scores": pa.list_(pa.float64()), "model": text, "prompt_ids": pa.list_(number), "width": number,
        "ids": pa.list_(number), "weights": floats, "logps": floats, "entropy": floats,
    }  # fmt: skip
    return pa.schema(list(kinds.items()))
