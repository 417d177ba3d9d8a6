"""The grader: right answers in every usual spelling, wrong ones that look right, and workers that hang or die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trueplex.errors import MissingExtra, TrueplexError
from trueplex.grading import answers
from trueplex.grading import pool as answers_pool
from trueplex.grading.answers import Grade, extract, grade, grade_many, group, normalise, same
from trueplex.grading.pool import workers

SLOW = settings(max_examples=40, deadline=None)
HANGING = r"\int_0^1" + "(" * 190 + "x" + ")" * 190 + "dx"  # the parser tries every reading of every bracket

# -- spelling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{ x \right.} end", r"\left\{ x \right."),  # an escaped brace is no brace
        (r"\boxed{ \boxed{5} }", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5", "5"),
        (r"$\boxed 5$.", "5"),
        (r"\boxed{1} or \boxed 5", "1, 5"),  # several boxes are one list
        (r"\boxed{1} but \boxed{\frac{1}{2", None),  # no earlier box after a broken last one
        (r"\boxed{}", None),
        (r"write it in \boxed", None),
        (r"\boxedness{3}", None),
        ("42", None),
        ("", None),
    ],
)
def test_extract(text: str, content: str | None) -> None:
    assert extract(text) == content


@pytest.mark.parametrize(
    ("answer", "spelling"),
    [
        (r"$\left( 3, \dfrac{\pi}{2} \right)$", r"(3,\frac{\pi}{2})"),
        (r"\[ \tfrac 12 \]", r"\frac{1}{2}"),
        (r"\frac9{19}", r"\frac{9}{19}"),
        (r"11\sqrt2", r"11\sqrt{2}"),
        (r"\$32,\!348", "32348"),
        ("1{,}234.5", "1234.5"),
        ("1,234,567", "1234567"),
        ("1 234", "1234"),
        ("(1,234)", "(1,234)"),
        ("1, 234", "1;234"),
        ("12,34", "12,34"),
        ("12345,678", "12345,678"),
        (r"15\mbox{ cm}^2", "15"),
        ("12 square inches.", "12"),
        ("9.8 m/s^2", "9.8"),
        ("6m", "6m"),
        ("3 x", "3x"),
        (r"5\mathrm{i}", "5i"),
        (r"90^{\circ}", "90"),
        (r"1950^\circ C", "1950"),
        (r"8\%", "8%"),
        ("25 percent", "25%"),
        (r"\text{(C)}", "C"),
        (r"\textbf{\text{even}}", "even"),
        (r"\text{north west}", "north west"),
        ("−½", r"-\frac{1}{2}"),
        ("**7**", "7"),
        (r"$\boxed{7}$", "7"),
        (".5", "0.5"),
        ("4.5e33", r"4.5\times10^{33}"),
        (r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}", r"\begin{pmatrix}1\\-2\end{pmatrix}"),
    ],
)
def test_normalise(answer: str, spelling: str) -> None:
    assert normalise(answer) == spelling
    assert normalise(spelling) == spelling


# -- values --------------------------------------------------------------------------------------------------

EQUAL = [
    ("007", "7"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"1\frac{4}{5}", "9/5"),
    ("1 4/5", "1.8"),
    (r"0.\overline{3}", r"\frac13"),
    (r"8.7 \times 10^{8}", "870000000"),
    ("1e-5", "0.00001"),
    (r"50\%", "50"),
    (r"50\%", r"\frac12"),
    (r"\sqrt{12}", r"2\sqrt{3}"),
    ("sqrt(2)", r"\sqrt2"),
    (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}"),
    (r"2^{1009}", r"2\cdot 4^{504}"),
    (r"\binom{2n}{n}", r"\frac{(2n)!}{n!n!}"),
    (r"\sin^2 x+\cos^2 x", "1"),
    (r"\sqrt{a}\sqrt{b}", r"\sqrt{ab}"),
    (r"x\sqrt{x}", r"\sqrt{x^3}"),  # undefined below 0, on both sides
    ("0.1x", r"\frac{x}{10}"),
    ("aE_0+1", "1+aE_{0}"),
    ("(-1)^n", "(-1)^{n+2}"),
    (r"\lfloor\log_2 n\rfloor+1", r"\lceil\log_2(n+1)\rceil"),
    ("1/2x", r"\frac{x}{2}"),
    ("(1+i)^2", "2i"),
    (r"e^{i\pi}", "-1"),
    ("x=5", "5"),
    ("x=2+3=5", "5"),
    ("x=a+b=5", "5"),
    ("f(x)=x+1", "1+x"),
    ("1,-2", "-2, 1"),
    (r"1\pm\sqrt{19}", r"1-\sqrt{19},1+\sqrt{19}"),
    (r"\{1,2\}", r"2 \text{ and } 1"),
    (r"(\frac12,2)", r"\left(0.5, 2\right)"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty) \cup (-\infty,2)"),
    (r"x \in [-2,7]", r"-2\le x\le 7"),
    (r"k\geqslant 2", r"[2,\infty)"),
    ("5x-7y+4=0", "8+10x=14y"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\text{Evelyn}", "evelyn"),
    (r"\sum_{k=1}^{10}k", "55"),
]
DIFFERENT = [
    ("0.333333", r"\frac13"),
    ("1000000000000001", "10^{15}"),
    (r"3.3\times10^{-10}", r"5.9\times10^{-7}"),  # math-verify rounds both to 0.000000
    (r"10^{-20}\pi", "0"),
    (r"2^{1009}", r"2^{1009}-1"),
    (r"\pi", "3.14159265358979"),
    ("6m", "6"),  # math-verify takes m for metres
    ("r^2", "R^2"),  # and lowers every variable
    ("52_8", "52"),  # and drops the base
    ("x'", "x"),  # and the prime
    ("x=5", "y=5"),
    ("x=1,y=2", "x=2,y=1"),
    ("5x-7y=0", "0"),  # and keeps the right side of an equation
    ("3,3", "3"),
    ("3,3", "3,4"),
    ("y'=y", "y=y"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,234)", "1234"),
    (r"\sqrt{x^2}", "x"),
    (r"\lfloor x\rfloor", "x"),
    (r"\lfloor n/30\rfloor", r"\lfloor (n+1)/30\rfloor"),  # only n = 29 of 1..41 tells
    ("I^2", "-1"),
    ("(-1)^n", "-1"),
    ("(-1)^{m+n}", "1"),
    (r"\lfloor m/2\rfloor", r"\lfloor n/2\rfloor"),
    (r"\lfloor\sqrt{n}\rfloor", r"\lfloor\sqrt{n-1}\rfloor"),
    ("x^2+1", "x^2-1"),
    ("even", "odd"),
    ("east", "5"),
    (r"\log x", r"\ln x"),
]
UNKNOWN = [
    ("t(0,4]", "4"),
    ("f(x)=x+b, where b is any integer", "x"),
    (r"10^{10^{10}}", "5"),
    (r"\frac{1}{0}", r"\infty"),
]
UNKNOWN += [("", "5")]


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in DIFFERENT] + [(*p, None) for p in UNKNOWN],
)
def test_same(a: str, b: str, verdict: bool | None) -> None:
    assert same(a, b, 20) is verdict
    assert same(b, a, 20) is verdict


def spellings(value: Fraction) -> list[str]:
    n, d = value.numerator, value.denominator
    sign = "-" if n < 0 else ""
    found = [f"{n}/{d}", rf"\frac{{{n}}}{{{d}}}", rf"${sign}\dfrac{{{abs(n)}}}{{{d}}}$", rf"\boxed{{{n}/{d}}}"]
    found += [f"{n}", f"{n:,}", f"{n}.0", f"{n:,}".replace(",", "{,}"), f"{n} cm"] if d == 1 else []
    found += [f"{float(value):.4f}"] if 10_000 % d == 0 and abs(n) < 10**9 else []
    return found


numbers = st.builds(Fraction, st.integers(-(10**7), 10**7), st.sampled_from([1, 1, 2, 3, 7, 8, 400]))


@given(numbers, numbers, st.data())
def test_rationals_are_compared_exactly(p: Fraction, q: Fraction, data: st.DataObject) -> None:
    a, b = (data.draw(st.sampled_from(spellings(x))) for x in (p, q))
    assert same(a, b) is (p == q)
    assert all(same(a, other) for other in spellings(p))


ANSWERS = [
    r"\sqrt{4}",
    "2",
    "2.0",
    r"\frac{8}{4}",
    "x+1",
    "1+x",
    "(1,2)",
    "(1.0,2)",
    "1,2",
    "2,1",
    "yes",
    "Yes",
    "t(0,4]",
]
ANSWERS += [r"\sqrt{8}", r"2\sqrt2", "hello 5 there", "[1,2]", "x^2", "-2", r"\pi", r"[1,\infty)", "x \\ge 1", "5x=10"]


@SLOW
@given(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS))
def test_same_is_symmetric_and_reflexive(a: str, b: str) -> None:
    assert same(a, b, 20) is same(b, a, 20)
    assert same(a, a) is True


# -- groups --------------------------------------------------------------------------------------------------


@SLOW
@given(st.lists(st.sampled_from(ANSWERS), max_size=8))
def test_groups_are_what_same_says(batch: list[str]) -> None:
    groups = group(batch, 20)
    assert sorted(i for members in groups for i in members) == list(range(len(batch)))
    assert [members[0] for members in groups] == sorted(members[0] for members in groups)
    place = {i: k for k, members in enumerate(groups) for i in members}
    for i in range(len(batch)):
        for j in range(i):
            assert (place[i] == place[j]) is (same(batch[i], batch[j], 20) is True)


def test_group_keeps_what_it_cannot_tell_apart() -> None:
    assert group(["t(0,4]", "4", "t(0,4]", "[0,4", "4.0"]) == [[0, 2], [1, 4], [3]]
    assert group(["50%", "0.5", "50", "1/2"]) == [[0, 2], [1, 3]]
    assert group([]) == []


def test_group_is_fast_for_plain_answers() -> None:
    batch = [str(k * k % 97) for k in range(256)]
    start = time.perf_counter()
    for _ in range(10):
        group(batch)
    assert (time.perf_counter() - start) / 10 / 256 < 1e-3


def test_hanging_answers_cost_a_group_one_timeout_each_and_blame_nobody_else() -> None:
    before = workers.timeouts
    assert group([r"\prod_{k=1}^{10^8}k", HANGING, r"\sqrt{4}", "2", "x+1", "1+x"], 1.0) == [[0], [1], [2, 3], [4, 5]]
    assert workers.timeouts == before + 2


# -- grades --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "golds", "correct", "extracted", "why"),
    [
        (r"thus \boxed{42}", ["42"], True, "42", "equal"),
        (r"thus \boxed{41}", ["42"], False, "41", "different"),
        (r"\boxed{41}", ["40", "41"], True, "41", "equal"),
        ("42", ["42"], True, "42", "equal"),
        (r"$\frac{1}{2}$", ["0.5"], True, r"$\frac{1}{2}$", "equal"),
        ("\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}", [r"\begin{pmatrix}1\\2\end{pmatrix}"], True, None, "equal"),
        ("The answer is 42", ["42"], False, None, "no boxed answer"),
        ("40\n42", ["42"], False, None, "no boxed answer"),
        ("1" * 401, ["42"], False, None, "no boxed answer"),
        (None, ["42"], False, None, "no boxed answer"),
        ("", ["42"], False, None, "no boxed answer"),
        (r"\boxed{42} or \boxed{4", ["42"], False, None, "the last box is broken or empty"),
        (r"<think>\boxed{42}", ["42"], False, None, "thinking was truncated"),
        (r"<think>a</think>b<think>\boxed{42}", ["42"], False, None, "thinking was truncated"),
        (r"<think>\boxed{42}</think>", ["42"], False, None, "no boxed answer"),
        (r"<think>\boxed{1}</think>\boxed{42}", ["42"], True, "42", "equal"),
        (r"\boxed{1}</think>\boxed{42}", ["42"], True, "42", "equal"),
        (r"a</think>\boxed{42}</think>\boxed{1}", ["42"], True, "42", "equal"),
        (r"\boxed{t(0,4]}", ["4"], None, "t(0,4]", "could not parse 't(0,4]'"),
        (r"\boxed{t(0,4]}", ["4", "t(0,4]"], True, "t(0,4]", "equal"),
        (r"\boxed{4}", [], None, "4", "no answer to compare with"),
        ("\\boxed{" + "x" * 2001 + "}", ["x"], None, "x" * 2001, "could not parse: longer than 2000 characters"),
    ],
)
def test_grade(prediction: str | None, golds: list[str], correct: bool | None, extracted: str | None, why: str) -> None:
    told = grade(prediction, golds)
    assert (told.correct, told.why) == (correct, why)
    assert told.extracted == extracted or (extracted is None and correct)


@pytest.mark.parametrize(
    "hostile",
    [
        r"10^{10^{10}}",
        r"10^{10^{10^{10}}}",
        "100!!!",
        "9" * 1_000_000,
        "9" * 1900,
        "1e999999999",
        "{" * 900 + "5" + "}" * 900,
        r"\frac{1}{" * 60 + "x" + "}" * 60,
        "hello world " * 90_000,
        "\\" * 1998,
        "%" * 1900,
        "5 " + "abcd " * 390 + "!",
        "\ud800\x00",
        r"\prod_{k=1}^{10^8}k",
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)
def test_hostile_predictions_take_bounded_time_and_are_never_right(hostile: str) -> None:
    same("x", "y")  # have a worker ready
    start = time.perf_counter()
    assert grade(rf"\boxed{{{hostile}}}", ["5", "x+1"], 0.5).correct is not True
    assert grade(hostile, ["x+1"], 0.5).correct is not True
    assert time.perf_counter() - start < 5  # two timeouts, and a busy machine's time to start a worker


def test_grade_many_keeps_the_order() -> None:
    pairs = [(rf"\boxed{{{k}+x}}", [f"x+{k // 2 * 2}"]) for k in range(20)]
    assert [g.correct for g in grade_many(pairs, 20)] == [k % 2 == 0 for k in range(20)]
    assert grade_many([("5", ["5"])]) == [Grade(True, "5", "equal")]


# -- workers -------------------------------------------------------------------------------------------------


def processes() -> list[int]:
    return [process.pid for process in workers._live]


@pytest.fixture
def impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A worker script for the test to write, instead of ours."""
    path = tmp_path / "worker.py"
    monkeypatch.setattr(answers_pool, "_WORKER", str(path))
    workers.close()
    workers.forget()
    yield path
    workers.close()
    workers.forget()


def test_a_late_worker_is_killed_counted_and_replaced() -> None:
    same("x", "y")
    before, pids = workers.timeouts, processes()
    start = time.perf_counter()
    assert grade(HANGING, ["x"], 0.3) == Grade(None, HANGING, "timed out")
    assert time.perf_counter() - start < 2
    assert workers.timeouts == before + 1
    assert set(processes()) < set(pids)
    assert same("x+1", "1+x") is True


def test_a_worker_that_sleeps_forever(impostor: Path) -> None:
    impostor.write_text("import time\nprint('ready', flush=True)\ntime.sleep(1000)")
    assert same("x", "y", 0.1) is None
    assert processes() == []


def test_a_worker_that_dies_of_the_question_is_asked_once_more(impostor: Path) -> None:
    impostor.write_text("print('ready', flush=True)\ninput()\nimport os\nos._exit(9)")
    before = workers.crashes
    assert grade("x", ["y"], 5) == Grade(None, "x", "could not compare: the worker died")
    assert workers.crashes == before + 2


def test_a_worker_that_does_not_start(impostor: Path) -> None:
    impostor.write_text("raise SystemExit(1)")
    for _ in range(workers.size + 1):  # and its place in the queue is given back
        with pytest.raises(TrueplexError, match="does not start"):
            same("x", "y")


def test_a_worker_killed_from_outside_is_replaced() -> None:
    same("x", "y")
    for process in list(workers._live):
        process.kill()
    assert same("x+1", "1+x", 20) is True


def test_workers_ignore_ctrl_c() -> None:
    same("x", "y")
    before = processes()
    for pid in before:
        os.kill(pid, signal.SIGINT)
    assert same("x+1", "1+x", 20) is True
    assert processes() == before


def test_ctrl_c_in_mid_question_does_not_answer_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    same("x", "y")

    def interrupted(process: subprocess.Popen[str], line: str, timeout: float) -> tuple[str, bool]:
        assert process.stdin
        process.stdin.write(line)
        process.stdin.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answers_pool, "_exchange", interrupted)
        with pytest.raises(KeyboardInterrupt):
            same("x", "y")
    assert same("x+1", "1+x", 20) is True


def test_from_eight_threads() -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda k: same(f"x+{k}", f"{k % 5}+x", 20), range(40)))
    assert told == [k < 5 for k in range(40)]
    assert len(processes()) <= workers.size


def test_from_asyncio() -> None:
    async def ask() -> list[bool | None]:
        here = same("x+1", "1+x", 20)
        return [here, *await asyncio.gather(*(asyncio.to_thread(same, f"x+{k}", "1+x", 20) for k in range(4)))]

    assert asyncio.run(ask()) == [True, False, True, False, False]


SCRIPT = f"""
import json, os, sys
sys.path.insert(0, {str(Path(answers.__file__).parents[2])!r})
from trueplex.grading import answers, pool as answers_pool
heavy = [name for name in ("torch", "sympy", "math_verify", "numpy") if name in sys.modules]
here = answers.same("x+1", "1+x", 20)
child = os.fork()
if child == 0:
    ours = not answers.workers._live
    os._exit(0 if ours and answers.same("x+2", "2+x", 20) and answers.same("x+2", "x+3", 20) is False else 1)
there = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps([heavy, here, there, [p.pid for p in answers.workers._live]]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_from_standard_input_and_a_fork_leaving_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise ImportError('the working directory is not ours to import from')")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", "-"]
    done = subprocess.run(command, input=SCRIPT, text=True, capture_output=True, cwd=tmp_path, env=clean, timeout=60)
    assert done.stderr == ""
    heavy, here, there, pids = json.loads(done.stdout)
    assert (heavy, here, there) == ([], True, 0)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_without_math_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain answers need no extra; a vote must not fail for the want of one; the rest says what to install."""
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert same("0.5", r"\dfrac{1}{2}") is True
    assert same("5", "6") is False
    assert same("east", "5") is False
    assert same("x+1", "x + 1") is True
    with pytest.raises(MissingExtra, match=r"trueplex\[math\]"):
        same("x+1", "1+x")
    assert group(["5", "x+1", "5.0", "1+x", "x + 1"]) == [[0, 2], [1, 4], [3]]
