"""The grader on whole sets of answers: each right as itself in every usual spelling, wrong as another's.

`SAMPLE` holds a few of each kind that the six public sets have. Where the sets themselves lie beside the
project (TRUEPLEX_BENCHMARKS names the folder), the same laws are checked on all of them.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from trueplex.data.problems import read_file
from trueplex.grading.answers import grade_many
from trueplex.grading.audit import audit

SAMPLE = [
    "204", "025", "-3", "10{,}080", "3.5", "0.28", r"\frac{14}{3}", r"-\frac{1}{2}", "1,234,567", r"50\%", r"36^\circ",
    r"\left( 3, \frac{\pi}{2} \right)", "p - q", r"11\sqrt2", r"2\sqrt{3} + i", r"3\sqrt{13}", r"\text{Evelyn}", r"\text{(E)}",
    "(-2,1)", "1,-2", r"(-\infty, 0) \cup (0, 3]", r"[-2,7]", r"x^3 + 3x - 6", "x=5", r"6r^2 - 4r - 24", "90 ^\\circ",
    r"\begin{pmatrix} -2 \\ 5 \end{pmatrix}", r"\$32", "4.5e33", r"8.7 \times 10^{8}", r"\arcsin{1.3}", r"\frac{3 \pm \sqrt{5}}{2}",
    r"15\mbox{ cm}^2", r"\{1, 3, 7\}", r"2^{1009}", "even",
]  # fmt: skip
FOLDER = Path(os.environ.get("TRUEPLEX_BENCHMARKS", Path(__file__).parents[3] / "shared" / "benchmarks"))
PUBLIC = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")


def variants(gold: str) -> list[str]:
    """How a model may write an answer: boxed in a text, set as mathematics, with other habits of LaTeX."""
    bare = gold.strip().strip("$")
    found = [rf"So \boxed{{{gold}}}.", rf"$\boxed{{{bare}}}$", rf"thus \[\boxed{{ {bare} }}\]", rf"\boxed{{${bare}$}}"]
    found.append(rf"\boxed{{{bare}}}".replace(r"\frac", r"\dfrac"))
    if re.fullmatch(r"-?\d+", bare):
        found += [rf"\boxed{{{int(bare):,}}}", rf"\boxed{{{int(bare)}.0}}", rf"\boxed{{{int(bare)}\text{{ units}}}}"]
        found += [rf"\boxed{{{int(bare):,}}}".replace(",", "{,}"), rf"\boxed{{x = {int(bare)}}}"]
    if match := re.fullmatch(r"(-?)\\frac\{(\d+)\}\{(\d+)\}", bare):
        found += [
            rf"\boxed{{{match[1]}{match[2]}/{match[3]}}}",
            rf"\boxed{{\frac{{{match[1]}{match[2]}}}{{{match[3]}}}}}",
        ]
    if match := re.fullmatch(r"(\d+)\\?%", bare):
        found += [rf"\boxed{{{match[1]} percent}}", rf"\boxed{{{match[1]}\text{{ percent}}}}"]
    return found


def test_the_sample_is_right_in_every_spelling_and_wrong_as_another() -> None:
    pairs = [(text, [gold]) for gold in SAMPLE for text in variants(gold)]
    assert [(p, g) for p, g in zip(pairs, grade_many(pairs, 20), strict=True) if g.correct is not True] == []
    others = [(rf"\boxed{{{a}}}", [b]) for i, a in enumerate(SAMPLE) for b in (SAMPLE[i - 1], SAMPLE[i - 7])]
    assert [(p, g) for p, g in zip(others, grade_many(others, 20), strict=True) if g.correct is not False] == []


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the public sets are not beside this checkout")
@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_set_grades_its_own_answers(name: str) -> None:
    problems, complaints = read_file(str(FOLDER / f"{name}.jsonl"))
    assert not complaints
    pairs = [(text, list(p.answers or ())) for p in problems for gold in p.answers or () for text in variants(gold)]
    wrong = [(p, g) for p, g in zip(pairs, grade_many(pairs, 20), strict=True) if g.correct is not True]
    assert wrong == []
    golds = [p.answers or () for p in problems]
    others = [(rf"\boxed{{{a[0]}}}", list(b)) for a, b in zip(golds, golds[7:] + golds[:7], strict=True)]
    graded = grade_many(others, 20)
    taken = [p for p, g in zip(others, graded, strict=True) if g.correct]
    # Some problems do have the same answer: then a grader that shares no code with ours must say so, too.
    looks = [(p, audit(*p)) for p in taken]
    assert [p for p, look in looks if not (look.string or look.numeric or look.math_verify)] == []
    assert sum(g.correct is None for g in graded) <= len(graded) / 50


def test_two_hundred_answers_a_second() -> None:
    pairs = [(rf"\boxed{{{gold}}}", [other]) for gold in SAMPLE for other in SAMPLE[:16]]
    grade_many(pairs[:40], 20)  # have the workers ready
    started = time.perf_counter()
    grade_many(pairs, 20)
    assert len(pairs) / (time.perf_counter() - started) > 200
