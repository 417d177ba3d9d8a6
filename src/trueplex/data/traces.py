"""Traces on disk: one record of plain columns per trace, in one file that is only appended to.

A record holds everything that was thought (ids, weights, log-probs, entropy, confidence, scores) and
where it comes from (model, tokenizer, thinking options), so a stored trace can be replayed or resumed,
and one of another model is refused. Two forms, chosen by the file's name:

- ``*.arrow`` (`trueplex.data.arrow`): columnar, an Arrow stream of zstd-packed batches; what rollouts and evaluations
  write. Read it with `datasets.Dataset.from_file(PATH)` or `pyarrow.ipc.open_stream(PATH).read_pandas()`.
- ``*.jsonl`` (`trueplex.data.jsonl`): a line per trace; `pandas.read_json(PATH, lines=True)`.

A kill, a cut or damage costs the records that it lies in, and no other: what is lost is logged, the rest is read, and
records carry checksums, so that a changed number is never read as one. Files of version 0.2 have none. They are read
as before, and may be appended to: the new records have checksums, the old ones stay as they are. A later record
of the same trace stands for an earlier one, which was unfinished then. One run at a time may append to a file.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from trueplex.checksums import is_named
from trueplex.data.append import Row
from trueplex.data.arrow import ArrowStream, read_stream
from trueplex.data.jsonl import JsonLines, read_lines
from trueplex.errors import StoreError
from trueplex.files import failure, opened
from trueplex.types import Problem, Status, Steps, Trace

ARROW = ".arrow"


@dataclass(slots=True, frozen=True)
class Origin:
    """Where traces come from: fingerprints of the model and the tokenizer, and the thinking options as JSON.

    ``model`` is None where only the tokenizer matters, as for showing a trace's text. ``former`` is the name that version
    0.2 gave to the model: its traces may be read and resumed.
    """

    model: str | None
    tokenizer: str
    thinking: str
    former: str | None = None

    def require(self, row: Row, path: Path) -> None:
        """Raise StoreError for a record of another model or tokenizer, or that thinks otherwise if ``thinking`` is set."""
        for name, own in (("model", self.model), ("tokenizer", self.tokenizer)):
            if own is not None and not is_named(row[name], own, self.former, path):
                raise StoreError(f"{path} holds traces of {name} {row[name]}, and this {name} is {own}. Try: give the "
                                 "model that they were made with")  # fmt: skip
        if self.thinking and row["thinking"] != self.thinking:
            raise StoreError(f"the traces in {path} were made by other options ({row['thinking']}). Try: use those, or "
                             "give another file")  # fmt: skip


def to_row(trace: Trace, prompt_ids: Sequence[int], origin: Origin) -> Row:
    """A trace as plain columns; step arrays are flat, T · width values in step order."""
    assert trace.steps is not None, "only a trace that stopped or was suspended can be stored"
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
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StoreError(f"a stored trace is malformed ({error!r}). Try: make it again with this version") from error


class Store(Protocol):
    """A file that traces are appended to."""

    def append(self, rows: Sequence[Row]) -> None:
        """Write records; each is on the disk whole, or not at all."""

    def close(self) -> None: ...


def open_store(path: str | Path) -> Store:
    """The store at `path`, new or to be appended to, by its suffix; locked until it is closed or the process ends.

    Raises:
        StoreError: it cannot be opened, is something else, or another run has it open.
        MissingExtra: pyarrow is not installed and the file is ``*.arrow``.
    """
    return ArrowStream(path) if Path(path).suffix == ARROW else JsonLines(path)


def read(
    path: str | Path, columns: Iterable[str] | None = None, problem: str | None = None, complain: bool = True
) -> Iterator[Row]:
    """The whole records of a store, or of one problem; all columns or some. What is damaged is logged and skipped.

    Raises:
        StoreError: there is no such file, or it is not a store of traces.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = path / f"traces{ARROW}"
        file = opened(path)
    except (OSError, ValueError) as error:
        raise failure("read", path, error) from error
    with file:
        content = file if file.seekable() else io.BytesIO(file.read())
        try:
            yield from (read_stream if path.suffix == ARROW else read_lines)(path, content, columns, problem, complain)
        except StoreError:
            raise
        except OSError as error:  # a disk that fails, or a device that is no store
            raise failure("read", path, error) from error


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
