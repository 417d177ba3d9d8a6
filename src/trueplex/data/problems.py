"""Problems as users give them: text, standard input, or a table.

A row has a problem, and, where they are known, the answers that count as right: a list (any of them will do),
or one text or number (see `trueplex.data.golds`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from trueplex.data.golds import answers_of, is_blank, unicode
from trueplex.data.rows import Row, RowError, complaints, read_rows, stem_of
from trueplex.errors import InputError
from trueplex.grading.kinds import AnswerKind
from trueplex.types import Problem


class Columns(NamedTuple):
    """Where a row has what. The names that a row's problem and answers may have, capitals aside; the first that holds anything counts.

    Named by the user: ``Columns(problem=("Frage",))``. ``kind`` is how answers are found and compared, None by value.
    """

    problem: tuple[str, ...] = ("problem", "question", "prompt", "messages")
    answers: tuple[str, ...] = ("answers", "answer", "final_answer", "solution")
    kind: AnswerKind | None = None


USUAL = Columns()


def read_problems(arguments: Iterable[str], columns: Columns = USUAL) -> tuple[list[Problem], list[str]]:
    """Problems in order, and complaints about the lines and arguments that are none.

    An argument is text, ``-`` (all of standard input is one problem) or ``@FILE`` (a table, see `read_file`).
    """
    problems: list[Problem] = []
    wrong: list[str] = []
    for argument in arguments:
        try:
            if argument.startswith("@"):
                found, skipped = read_file(argument[1:], columns)
                problems += found
                wrong += skipped
            else:
                problems.append(Problem(_standard_input() if argument == "-" else argument))
        except InputError as error:
            wrong.append(str(error))
    return problems, wrong


def _standard_input() -> str:
    if sys.stdin is None:
        raise InputError("standard input is closed. Try: give the problem's text, or @FILE.jsonl")
    try:
        return sys.stdin.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not valid Unicode ({error.reason} at byte {error.start}). Try: give UTF-8"
        ) from error


def read_file(path: str, columns: Columns = USUAL) -> tuple[list[Problem], list[str]]:
    """The problems of a table, and complaints that name the lines that are skipped: many for one reason are counted.

    JSON lines, a JSON list, CSV, TSV or Parquet, gzipped or not. A problem without an ``id`` is named FILE/LINE.

    Raises:
        InputError: the file cannot be read, or holds no problem at all.
        MissingExtra: it is Parquet and pyarrow is not installed.
    """
    problems, wrong = collect(read_rows(path), path, stem_of(path), columns)
    if not problems and not wrong:
        raise InputError(f'{path} holds no problems. Try: give lines like {{"problem": "…"}}')
    return problems, wrong


def collect(rows: Iterable[Row], source: str, name: str, columns: Columns) -> tuple[list[Problem], list[str]]:
    """The problems of rows, called ``name``/NUMBER, and complaints about those of ``source`` that are none."""
    problems: list[Problem] = []
    skipped: list[tuple[Row, ValueError]] = []
    for row in rows:
        try:
            if isinstance(row.content, RowError):
                raise row.content
            problems.append(problem_of(row.content, f"{name}/{row.number}", columns))
        except ValueError as error:
            skipped.append((row, error))
    return problems, complaints(source, skipped)


def problem_of(row: Any, name: str, columns: Columns = USUAL) -> Problem:
    """The problem of a row. Raises RowError, or InputError, where it has none or its answers cannot be graded by."""
    if not isinstance(row, Mapping):
        raise RowError("it is not an object", 'write {"problem": "…"}')
    cells = {str(column).strip().casefold(): value for column, value in row.items()}
    there = f"its columns: {', '.join(map(str, row))}"[:200]
    _, value = _first(cells, columns.problem)
    if isinstance(value, list):
        value = _asked(value)
    if not isinstance(value, str):
        wanted = " or ".join(map(repr, columns.problem))
        raise RowError(
            f"no text in a column {wanted}",
            "name the column that holds the problem, as by --problem-column",
            there,
        )
    column, answers = _first(cells, columns.answers)
    if columns.answers != USUAL.answers and column is None:
        wanted = " or ".join(map(repr, columns.answers))
        raise RowError(
            f"it has no column {wanted}", "name the column that holds the answer, as by --answer-column", there
        )
    return Problem(value, _id(cells.get("id"), name), answers_of(answers, column or "", columns.kind))


def _first(cells: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str | None, Any]:
    """The first of the columns that holds anything, and its name; of blank ones the first, of none None."""
    there = [name for name in names if name.strip().casefold() in cells]
    for name in there:
        value = cells[name.strip().casefold()]
        if not is_blank(value):
            return name, value
    return (there[0] if there else None), None


def _asked(turns: list[Any]) -> str:
    """What a list of chat turns asks: the content of its one turn, which is the user's."""
    hint = 'write a turn as {"role": "user", "content": "…"}'
    if not all(isinstance(t, Mapping) and isinstance(t.get("role"), str) for t in turns):
        raise RowError("its messages are not chat turns", hint)
    if [turn["role"] for turn in turns] != ["user"]:
        raise RowError("its messages are not a single turn of the user, and only one can be asked",
                       "put everything into that turn", ", ".join(turn["role"] for turn in turns)[:100])  # fmt: skip
    content = turns[0].get("content")
    if not isinstance(content, str):
        raise RowError("the content of its message is not text", hint)
    return content


def _id(value: Any, name: str) -> str:
    """A row's id as text, its place where it has none. Raises RowError."""
    if is_blank(value):
        return name
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise RowError("its id is neither text nor a number", "write it as one of these, or leave it out")
    return unicode(str(value), "its id")
