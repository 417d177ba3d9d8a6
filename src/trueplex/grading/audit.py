"""Where plain graders and ours part: strict string, numeric, and math-verify by itself, beside the one grader.

An audit says nothing about who is right; it lists what a person should look at. Each of the three is what
others grade by, kept as plain as they have it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from trueplex.grading.answers import TIMEOUT, Grade, grade
from trueplex.grading.pool import workers

NAMES = ("string", "numeric", "math_verify")


@dataclass(frozen=True, slots=True)
class Audit:
    """Our grade and the verdicts of the others; None where one cannot tell (no number, unreadable, late)."""

    grade: Grade
    string: bool | None = None
    numeric: bool | None = None
    math_verify: bool | None = None

    @property
    def disagree(self) -> bool:
        """Some that can tell tell otherwise."""
        told = {self.grade.correct, self.string, self.numeric, self.math_verify}
        return {True, False} <= told


def audit(prediction: str | None, answers: Sequence[str]) -> Audit:
    """Grade a prediction in every way. All judge the answer that ours extracts; without one there is nothing to audit.

    Raises:
        MissingExtra: math-verify is not installed.
    """
    ours = grade(prediction, answers, TIMEOUT)
    told = ours.extracted
    if told is None or not answers:
        return Audit(ours)
    numbers = [_equal_numbers(told, answer) for answer in answers]
    numeric = True if True in numbers else None if None in numbers else False
    library = workers.ask(told, list(answers), TIMEOUT, library=True).verdict
    return Audit(ours, any(told.strip() == answer.strip() for answer in answers), numeric, library)


def audit_many(pairs: Iterable[tuple[str | None, Sequence[str]]]) -> list[Audit]:
    """`audit` each (prediction, answers), on all workers at once, in order."""
    with ThreadPoolExecutor(workers.size) as threads:
        return list(threads.map(lambda pair: audit(*pair), pairs))


def _equal_numbers(one: str, other: str) -> bool | None:
    try:
        a, b = (float(text.strip().strip("$").replace(",", "")) for text in (one, other))
    except ValueError:
        return None
    return math.isclose(a, b, rel_tol=1e-6)
