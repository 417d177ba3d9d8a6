"""Laws of equality, on answers made at random: reflexive, symmetric, blind to habits of writing, sharp at any scale."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trueplex.grading.answers import same

SLOW = settings(max_examples=60, deadline=None)

whole = st.integers(-40, 40)
rationals = st.builds(Fraction, whole, st.integers(1, 12))


def latex(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def surd(a: Fraction, b: Fraction, n: int) -> str:
    return rf"{latex(a)}+({latex(b)})\sqrt{{{n}}}"


surds = st.tuples(rationals, rationals, st.sampled_from([2, 3, 5, 12]))
numbers = st.one_of(rationals.map(latex), surds.map(lambda s: surd(*s)), rationals.map(lambda q: rf"{latex(q)}\pi"))
polynomials = st.lists(whole, min_size=2, max_size=4).map(
    lambda terms: "+".join(rf"({c})x^{k}" if k else f"({c})" for k, c in enumerate(terms))
)
values = st.one_of(numbers, polynomials)
intervals = st.builds(
    lambda a, b, o, c: f"{o}{latex(min(a, b))}, {latex(max(a, b) + 1)}{c}",
    rationals,
    rationals,
    st.sampled_from("(["),
    st.sampled_from(")]"),
)
answers = st.one_of(
    values,
    intervals,
    st.lists(numbers, min_size=2, max_size=4).map(", ".join),
    st.lists(numbers, min_size=2, max_size=3).map(lambda xs: rf"\{{{', '.join(xs)}\}}"),
    st.lists(numbers, min_size=2, max_size=3).map(lambda xs: f"({', '.join(xs)})"),
    rationals.map(lambda q: rf"x \le {latex(q)}"),
    values.map(lambda v: f"y = {v}"),
    st.sampled_from(
        ["1/0", r"\emptyset", "east", "3:00", "2:3", r"50\%", r"\infty", r"\pm 2", "5x = 10", "no idea at all"]
    ),
)

REWRITINGS = [
    lambda text: f" {text} ",
    lambda text: f"${text}$",
    lambda text: text.replace("+", " + ").replace(",", " , "),
    lambda text: text.replace(r"\frac", r"\dfrac"),
    lambda text: text.replace("(", r"\left(").replace(")", r"\right)") if text.count("(") == text.count(")") else text,
    lambda text: rf"\mathbf{{{text}}}",
    lambda text: rf"\textcolor{{red}}{{{text}}}",
    lambda text: rf"\boxed{{{text}}}",
    lambda text: rf"\displaystyle {text}",
    lambda text: text.replace("-", "−"),
    lambda text: text.replace(r"\pi", "π").replace(r"\le", "≤"),
    lambda text: "\ufeff" + text + "\u200b",
    lambda text: text + ".",
]


@SLOW
@given(answers)
def test_every_answer_is_itself(answer: str) -> None:
    assert same(answer, answer, 20) is True


@SLOW
@given(answers, answers)
def test_equality_is_symmetric(a: str, b: str) -> None:
    assert same(a, b, 20) is same(b, a, 20)


@SLOW
@given(answers, st.lists(st.sampled_from(REWRITINGS), min_size=1, max_size=2))
def test_habits_of_writing_do_not_count(answer: str, rewritings: list) -> None:
    written = answer
    for rewriting in rewritings:
        written = rewriting(written)
    assert same(answer, written, 20) is True


@SLOW
@given(rationals, st.integers(2, 9), rationals, st.sampled_from([2, 3, 5]))
def test_equivalent_fractions_and_roots(q: Fraction, factor: int, r: Fraction, n: int) -> None:
    written = rf"\frac{{{q.numerator * factor}}}{{{q.denominator * factor}}}"
    assert same(latex(q), written, 20) is True
    assert same(surd(q, r, n), rf"{written}+\frac{{{r.numerator * n}}}{{{r.denominator}\sqrt{{{n}}}}}", 20) is True
    assert same(f"x+{latex(q)}", rf"{written}+\frac{{{factor}x}}{{{factor}}}", 20) is True


@SLOW
@given(st.lists(numbers, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_the_order_in_a_set_does_not_count(members: list[str], random: object) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert same(rf"\{{{', '.join(members)}\}}", rf"\{{{', '.join(shuffled)}\}}", 20) is True
    assert same(", ".join(members), rf"\{{{', '.join(shuffled)}\}}", 20) is True


@SLOW
@given(
    values,
    values,
    st.sampled_from([r"\cdot 10^{-400}", r"\cdot\pi\cdot 10^{-400}", r"\cdot\frac{1}{300!}", r"\cdot 2^{1500}"]),
)
def test_what_differs_differs_at_any_scale(a: str, b: str, scale: str) -> None:
    assume(same(a, b, 20) is False)
    assert same(f"({a}){scale}", f"({b}){scale}", 20) is False
    assert same(f"1+({a}){scale}", f"1+({b}){scale}", 20) is False
    factor = scale.removeprefix(r"\cdot")
    assert same(f"({a}){scale}", rf"{factor}\cdot({a})", 20) is True
