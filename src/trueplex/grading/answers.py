r"""The one grader: is this answer right? Reward, evaluation and the vote all ask here: they cannot disagree.

`extract` finds the boxed answer, `normalise` gives it one spelling, `same` compares two by value, `grade`
judges a text, `group` sorts a vote. Plain numbers are compared exactly, right here, in microseconds. The rest
goes to a worker process (`trueplex.grading.worker`, the `math` extra), which is killed when it is late. Every
call blocks, needs no signals and no event loop, and may come from any thread.

**What counts as equal.** The same value as written: ``0.5`` is ``1/2``, but ``0.333`` is not ``1/3``, nor
``3.14`` ``\pi``, however small the difference; what is undefined equals nothing but its own spelling. A bare list or
a set is equal in any order, a tuple or interval only in its own; inequalities and intervals are compared as sets. A unit
or degree sign after a number counts for nothing, ``5 million`` is a number. ``p%`` is ``p`` and also ``p/100``; the
choice ``(B) 12`` is ``B`` and also ``12``; ``x = 5``, ``m+n = 5`` and ``5 = x`` are ``5``, but not ``y = 5``; ``3x = 15``
is an equation still to be solved, and no number. (Otherwise being the same is transitive.) Variables are real numbers,
and ``r`` is not ``R``. Times of day are times, ``1:2`` is a ratio. None means that nobody can tell, never "wrong".

Left out: answers told in prose, judges, the decimal comma.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from trueplex.errors import MissingExtra
from trueplex.grading.extract import after_hashes, after_thinking, extract, has_box
from trueplex.grading.normalise import LONGEST, normalise
from trueplex.grading.pool import Reply, workers
from trueplex.grading.rationals import exact

__all__ = ["LONGEST", "TIMEOUT", "Grade", "extract", "grade", "grade_many", "group", "normalise", "same", "workers"]

TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Grade:
    """``correct`` is None where nobody can tell; ``why`` says in a few words how it was decided."""

    correct: bool | None
    extracted: str | None
    why: str


# -- plain values --------------------------------------------------------------------------------------------

_INTEGER = re.compile(r"-?\d{1,300}")
_WORD = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z' -]*|(?i:yes|no|odd|all|DNE)")
_PROSE = re.compile(r"(?<![\\{A-Za-z])[A-Za-z]+ [A-Za-z]{3,}")
_CHOICE = re.compile(  # of a list of choices: (B) 12, B. 12, B: because, Option B
    r"(?:\(([A-J])\)(?![+*/^=!_,]|$)|([A-J])[).](?=.)|([A-J]):(?=[^:]{2,}$|\d$)|(?i:choice|option|answer|选项?|答案)[ :是为]*\(?([A-J])\b\)?[).:]?)(.*)"
)
# What \f, \b, \t … of a LaTeX command become where JSON or Python was written with one backslash.
_BROKEN_ESCAPE = re.compile(r"[\x07\x08\x0b\x0c\x1b]|\t(?=imes|ext|heta|an|frac|binom)|\r(?=ight|angle|floor|ceil|m\{)")


class _Reading(NamedTuple):
    """An answer as far as it can be read without math-verify."""

    text: str
    exact: Fraction | None = None
    percent: bool = False
    word: str | None = None
    letter: str = ""  # of a choice, whose value is the rest

    @property
    def key(self) -> object:
        """Equal for answers that are the same already at this point."""
        value = self.exact if self.exact is not None else self.word or self.text
        return (self.letter, value) if self.letter else value


def _read(answer: str) -> _Reading:
    if len(answer) <= LONGEST or "####" in answer:
        return _read_short(answer)
    return _Reading(answer.strip())


@functools.lru_cache(8192)
def _read_short(answer: str) -> _Reading:
    if _INTEGER.fullmatch(answer):
        return _Reading(answer, Fraction(int(answer)))
    text, letter = normalise(answer), ""
    if len(text) <= LONGEST and (choice := _CHOICE.fullmatch(text)):
        letter = next(filter(None, choice.groups()[:4]))
        if not choice[5]:
            return _Reading(letter)
        text = choice[5]
    if (value := exact(text.removesuffix("%"))) is not None:
        return _Reading(text, value, text.endswith("%"), letter=letter)
    return _Reading(text, word=text.casefold() if _WORD.fullmatch(text) else None, letter=letter)


def _plainly(a: _Reading, b: _Reading) -> bool | None:
    """Whether the two are the same, if spelling and exact numbers can tell."""
    if not (a.text and b.text):
        return None
    if a.letter and b.letter:
        return a.letter == b.letter
    if a.key == b.key or a.text == b.text or (a.letter or a.text) == (b.letter or b.text):
        return True
    if a.exact is not None and b.exact is not None:
        hundredfold = b.exact * (100 if a.percent else Fraction(1, 100))
        return a.exact == b.exact or (a.percent != b.percent and a.exact == hundredfold)
    return False if (a.word or a.exact is not None) and (b.word or b.exact is not None) else None


def is_number(answer: str) -> bool:
    r"""Whether an answer is one exact number, in digits or as in ``\\frac{1}{2}``."""
    return _read(answer).exact is not None


# -- verdicts ------------------------------------------------------------------------------------------------


def same(a: str, b: str, timeout: float = TIMEOUT) -> bool | None:
    """Whether two answers are equal in value: True, False, or None if that cannot be told (unreadable, late).

    ``same(a, b) == same(b, a)``. It works for at most ``timeout`` seconds, not counting the wait for a
    worker, which starts in about a second, at the first question and after a late one.

    Raises:
        MissingExtra: plain comparison cannot decide and math-verify is not installed.
    """
    return _compare(_read(a), [_read(b)], timeout).verdict


def _compare(a: _Reading, others: Sequence[_Reading], timeout: float) -> Reply:
    """Whether the answer is the same as any of the others, and which. No others: whether it is comparable."""
    verdicts = [_plainly(a, b) for b in others]
    if True in verdicts:
        return Reply(True, "equal", verdicts.index(True))
    unsure = [k for k, verdict in enumerate(verdicts) if verdict is None]
    if others and not unsure:
        return Reply(False, "different")
    if max(len(a.text), *(len(others[k].text) for k in unsure), 0) > LONGEST:
        return Reply(None, f"could not parse: longer than {LONGEST} characters")
    reply = workers.ask(a.text, [others[k].text for k in unsure], timeout)
    return reply if reply.match is None else reply._replace(match=unsure[reply.match])


def grade(prediction: str | None, answers: Sequence[str], timeout: float = TIMEOUT) -> Grade:
    """Judge a model's text, or a bare answer, against the answers that count as right (any of them will do).

    Of a text with thinking, only what follows the first ``</think>``, up to another tag, is read; a
    ``<think>`` that never closes was cut off and is wrong. The answer is the last box (see `extract`), or what
    follows ``####``. Without either, a text of at most 400 characters and one line (or with a LaTeX environment) is itself the
    answer, unless it is prose: two plain words in a row, beside something else. Any other text is wrong.

    Raises:
        MissingExtra: see `same`.
    """
    text = after_thinking(prediction or "")
    if text is None:
        return Grade(False, None, "thinking was truncated")
    extracted = extract(text)
    if extracted is None and has_box(text):
        return Grade(False, None, "the last box is broken or empty")
    if extracted is None and (extracted := after_hashes(text)) is None:
        extracted = text.strip()
        if not _is_bare(extracted, answers):
            return Grade(False, None, "no boxed answer")
    if not answers:
        return Grade(None, extracted, "no answer to compare with")
    whole = [answer for answer in answers if not _BROKEN_ESCAPE.search(answer)]
    reply = _compare(_read(extracted), [_read(a) for a in whole], timeout) if whole else Reply(None, "")
    if reply.verdict is not True and len(whole) < len(answers):
        return Grade(None, extracted, "the known answer has a control character (LaTeX written with one backslash?)")
    return Grade(reply.verdict, extracted, reply.why)


def _is_bare(text: str, answers: Sequence[str]) -> bool:
    """Whether a text without a box is an answer by itself, and no prose."""
    bare, spelt = _read(text), [_read(answer).text for answer in answers]
    prose = _PROSE.search(bare.text) and not bare.word and bare.text not in spelt
    lines = 1 if "\\begin{" in text else len(text.splitlines())
    return not prose and lines == 1 and len(text) <= 400


def grade_many(pairs: Iterable[tuple[str | None, Sequence[str]]], timeout: float = TIMEOUT) -> list[Grade]:
    """`grade` each (prediction, answers), on all workers at once; the grades are in order."""
    with ThreadPoolExecutor(workers.size) as threads:
        return list(threads.map(lambda pair: grade(pair[0], pair[1], timeout), pairs))


def group(answers: Sequence[str], timeout: float = TIMEOUT) -> list[list[int]]:
    """The indices of the answers, grouped by value, in order of first appearance.

    An answer is held against the first of each group, then tried alone before others are held against it,
    each for at most ``timeout`` seconds. What cannot be told (unreadable, late, or math-verify is not
    installed) never merges, unless spelt the same. ``50%`` stands with ``50``, not with ``0.5``.
    """
    groups: list[list[int]] = []
    places: dict[object, list[int]] = {}
    firsts: list[tuple[_Reading, list[int]]] = []  # of the groups that others can be held against
    for index, reading in enumerate(map(_read, answers)):
        if reading.key not in places:
            rivals = [
                rival
                for rival in firsts
                if reading.exact is None or rival[0].exact is None or reading.letter or rival[0].letter
            ]
            reply = Reply(False, "")
            try:
                if reading.word or not reading.text:
                    reply = Reply(None, "")
                elif rivals:
                    reply = _compare(reading, [rival for rival, _ in rivals], timeout)
                if reply.verdict is False and reading.exact is None:
                    reply = _compare(reading, [], timeout)
            except MissingExtra:
                reply = Reply(None, "")
            if reply.match is None:
                groups.append([])
                if reply.verdict is False:
                    firsts.append((reading, groups[-1]))
            places[reading.key] = groups[-1] if reply.match is None else rivals[reply.match][1]
        places[reading.key].append(index)
    return groups
