"""Problems as users give them: text, standard input, or a file of JSON lines or Parquet.

A row has a problem, and, where they are known, the answers that count as right: a list (any of them will do),
or one text or number.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trueplex.errors import InputError, MissingExtra
from trueplex.types import Problem

PROBLEM = ("problem", "question", "prompt")
ANSWERS = ("answers", "answer", "final_answer")


class Columns(NamedTuple):
    """The names that a row's problem and answers may have; the first that is there counts."""

    problem: tuple[str, ...] = PROBLEM
    answers: tuple[str, ...] = ANSWERS


ANY = Columns()
LINE = Columns(problem=("problem",))  # a JSON line says what it means; tables of others have names of their own


def read_problems(arguments: Iterable[str]) -> tuple[list[Problem], list[str]]:
    """Problems in order, and one complaint per line or argument that is none.

    An argument is text, ``-`` (all of standard input is one problem) or ``@FILE.jsonl`` (a line is
    ``{"problem": …}``, with ``id`` and ``answers`` if known).
    """
    problems: list[Problem] = []
    complaints: list[str] = []
    for argument in arguments:
        try:
            if argument.startswith("@"):
                found, wrong = read_jsonl(argument[1:])
                problems += found
                complaints += wrong
            else:
                problems.append(Problem(_standard_input() if argument == "-" else argument))
        except InputError as error:
            complaints.append(str(error))
    return problems, complaints


def _standard_input() -> str:
    if sys.stdin is None:
        raise InputError("standard input is closed. Try: give the problem's text, or @FILE.jsonl")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is no Unicode text ({error.reason} at byte {error.start}). Try: give UTF-8"
        ) from error


def read_jsonl(path: str) -> tuple[list[Problem], list[str]]:
    """The problems of a JSONL file and a complaint, with its line number, for each line that is none.

    Raises:
        InputError: the file cannot be read, or holds no problem at all.
    """
    try:
        lines = Path(os.path.expanduser(path)).read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Try: check the path") from error
    problems: list[Problem] = []
    complaints: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                problems.append(_problem(line, f"{Path(path).stem}/{number}"))
            except (ValueError, TypeError) as error:
                complaints.append(f"{path}, line {number}: it is skipped: {error}")
    if not problems and not complaints:
        raise InputError(f'{path} holds no problems. Try: give lines like {{"problem": "…"}}')
    return problems, complaints


def read_parquet(path: str) -> tuple[list[Problem], list[str]]:
    """The problems of a Parquet file, as `read_jsonl`.

    Raises:
        InputError: the file cannot be read, or holds no problem at all.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train") from error
    try:
        rows = pyarrow.parquet.read_table(os.path.expanduser(path)).to_pylist()
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}. Try: check the path") from error
    problems: list[Problem] = []
    complaints: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            problems.append(problem_of(row, f"{Path(path).stem}/{number}"))
        except (ValueError, TypeError) as error:
            complaints.append(f"{path}, row {number}: it is left out: {error}")
    if not problems and not complaints:
        raise InputError(f"{path} holds no problems. Try: give rows with a column problem")
    return problems, complaints


def _problem(line: bytes, name: str) -> Problem:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'no JSON ({error}). Try: write {{"problem": "…"}}') from error
    return problem_of(row, name, LINE)


def problem_of(row: Any, name: str, columns: Columns = ANY) -> Problem:
    """The problem of a row. Raises ValueError where its problem is no text or its answers cannot be read."""
    if not isinstance(row, Mapping):
        raise ValueError('no object. Try: write {"problem": "…"}')
    text = next((row[column] for column in columns.problem if column in row), None)
    if not isinstance(text, str):
        raise ValueError(f'it has no text "{columns.problem[0]}". Try: give one')
    column = next((column for column in columns.answers if column in row), columns.answers[0])
    given = row.get(column)
    listed = given if isinstance(given, list) else [] if given is None else [given]
    if any(isinstance(answer, bool) or not isinstance(answer, (str, int, float)) for answer in listed):
        raise ValueError(f'"{column}" is no text, no number and no list of them. Try: write it as one')
    return Problem(text, str(row.get("id", name)), tuple(map(_spelled, listed)) or None)


def _spelled(answer: str | int | float) -> str:
    """An answer as text; a whole number that a table keeps as a float is written as one."""
    whole = isinstance(answer, float) and answer.is_integer()
    return str(int(answer)) if whole else str(answer)
