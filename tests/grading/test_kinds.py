"""Kinds of answers that graders get wrong, each with cases of its own, in both directions.

Where a collection of such cases stands beside the checkout (shared/cases/grader.jsonl), all of it is graded too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trueplex.grading.answers import Grade, grade, grade_many

CASES = Path(os.environ.get("TRUEPLEX_CASES", Path(__file__).parents[3] / "shared" / "cases"))

SAME = {
    "choices": r"""
        B. \sqrt{2} | B
        (C) x+1 | x+1
        D | (D) 7
        \textbf{(E)}\ 144 | E
        \textbf{(D) }\frac{1}{2} | 0.5
        \textbf{(A)}\ -3 | -3
        C: because it is green | C
        (A), (C) | C,A
        (C) 2:3 | 2:3
        $2RC+R+C$ | R+C+2RC
        Answer: C | C
        (B) 13 | (B) 12""",
    "thousands": r"""
        x = 1,234,567 | 1234567
        7,000\pi | 7000\pi
        1,234 and 5,678 | 5678, 1234
        (1,000, 2,000) | (1000, 2000)
        \{1,000, 2,000\} | 1000, 2000
        1,500 + 2\sqrt{3} | 1500+2\sqrt3
        \frac{12,345}{2} | 6172.5
        \$1,234.50 | 1234.5
        1'234 | 1234
        (10,000) | 10000
        1,00,000 | 100000""",
    "plus-minus": r"""
        y=\pm 2 | 2,-2
        x = 1 \pm \sqrt{2} | 1+\sqrt2, 1-\sqrt2
        \{\pm 1, \pm 3\} | -3,-1,1,3
        (\pm 1, 2) | (1,2),(-1,2)
        5 \pm 3 | 8, 2
        a \pm b \mp c | a+b-c, a-b+c
        1 \pm 2 \pm 4 | 7, -1, 3, -5""",
    "inequalities": r"""
        x<1 \text{ and } x>-1 | (-1,1)
        x \le -1 \text{ or } x \ge 1 | (-\infty,-1] \cup [1,\infty)
        x \leq -1, x \geq 1 | (-\infty,-1] \cup [1,\infty)
        -1 < x < 1 | |x|<1
        x^2 < 4 | (-2,2)
        2x > 6 | x>3
        \{x \mid x > 2\} | (2,\infty)
        \{x \in \mathbb{R} \mid x \ne 3\} | (-\infty,3)\cup(3,\infty)
        \{x \in \mathbb{R} : -1 \le x < 4\} | [-1,4)
        \mathbb{R} \setminus \{1,2\} | (-\infty,1)\cup(1,2)\cup(2,\infty)
        \mathbb{R} | (-\infty,\infty)
        ]-\infty, 3[ | (-\infty,3)
        [0,1[ | [0,1)
        ]-\infty,0[ \cup ]0,+\infty[ | x \neq 0
        (1,2) \cup [2,3) | (1,3)
        a \ge b | b \le a
        x + 2y < 4 | 2x + 4y - 8 < 0
        \varnothing | \{\}
        1 \leq x \leq 5 | [1,5]
        5 \geq x > 1 | (1,5]
        (-\infty,0) \text{ or } (0,\infty) | x \ne 0
        \text{no solution} | \emptyset""",
    "unicode": """
        10⁵ | 100000
        10¹² | 10^{12}
        x₁ | x_1
        2⁻² | 0.25
        ¾ | 0.75
        2½ | 2.5
        ⁴⁄₅ | 4/5
        １２．５ | 12.5
        x＝５ | 5
        7\u200b | 7
        √2/2 | \\frac{\\sqrt{2}}{2}
        α+1 | 1+\\alpha
        ∅ | \\emptyset
        ℝ | \\mathbb{R}""",
    "styles": r"""
        \textcolor{blue}{\frac{1}{2}} | 0.5
        {\color{red} 7} | 7
        \boldsymbol{x+1} | 1+x
        \underline{12} | 12
        \textit{odd} | odd
        \begin{aligned} x &= 3 \end{aligned} | 3
        \left[\begin{array}{cc}1&2\\3&4\end{array}\right] | \begin{pmatrix}1&2\\3&4\end{pmatrix}""",
    "degrees": r"""
        75\degree | 75
        75° | 75
        \ang{30} | 30
        \sin 30^\circ | \frac12
        25℃ | 25""",
    "repeating decimals": r"""
        0.666... | 2/3
        0.1\overline{6} | 1/6
        0.1(6) | 1/6
        0.\dot{1}4285\dot{7} | 1/7
        0.142857142857... | 1/7""",
    "currencies": r"""
        €50 | 50
        50€ | 50
        £1,000 | 1000
        Rs. 500 | 500
        \text{Rs. }500 | 500
        50 USD | 50""",
    "Chinese": r"""
        8元 | 8
        7平方米 | 7
        60千米/时 | 60
        5万 | 50000
        2亿 | 200000000
        1、2 | 2,1
        x=1或x=2 | 1,2""",
    "number words": r"""
        three | 3
        twenty-five | 25
        two hundred and five | 205
        two thirds | 2/3
        \text{negative two} | -2
        3 hundred | 300
        4 dozen | 48
        \frac{1}{2} \text{ million} | 500000""",
    "units": r"""
        5 \text{ apples} | 5
        12 students | 12
        5\,\text{N}\cdot\text{m} | 5
        5 N·m | 5
        9.8 m/s² | 9.8
        9.8\,\mathrm{m\,s^{-2}} | 9.8
        3.0\times 10^{8} \text{ m s}^{-1} | 300000000
        6.67\times10^{-11}\,\mathrm{N\,m^2\,kg^{-2}} | 6.67e-11
        1.6 \times 10^{-19} C | 1.6e-19
        6 m | 6
        6 m | 6m
        12 \text{ miles per hour} | 12
        8\ \mathrm{M\Omega} | 8
        5 \frac{\text{m}}{\text{s}^2} | 5
        5{\rm cm} | 5
        \text{5 cm} | 5
        21st | 21
        5^{\text{th}} | 5""",
    "left sides": r"""
        m+n=41 | 41
        41=m+n | 41
        g^{-1}(x) = 2x-1 | 2x-1
        \overline{PQ} = 9 | 9
        [DEF] = 24 | 24
        \tan\theta = \frac13 | 1/3
        \vec w = (3,4) | (3,4)
        \vec{v} = \langle 1,2\rangle | (1,2)
        8 = n | 8
        m\angle A = 35 | 35
        AB^2 = 49 | 49
        \text{Area} = 10 | 10
        P(A|B) = 1/4 | 1/4
        \frac{dy}{dx} = 2x | 2x
        f'(x) = 3x^2 | 3x^2
        \int_0^1 x\,dx = \frac12 | 1/2
        \|v\| = 3 | 3
        \pi \approx 3.14 | 3.14
        (x,y)=(3,-1) | x=3,y=-1
        y = 2x+1 | 2x - y + 1 = 0
        a+b=5, ab=6 | 5,6""",
    "times and ratios": r"""
        3:00 \text{ p.m.} | 15:00
        7:15 | 7:15 AM
        3 PM | 3:00 PM
        2:6 | 1:3
        2:5 | 2/5
        3:4:5 | 6:8:10""",
    "calculus": r"""
        \int_0^2 x^2 dx | 8/3
        \lim_{x \to 0} \frac{\sin x}{x} | 1
        \lim_{n\to\infty}(1+\frac1n)^n | e
        \sum_{n=1}^\infty \frac{1}{n^2} | \frac{\pi^2}{6}
        3\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}3\\6\end{pmatrix}
        \begin{vmatrix}1&2\\3&4\end{vmatrix} | -2""",
    "exact values": r"""
        \sqrt{5+2\sqrt6} | \sqrt2+\sqrt3
        \cos\frac{\pi}{5} | \frac{1+\sqrt5}{4}
        \frac{10^{400}+1}{10^{400}} | 1+10^{-400}
        \sqrt2 + 10^{-500} | 10^{-500}+\frac{2}{\sqrt2}
        \sqrt[3]{-8} | -2
        h(a+b)/2 | \frac{(a+b)h}{2}""",
}
UNLIKE = {
    "choices": r"""
        (A) 12 | B
        (A) 12 | (B) 12
        (B) 13 | 12
        A | a""",
    "thousands": r"""
        (1,234) | 1234
        x = 1,234 | 1, 234
        1,234 and 5 | 1234""",
    "plus-minus": r"""
        \{\pm 1\} | 1
        1 \pm 2 | 3""",
    "inequalities": r"""
        [0,1[ | [0,1]
        (1,2) | [1,2]
        x>3 | y>3
        x>3 | 3
        x \ge 3 | (3,\infty)
        x<3 \text{ or } x>5 | (-\infty,3]\cup(5,\infty)
        (x,y) = (3,-1) | \emptyset
        x<1 \text{ or } x>-1 | (-1,1)
        x + 2y < 4 | x + 2y > 4
        \emptyset | 0
        (0, 1+10^{-400}) | (0,1)""",
    "unicode": """
        10²³ | 10^2
        ½ | 12
        2½ | 1""",
    "repeating decimals": r"""
        3.14159... | 3.14159
        3.14159... | \pi
        0.333333 | 1/3""",
    "numbers, not units": r"""
        4 dozen | 4
        7 million | 7
        5万 | 5
        3 quarters | 3
        5 thirds | 5
        9 \text{ remainder } 2 | 9
        9 \text{ R } 2 | 9
        3\mathrm{k} | 3
        2 theta | 2
        2\text{e} | 2
        7 mod 5 | 7
        5 squared | 5
        6m | 6
        3 \text{ or more} | 3""",
    "left sides": r"""
        m+n=41 | 42
        3x = 15 | 5
        x^2 = 9 | 9
        5x-7y=0 | 0
        x = 2, y = 1 | (1,2)
        y = 2x+1 | y = 2x+2
        r = 5 | s = 5""",
    "times and ratios": r"""
        3:30 \text{ PM} | 3:30 \text{ AM}
        12:05 | 12:06
        3:4:5 | 3:4:6
        5:00 | 5""",
    "undefined": r"""
        1/0 | 2/0
        0/0 | 1/0
        \log 0 | \log(0)+1
        \tan\frac{\pi}{2} | 5""",
    "small differences": r"""
        2^{-500} | 2^{-501}
        \sqrt{2}\cdot10^{-400} | \sqrt{3}\cdot10^{-400}
        \sqrt2 + 10^{-500} | \sqrt2
        \sqrt{2 + 10^{-500}} | \sqrt2
        \pi + 10^{-500} | \pi
        e^{-2000} | e^{-2001}
        x + 10^{-400} | x
        1-\frac{1}{900!} | 1-\frac{1}{901!}
        \ln(2+10^{-400}) | \ln 2""",
    "calculus": r"""
        \int_0^2 x^2 dx | 2.666667
        \lim_{n\to\infty}(1+\frac1n)^n | 2.718281828
        \sin 1 | 0.841471
        \begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix}""",
}


def pairs(kinds: dict[str, str]) -> list[tuple[str, str, str]]:
    rows = [(kind, line.strip()) for kind, lines in kinds.items() for line in lines.splitlines() if line.strip()]
    return [(kind, *line.rsplit(" | ", 1)) for kind, line in rows]  # type: ignore[misc]


@pytest.mark.parametrize("turned", [False, True], ids=["as written", "turned round"])
def test_each_kind_in_both_directions(turned: bool) -> None:
    rows = [(*row, True) for row in pairs(SAME)] + [(*row, False) for row in pairs(UNLIKE)]
    asked = [(rf"\boxed{{{b if turned else a}}}", [a if turned else b]) for _, a, b, _ in rows]
    graded = grade_many(asked, 20)
    assert [(row, g) for row, g in zip(rows, graded, strict=True) if (g.correct is True) is not row[3]] == []


@pytest.mark.parametrize(
    ("text", "gold", "correct"),
    [
        (r"The roots are $\boxed{2}$ and $\boxed{-2}$.", "2,-2", True),
        (r"$x=\boxed{3}$ or $x=\boxed{5}$", "3,5", True),
        (r"\boxed{1}, \boxed{2}, and \boxed{3}", "1,2,3", True),
        (r"First \boxed{3}. Then \boxed{4}.", "4", True),
        (r"First \boxed{3}. Then \boxed{4}.", "3,4", False),
        ("\\boxed{5}\n\nFinal: \\boxed{5}", "5", True),
        (r"\boxed{7}, given in \boxed as you wished", "7", True),
        (r"\boxed{7}. (An empty box is \boxed{}.)", "7", True),
        (r"\boxed{7}. The format \boxed{...} was asked.", "7", True),
        (r"\framebox{7}", "7", True),
        ("So 3 + 4 = 7.\n#### 7", "7", True),
        ("#### $1,234", "1234", True),
        (r"\boxed{7}", "3 + 4 = <<3+4=7>>7\n#### 7", True),
        ("`12`", "12", True),
        (r"\\boxed{\\frac{1}{2}}", "1/2", True),
    ],
)
def test_where_an_answer_is_found(text: str, gold: str, correct: bool) -> None:
    assert grade(text, [gold], 20).correct is correct


@pytest.mark.parametrize("gold", ["\frac{1}{2}", "2\times 3", "\boxed{5}"])
def test_a_known_answer_with_a_broken_escape_is_noticed(gold: str) -> None:
    r"""JSON or Python written with one backslash makes a form feed of \f: such an answer says nothing."""
    told = grade(r"\boxed{\frac{1}{2}}", [gold])
    assert told.correct is None
    assert "control character" in told.why
    assert grade(r"\boxed{\frac{1}{2}}", [gold, "0.5"]) == Grade(True, r"\frac{1}{2}", "equal")


@pytest.mark.skipif(not (CASES / "grader.jsonl").is_file(), reason="no cases stand beside this checkout")
def test_the_cases_beside_the_checkout() -> None:
    lines = [json.loads(line) for line in (CASES / "grader.jsonl").read_text().splitlines()]
    graded = grade_many([(line["prediction"], line["answers"]) for line in lines], 20)
    assert [(line, g) for line, g in zip(lines, graded, strict=True) if (g.correct is True) is not line["want"]] == []
