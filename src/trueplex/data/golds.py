r"""The answers that count as right, from what a table has in their place.

A list of answers, an answer, a number, GSM8K's rationale whose last line is ``#### 18``, or a solution with its answer in
``\boxed{}``. What no model's answer could be compared with is refused here, before anything is sampled.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any

from trueplex.data.rows import RowError
from trueplex.grading.answers import extract
from trueplex.grading.kinds import AnswerKind

LONGEST = 400  # characters; see `trueplex.grading.answers.grade`, which reads no longer text as a bare answer
WORDS = 15  # plain words; a text with more is a sentence, not an answer

_MARKED = re.compile(r"(?:^|\s)####\s*(\S.*)$")  # on the last line: a heading of Markdown stands above others
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_PLAIN = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}(?![A-Za-z}])")
ALONE = r"write the final answer alone, or end with #### 18 or \boxed{18}"


def answers_of(value: Any, column: str, kind: AnswerKind | None = None) -> tuple[str, ...] | None:
    """The answers in a cell; None where it is blank. Raises RowError where it cannot be graded by.

    ``kind`` is how answers are found and compared; None is by value.
    """
    if kind is not None and kind.structured and isinstance(value, dict | list):
        return (json.dumps(value),)
    if isinstance(value, str) and column.strip().casefold() == "answers":
        value = _listed(value)
    if not isinstance(value, list):
        return None if is_blank(value) else (_answer(value, column, kind),)
    if any(is_blank(one) for one in value):
        raise RowError(f"an answer in {column!r} is blank", "give it, or leave it out")
    return tuple(_answer(one, column, kind) for one in value) or None


def _listed(cell: str) -> Any:
    """A cell of a CSV that spells a JSON list of texts as that list: ``[1, 2]`` stays an interval."""
    if cell.strip().startswith("["):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        return found if found and all(isinstance(one, str) for one in found) else cell
    return cell


def is_blank(value: Any) -> bool:
    """Whether a cell is empty; NaN is how tables store a missing number."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _answer(value: Any, column: str, kind: AnswerKind | None = None) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise RowError(f"{column!r} is neither text, a number, nor a list of them", "write it as one of these")
    if kind is not None and kind.own:
        text = unicode(value if isinstance(value, str) else _spelled(value, column), f"an answer in {column!r}")
        if not kind.readable(text):
            raise RowError(
                f"{column!r} has no answer of the kind {kind.spelled!r}",
                "correct it, or give another --answer",
                f"{text[:40]!r}",
            )
        return text
    text = _final(value, column) if isinstance(value, str) else _spelled(value, column)
    unicode(text, f"an answer in {column!r}")
    plain = len(_PLAIN.findall(text))
    if len(text) > LONGEST or plain > WORDS or (len(text.splitlines()) > 1 and "\\begin{" not in text):
        raise RowError(f"{column!r} is a text that no answer can be compared with", ALONE, f"{text[:40]!r}…")
    return text


def _final(text: str, column: str) -> str:
    r"""The answer that a text ends in: behind ``####`` on its last line, or in its last box; else the text itself."""
    if marked := _MARKED.search(text.rstrip()):
        return marked[1].strip()
    if not _BOX.search(text):
        return text.strip() if len(text.splitlines()) > 1 else text
    found = extract(text)
    if found is None:
        raise RowError(f"the last box in {column!r} is empty or never closes", ALONE)
    return found


def _spelled(number: float | Decimal, column: str) -> str:
    """A number as text; a whole number that a table keeps as a float is written as one."""
    try:
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if not math.isfinite(number):
            raise RowError(f"{column!r} is not a finite number", "write it as text")
        return str(number)
    except (OverflowError, ValueError) as error:  # of thousands of digits
        if isinstance(error, RowError):
            raise
        raise RowError(f"{column!r} is a number that is too long", "write it as text") from error


def unicode(text: str, what: str) -> str:
    """The text itself. Raises RowError where it is not valid Unicode, as half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"{what} is not valid Unicode", "give UTF-8", f"at character {error.start}") from error
    return text
