"""Problems as users give them: text, standard input, or a file of JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from trueplex.errors import InputError
from trueplex.types import Problem


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
                problems.append(Problem(sys.stdin.read() if argument == "-" else argument))
        except (InputError, UnicodeDecodeError) as error:
            complaints.append(str(error))
    return problems, complaints


def read_jsonl(path: str) -> tuple[list[Problem], list[str]]:
    """The problems of a JSONL file and a complaint, with its line number, for each line that is none.

    Raises:
        InputError: the file cannot be read, or holds no problem at all.
    """
    try:
        lines = Path(path).expanduser().read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; mend: check the path") from error
    problems: list[Problem] = []
    complaints: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                problems.append(_problem(line, f"{Path(path).stem}/{number}"))
            except (ValueError, TypeError) as error:
                complaints.append(f"{path}, line {number}: {error}; the line is skipped")
    if not problems and not complaints:
        raise InputError(f'{path} holds no problems; mend: give lines like {{"problem": "…"}}')
    return problems, complaints


def _problem(line: bytes, name: str) -> Problem:
    row = json.loads(line)
    if not isinstance(row, dict) or not isinstance(row.get("problem"), str):
        raise ValueError('not an object with a text "problem"')
    answers = row.get("answers")
    if answers is not None and not (isinstance(answers, list) and all(isinstance(a, str) for a in answers)):
        raise ValueError('"answers" is not a list of texts')
    return Problem(row["problem"], str(row.get("id", name)), tuple(answers) if answers else None)
