r"""What counts as an answer: how it is found in a text, and when two are the same. One `AnswerKind` serves the vote, the
grade, rollouts, evaluation, calibration and training.

By name (``--answer``): ``auto`` · ``boxed`` · ``number`` · ``choice`` · ``json[:SCHEMA.json]`` · ``last-line`` · ``regex:PATTERN`` ·
``text`` · ``call:MODULE:FIND[:SAME]``. From Python an `AnswerKind` can be made of two functions.

``auto`` takes the last box, else what follows "the answer is …", else what follows ``####``, else the last number, else the
last line; `Found.how` tells which. The last two are guesses: they count only where the text was written to its end.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueplex.errors import MissingExtra, OptionError, reason
from trueplex.files import text_of
from trueplex.grading import answers, find
from trueplex.grading.calls import named

AUTO, BOXED = "auto", "boxed"
GRAMMAR = "auto, boxed, number, choice, json, json:SCHEMA.json, last-line, regex:PATTERN, text, call:MODULE:FIND[:SAME]"

Find = Callable[[str], "str | None"]
Same = Callable[[str, str], "bool | None"]
Grouping = Callable[[Sequence[str]], "list[list[int]]"]


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, and how it was found: ``boxed``, ``the answer is``, ``####``, ``last number``, ``last line``, or the kind's name."""

    answer: str
    how: str


@dataclass(frozen=True)
class AnswerKind:
    """How an answer is found, and when two are the same; `answer_kind` makes one of a name.

    ``AnswerKind("sorted words", find=my_find, same=my_same)`` is one of your own.

    Attributes:
        spelled: its name, stored with every result.
        find: the answer in a text, which is what stands behind the thinking; None where there is none.
        same: whether two answers are equal, None where that cannot be told; by default by value, as `grading.answers.same`.
        gold: a known answer as it is compared with; None for one that none of this kind can equal. By default as it is.
        guess: what is found where `find` finds nothing and the text was not cut off.
        structured: the answers are JSON.
        free: whole texts are the answers, so no vote can count them: the best one by score is chosen.
    """

    spelled: str
    find: Callable[[str], str | Found | None]
    same: Same | None = None
    gold: Find | None = None
    guess: Callable[[str], Found | None] | None = None
    structured: bool = False
    free: bool = False

    @property
    def own(self) -> bool:
        """Whether known answers are read in a way of its own; else they are values, or texts that end in one."""
        return self.same is not None or self.gold is not None

    def __call__(self, text: str, whole: bool = True) -> Found | None:
        """The answer in a text; ``whole`` False says that it was cut off, so that nothing is guessed.

        Raises:
            OptionError: a function of one's own failed, or gave something else than a text or None.
        """
        text = find.visible(text)
        found = _asked(self, self.find, text)
        if found is None and whole and self.guess is not None:
            found = self.guess(text)
        if found is None or isinstance(found, Found):
            return found
        if not isinstance(found, str):
            raise OptionError(
                f"the answer kind {self.spelled!r} gave {type(found).__name__}. Try: return a text, or None for no answer"
            )
        return Found(found, self.spelled) if found.strip() else None

    def grade(self, answer: str | None, golds: Sequence[str]) -> answers.Grade:
        """Whether an answer equals one of those that count as right; without one it is wrong, None where nobody can tell."""
        if answer is None:
            return answers.Grade(False, None, "no answer")
        if not self.own:
            return answers.grade(answer, golds)
        known = [g for g in (self.gold(gold) if self.gold else gold for gold in golds) if g is not None]
        if not known:
            return answers.Grade(None, answer, "no answer to compare with")
        if self.same is None:
            return answers.grade(answer, known)
        verdicts = [_asked(self, self.same, answer, gold) for gold in known]
        right = True if True in verdicts else None if None in verdicts else False
        return answers.Grade(right, answer, {True: "equal", False: "different", None: "could not compare"}[right])

    def group(self, given: Sequence[str]) -> list[list[int]]:
        """The indices of the answers, grouped by equality with the first of a group, in order of first appearance."""
        if self.same is None:
            return answers.group(given)
        groups: list[list[int]] = []
        for index, answer in enumerate(given):
            for members in groups:
                first = given[members[0]]
                if first == answer or _asked(self, self.same, first, answer) is True:
                    members.append(index)
                    break
            else:
                groups.append([index])
        return groups

    def readable(self, gold: str) -> bool:
        """Whether a known answer can be compared with at all."""
        return self.gold is None or self.gold(gold) is not None


def _asked(kind: AnswerKind, function: Callable[..., Any], *texts: str) -> Any:
    """What a function gives; what one of the user's own raises is reported as its own error."""
    try:
        return function(*texts)
    except (MissingExtra, OptionError):
        raise
    except Exception as error:
        raise OptionError(f"the answer kind {kind.spelled!r} failed on {texts[0][-60:]!r} ({type(error).__name__}: {reason(error, 100)}). "
                          "Try: its code") from error  # fmt: skip


@functools.lru_cache(64)
def answer_kind(name: str) -> AnswerKind:
    """The answer kind of that name.

    Raises:
        OptionError: there is none, or its pattern, schema or function cannot be read.
    """
    plain = {AUTO: _auto, BOXED: _boxed, "number": _number, "choice": _choice, "last-line": _last_line, "text": _text}
    if name in plain:
        return plain[name]()
    kind, colon, rest = name.partition(":")
    if kind == "json" and bool(colon) == bool(rest):
        return _json(name, rest)
    if kind == "regex" and rest:
        return _regex(name, rest)
    if kind == "call" and rest.count(":") in (1, 2):
        module, function, *same = rest.split(":")
        return AnswerKind(
            name, named(module, function, "answer kind"), named(module, same[0], "answer kind") if same else None
        )
    raise OptionError(f"unknown answer kind {name!r}. Try: one of {GRAMMAR}")


def as_kind(given: str | AnswerKind) -> AnswerKind:
    """An answer kind by its name, or as it is."""
    return answer_kind(given) if isinstance(given, str) else given


# -- the kinds -------------------------------------------------------------------------------------


def _boxed() -> AnswerKind:
    return AnswerKind(BOXED, answers.extract)


def _auto() -> AnswerKind:
    def guess(text: str) -> Found | None:
        if number := find.last_number(text):
            return Found(number, "last number")
        line = find.last_line(text)
        return Found(line, "last line") if line else None

    return AnswerKind(AUTO, marked, guess=guess)


def marked(text: str) -> Found | None:
    """An answer that the text marks as one: the last box, else "the answer is …", else ``####``."""
    for how, look in ((BOXED, answers.extract), ("the answer is", find.said), ("####", answers.after_hashes)):
        if answer := look(text):
            return Found(answer, how)
    return None


def _number() -> AnswerKind:
    def in_mark(text: str) -> Found | None:
        found = marked(text)
        number = found and _value(found.answer)
        return Found(number, found.how) if found and number else None

    def guess(text: str) -> Found | None:
        number = find.last_number(text)
        return Found(number, "last number") if number else None

    return AnswerKind("number", in_mark, gold=_value, guess=guess)


def _value(text: str) -> str | None:
    r"""The number that a text is, in digits or as ``\frac{1}{2}``; else the last one in it."""
    return text.strip() if answers.is_number(text) else find.last_number(text)


def _choice() -> AnswerKind:
    def in_mark(text: str) -> Found | None:
        found = marked(text)
        letter = found and find.letter(found.answer)
        return Found(letter, found.how) if found and letter else None

    def guess(text: str) -> Found | None:
        letter = find.letter(text) or find.last_letter(text)
        return Found(letter, "last choice") if letter else None

    return AnswerKind("choice", in_mark, lambda a, b: a == b, find.letter, guess)


def _last_line() -> AnswerKind:
    return AnswerKind("last-line", lambda text: None, guess=lambda text: _found(find.last_line(text), "last line"))


def _text() -> AnswerKind:
    def same(one: str, other: str) -> bool:
        return one.split() == other.split()

    return AnswerKind("text", lambda text: None, same, lambda gold: gold, lambda text: _found(text, "text"), free=True)


def _found(answer: str | None, how: str) -> Found | None:
    return Found(answer, how) if answer else None


def _regex(name: str, pattern: str) -> AnswerKind:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise OptionError(
            f"the pattern {pattern!r} cannot be read ({error}). Try: correct it; Python's re is meant"
        ) from error

    def search(text: str) -> str | None:
        matches = list(compiled.finditer(text))
        return (matches[-1][1] if compiled.groups else matches[-1][0]) if matches else None

    return AnswerKind(name, search)


def _json(name: str, path: str) -> AnswerKind:
    valid = _validator(path) if path else lambda value: True

    def search(text: str) -> str | None:
        try:
            value = find.last_json(text)
        except ValueError:
            return None
        return _spelled(value) if valid(value) else None

    def gold(text: str) -> str | None:
        try:
            return _spelled(json.loads(text))
        except ValueError:
            return None

    return AnswerKind(name, search, lambda one, other: one == other, gold, structured=True)


def plain(value: Any) -> Any:
    """A JSON value with whole numbers without a fraction."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _spelled(value: Any) -> str:
    """JSON in one spelling: keys in order, whole numbers without a fraction."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False)


def _validator(path: str) -> Callable[[Any], bool]:
    """Whether a value fits the JSON schema in a file. Raises OptionError where it cannot be read."""
    try:
        import jsonschema
    except ImportError as error:
        raise MissingExtra("jsonschema", "json") from error
    try:
        schema = json.loads(text_of(Path(path).expanduser()))
        validator = jsonschema.validators.validator_for(schema)
        validator.check_schema(schema)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        raise OptionError(
            f"cannot read the schema {path} ({reason(error, 100)}). Try: give a file with a JSON schema"
        ) from error
    return validator(schema).is_valid
