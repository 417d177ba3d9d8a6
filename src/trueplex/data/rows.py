"""The rows of a table as users have it: JSON lines, a JSON list, CSV or TSV, Parquet; each gzipped or not.

What a file is follows from its content where that tells (gzip, Parquet, a JSON list), and else from its name. Byte order
marks, UTF-16 and line ends of other systems are understood.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trueplex.errors import InputError, MissingExtra, reason
from trueplex.files import opened

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
EACH = 3  # lines that are skipped for one reason and still told one by one
REASONS = 8  # messages about one file


class RowError(ValueError):
    """Why a row cannot be used: a reason that other rows may share, what is special about this one, and what to do."""

    def __init__(self, why: str, hint: str, detail: str = "") -> None:
        super().__init__(f"{why}{f' ({detail})' if detail else ''}. Try: {hint}")
        self.why, self.hint = why, hint


class Row(NamedTuple):
    """A row and its place, such as ``line 3``; its content is a RowError where it could not be read."""

    unit: str
    number: int
    content: Any


def suffix_of(name: str | Path) -> str | None:
    """The suffix by which a name is that of a table, ``.gz`` left aside; None where it is none."""
    suffix = Path(str(name).lower().removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES else None


def stem_of(name: str | Path) -> str:
    """A table's name without folders and suffixes."""
    path = Path(name)
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def read_rows(path: str) -> Iterator[Row]:
    """The rows of a file in order; blank lines are passed over.

    Raises:
        InputError: the file as a whole cannot be read.
        MissingExtra: it is Parquet and pyarrow is not installed.
    """
    content = _content(path)
    if content.startswith(b"PAR1") or suffix_of(path) == ".parquet":
        return _parquet(path, content)
    content = _as_utf8(path, content)
    if suffix_of(path) in (".csv", ".tsv"):
        return _csv(path, content)
    if content.lstrip().startswith(b"["):
        whole = _json(path, content)
        return numbered("item", whole if isinstance(whole, list) else [whole])
    return _lines(path, content)


def numbered(unit: str, rows: Iterable[Any]) -> Iterator[Row]:
    """Rows with the numbers from 1 on as their places."""
    return (Row(unit, number, content) for number, content in enumerate(rows, 1))


def complaints(path: str, skipped: Sequence[tuple[Row, ValueError]]) -> list[str]:
    """What to say of rows that are skipped: once for each reason, with a count, where many share it."""
    groups: dict[str, list[tuple[Row, ValueError]]] = {}
    for row, error in skipped:
        groups.setdefault(error.why if isinstance(error, RowError) else str(error), []).append((row, error))
    told: list[str] = []
    left = 0
    for why, group in groups.items():
        unit, hint = group[0][0].unit, getattr(group[0][1], "hint", "correct them")
        if len(told) >= REASONS:
            left += len(group)
        elif len(group) <= EACH:
            told += [f"{path}, {row.unit} {row.number}: skipped: {error}" for row, error in group]
        else:
            first = ", ".join(str(row.number) for row, _ in group[:EACH])
            told.append(f"{path}: {len(group):,} {unit}s are skipped ({first} …): {why}. Try: {hint}")
    if left:
        told.append(
            f"{path}: {left:,} more {skipped[0][0].unit}s are skipped for other reasons. Try: correct those first"
        )
    return told


def _content(path: str) -> bytes:
    try:
        with opened(os.path.expanduser(path)) as file:
            content = file.read()
        while content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return content
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: a null byte in the name
        why = getattr(error, "strerror", None) or reason(error)
        raise InputError(f"cannot read {path} ({why}). Try: check the path") from error


def _as_utf8(path: str, content: bytes) -> bytes:
    """The content without a byte order mark; UTF-16, which spreadsheets export, as UTF-8."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16").encode()
        except UnicodeError as error:
            raise InputError(f"cannot read {path} (it is not valid Unicode). Try: save it as UTF-8") from error
    return content.removeprefix(codecs.BOM_UTF8)


def _json(path: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} (it is not valid JSON: {reason(error)}). Try: correct it") from error


def _lines(path: str, content: bytes) -> Iterator[Row]:
    """JSON lines; or one object over several lines, which is a row, or holds them in its only list."""
    lines = content.splitlines()
    if suffix_of(path) == ".json" and len(lines) > 1:
        try:
            json.loads(next(line for line in lines if line.strip()))
        except (ValueError, StopIteration, RecursionError):
            whole = _json(path, content)
            lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else []
            return numbered("item", lists[0] if len(lists) == 1 and _are_objects(lists[0]) else [whole])
    return (Row("line", number, _parsed(line)) for number, line in enumerate(lines, 1) if line.strip())


def _are_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowError("it is not valid JSON", 'write {"problem": "…"}', reason(error, 100))


def _csv(path: str, content: bytes) -> Iterator[Row]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"cannot read {path} (it is not valid UTF-8 at byte {error.start}). Try: save it as UTF-8"
        ) from error
    first = text.lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            at, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = cells
            elif len(cells) != len(header):
                hint = "put quotation marks around cells that hold the separator"
                yield Row(
                    "line",
                    at,
                    RowError(f"it has other cells than the {len(header)} of the header", hint, f"{len(cells)}"),
                )
            else:
                yield Row(
                    "line", at, {name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=True)}
                )
    except csv.Error as error:
        raise InputError(f"cannot read {path} (line {start}: {error}). Try: correct that line") from error


def _parquet(path: str, content: bytes) -> Iterator[Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train") from error
    try:
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        raise InputError(f"cannot read {path} ({reason(error, 100)}). Try: check the path") from error
    return numbered("row", rows)
