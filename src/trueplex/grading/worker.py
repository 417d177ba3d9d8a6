r"""One process of the grader: tells whether two mathematical answers have the same value.

`trueplex.grading.answers` starts it, sends JSON lines ``{"answer", "others", "timeout", "library"}`` of normalised answers, and
gets ``{"verdict": true|false|null, "why", "match"}``. sympy may hang, crash or eat memory on hostile input,
and only a process can be killed then. It imports the `math` extra and nothing of trueplex.

Lists, tuples, intervals, unions and names (``x = 5``) are taken apart here, because math-verify reads them
differently depending on which answer is called the gold one. Their leaves are parsed by its parser and
compared as numbers: formulae are equal when they agree at fixed sample points, to far more digits than chance
allows. That takes a millisecond where ``simplify`` takes seconds, and tells 2^100 from 2^100 - 1. What has no
value at a point (inequalities, equations, calculus) goes to ``math_verify.verify``, both ways round.

Left out of math-verify: finding answers in prose (`trueplex.grading.answers` does that), stripping units (it reads
``6m`` as 6), lower-casing variables, equality to six decimals, and its timeouts (signals, main thread only).
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import hashlib
import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import parse as parse_text
from math_verify import verify
from mpmath import mp
from sympy.core.function import AppliedUndef
from sympy.core.relational import Equality, Relational
from sympy.logic.boolalg import BooleanFunction

# -- reading: an answer as a tree ----------------------------------------------------------------------------


class Node(NamedTuple):
    """A ``list`` (in any order), ``union`` (of sets, in any order), ``tuple`` (label: its brackets or shape),
    ``named`` (label: what is left of ``=``), ``word``, ``formula`` (value: a sympy object) or ``unread``."""

    kind: str
    text: str
    items: tuple[Node, ...] = ()
    label: str = ""
    value: Any = None

    @property
    def members(self) -> tuple[Node, ...]:
        return self.items if self.kind == "list" else (self,)


_NAME = re.compile(  # x, a_n, f(x), \theta', dM/dt, \angle ABC; a whole word only if a digit follows
    r"((?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:\w|\{[^{}]*\}))?'*(?:\([^()=]*\))?|\\frac\{d[^{}]*\}\{d[^{}]*\}"
    r"|\\angle[^=]*|\|?[A-Za-z ]+\|?(?=.*\d))(?:=|\\in(?![a-z]))(?:.*=)?(.+)"
)
_SUM = re.compile(r"[^A-Za-z=<>]+=([^=]+)")  # 2 + 3 = 5 says 5
_WORD = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z' -]*|\d\w*_(?:\w|\{\w+\})")  # 52_8 is a spelling
_PROSE = re.compile(r"(?<![\\A-Za-z{_])(?:[A-Za-z]{5,}|[A-Za-z]+ [A-Za-z]{3,})|\d \d")
_REPAIRS = [
    (re.compile(r"([A-Za-z])('+|\^\{?\\prime\}?)"), r"\\tilde{\1}"),  # the grammar drops primes
    (re.compile(r"(?<![\\_])(?<!_\{)(I|E(?=_))"), r"\\mathcal{\1}"),  # and takes I and E_0 for constants
    (re.compile(r"_\{\\([a-z]+)\}"), r"_{\1}"),
    (re.compile(r"%|(?<=\\\\)(?=\S)"), " "),
    (re.compile(r"(?<![\w.}])\(([^()]*)\)/\(([^()]*)\)"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<![\w.])(\d+)/(\d+)(?=[A-Za-z\\(])"), r"\\frac{\1}{\2}"),  # 1/2x is x/2, not 1/(2x)
]


def parse(text: str) -> Any:
    """The sympy object of one formula, unevaluated; None if it has none."""
    for pattern, replacement in _REPAIRS:
        text = pattern.sub(replacement, text)
    with contextlib.suppress(Exception):
        config = ConversionConfig(lowercase_symbols=False)
        return latex2sympy(text, is_real=True, normalization_config=None, conversion_config=config)


def split(text: str, separator: str = "[,;]") -> list[str]:
    """Cut at the separators that stand outside every bracket, of whatever kind: (3,4] is one."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(rf"[(\[{{]|[)\]}}]|{separator}", text):
        if match[0] in "([{":
            depth += 1
        elif match[0] in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


@functools.lru_cache(4096)
def read(text: str) -> Node:
    """The tree of a normalised answer."""
    if len(parts := split(text)) > 1:
        return Node("list", text, tuple(map(read, parts)))
    if text.count(r"\pm") == 1:
        return Node("list", text, tuple(read(text.replace(r"\pm", sign).removeprefix("+")) for sign in "+-"))
    if match := _NAME.fullmatch(text):
        return Node("named", text, (read(match[2]),), match[1])
    if match := _SUM.fullmatch(text):
        return read(match[1])
    if len(parts := split(text, r"\\cup(?![a-z])")) > 1:
        return Node("union", text, tuple(map(read, parts)))
    if match := re.fullmatch(r"\\\{(.+)\\\}", text):
        return Node("list", text, tuple(m for part in split(match[1]) for m in read(part).members))
    if (match := re.fullmatch(r"([(\[])(.+)([)\]])", text)) and len(parts := split(match[2])) > 1:
        return Node("tuple", text, tuple(map(read, parts)), match[1] + match[3])
    if _WORD.fullmatch(text):
        return Node("word", text)
    value = None if _PROSE.search(text) else parse(text)
    if isinstance(value, sympy.MatrixBase):
        return Node("tuple", text, tuple(Node("formula", "", value=v) for v in value), str(value.shape))
    return Node("unread" if value is None else "formula", text, value=value)


# -- values: a formula at fixed points -----------------------------------------------------------------------


class NoValue(Exception):
    """The formula is no elementary function of its variables."""


class TooLarge(ArithmeticError):
    """A number on the way has more digits than can be compared."""


_BITS = 400
_HUGE = 200_000  # bits; 10^(10^10) has 3e10
_REALS, _SMOOTH, _STEPS = 16, 28, 116  # points: real ones, and all of them
_IMAGINARY = ("i", "imath")
_CONSTANTS = {sympy.pi: mp.pi, sympy.E: mp.e, sympy.EulerGamma: mp.euler, sympy.I: mp.j}


def power(base: Any, exponent: Any) -> Any:
    if base and abs(exponent) * abs(mp.log(abs(base), 2)) > _HUGE:
        raise TooLarge
    return mp.power(base, exponent)


def logarithm(x: Any, base: Any = mp.e) -> Any:
    return mp.log(x) / mp.log(base)


def steady(rounder: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """floor and ceiling that do not fall off an integer by the last bit, as in log_2 8."""
    return lambda x: near if abs(x - (near := mp.nint(x))) < mp.ldexp(1, -60) else rounder(x)


def bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def of(*args: Any) -> Any:
        if abs(args[0]) > _HUGE / 16:
            raise TooLarge
        return function(*args)

    return of


_ELEMENTARY = ("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc")
_HYPERBOLIC = ("sinh", "cosh", "tanh", "coth", "asinh", "acosh", "atanh")
_FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(mp, name) for name in _ELEMENTARY + _HYPERBOLIC}
_FUNCTIONS |= {name: bounded(getattr(mp, name)) for name in ("factorial", "binomial")}
_FUNCTIONS |= {"Pow": power, "exp": lambda x: power(mp.e, x), "log": logarithm}
_FUNCTIONS |= {"Add": lambda *xs: mp.fsum(xs), "Mul": lambda *xs: mp.fprod(xs), "Abs": abs}
_FUNCTIONS |= {"UnevaluatedExpr": mp.convert, "Max": max, "Min": min}
_FUNCTIONS |= {"floor": steady(mp.floor), "ceiling": steady(mp.ceil)}


def sample(name: str, point: int) -> Any:
    """A variable's value at a point, the same in every process: reals, some below 0; then whole numbers."""
    seed = int.from_bytes(hashlib.blake2b(f"{name} {point}".encode(), digest_size=8).digest(), "little")
    if point >= _REALS:
        return mp.mpf(seed % 41 + 1)
    return (mp.mpf(seed % 99_991) / 41_000 + 0.3) * (-1 if seed & 1 and point % 8 < 5 else 1)


def compute(expr: Any, point: int) -> tuple[Any, Any]:
    """The number that a formula comes to, and the largest size on the way (what rounding is relative to).

    A formula of real variables is undefined where any part of it is not real: x^(1/2) below 0.

    Raises:
        NoValue: see there. ArithmeticError, ValueError, TypeError: undefined here.
    """
    largest = mp.mpf(1)
    real = expr.free_symbols and not any(symbol.name in _IMAGINARY for symbol in expr.free_symbols)

    def walk(node: Any) -> Any:
        nonlocal largest
        value = +number(node)
        if mp.isnan(value) or (real and mp.im(value)):
            raise ValueError
        if mp.isinf(value) or mp.mag(value) > _HUGE:
            raise TooLarge
        largest = max(largest, abs(value))
        return value

    def number(node: Any) -> Any:
        if node in _CONSTANTS:
            return _CONSTANTS[node]
        if node.is_Symbol:
            return mp.j if node.name in _IMAGINARY else sample(node.name, point)
        if node.is_Float:
            return mp.mpf(str(node))  # a decimal is the number it spells
        if node.is_Rational:
            return mp.mpf(node.p) / node.q
        if isinstance(node, AppliedUndef):  # f(x): some smooth function, the same for every f
            shift = sample(f"{node.func}()", point)
            return mp.cos(shift + sum(walk(arg) * (k + 2) for k, arg in enumerate(node.args)))
        function = _FUNCTIONS.get(type(node).__name__)
        if function is None:
            raise NoValue
        return function(*map(walk, node.args))

    return walk(expr), largest


@functools.lru_cache(1 << 16)
def value_at(expr: Any, point: int, bits: int) -> tuple[Any, Any] | None:
    """`compute` to that many bits, None where undefined or too large."""
    with mp.workprec(bits), contextlib.suppress(ArithmeticError, ValueError, TypeError):
        return compute(expr, point if expr.free_symbols else 0)
    return None


def agree(a: Any, b: Any, point: int) -> bool | None:
    """Whether two formulae are equal at a point, large ones to the last digit; None if undefined there."""
    needed = _BITS
    while True:
        bits = needed
        x, y = value_at(a, point, bits), value_at(b, point, bits)
        if x is None or y is None:
            return None
        size = max(x[1], y[1])
        needed = _BITS + int(mp.mag(size))
        if needed <= bits + 60:
            with mp.workprec(bits):
                return bool(abs(x[0] - y[0]) <= mp.ldexp(size, 60 - bits))


def same_value(a: Any, b: Any) -> bool | None:
    """Whether two formulae agree wherever both are defined; if both go in steps, at whole numbers only.

    Raises:
        NoValue: see there.
    """
    if a == b:
        return True
    variables = a.free_symbols | b.free_symbols
    steps = [formula.has(sympy.floor, sympy.ceiling) for formula in (a, b)]
    points = range(_REALS if all(steps) else 0, _STEPS if all(steps) else _SMOOTH)
    agreed = 0
    for point in points if variables else (0,):
        verdict = agree(a, b, point)
        if verdict is False:
            return False
        agreed += verdict is True
    return True if agreed >= (3 if variables else 1) else None


# -- comparing two trees -------------------------------------------------------------------------------------


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """Three-valued and: one False decides, else one None spoils."""
    told = list(verdicts)
    return False if False in told else None if None in told else True


def equal(a: Node, b: Node) -> bool | None:
    """Whether two answers have the same value; `equal(b, a)` says the same."""
    if a.text and a.text == b.text:
        return True
    kinds = {a.kind, b.kind}
    if "named" in kinds:
        if a.kind == b.kind and a.label == b.label:
            return equal(a.items[0], b.items[0])
        if a.kind == b.kind or any(isinstance(n.value, Equality) for n in (a, b)):
            return by_math_verify(a, b)
        return equal(*(n.items[0] if n.kind == "named" else n for n in (a, b)))
    if "unread" in kinds:
        return None
    if "list" in kinds:
        return match(a.members, b.members)
    if kinds == {"union"}:
        return match(a.items, b.items) or by_math_verify(a, b)
    if kinds == {"tuple"}:
        if (a.label, len(a.items)) != (b.label, len(b.items)):
            return False
        return every(equal(x, y) for x, y in zip(a.items, b.items, strict=True))
    if "word" in kinds:
        return a.kind == b.kind and a.text.casefold() == b.text.casefold()
    if "union" in kinds or any(isinstance(n.value, Relational | BooleanFunction | sympy.Set) for n in (a, b)):
        return by_math_verify(a, b)
    if "tuple" in kinds:
        return False
    try:
        return same_value(a.value, b.value)
    except NoValue:
        return by_math_verify(a, b)


def match(xs: Sequence[Node], ys: Sequence[Node]) -> bool | None:
    """Whether two lists hold equal members, each as often, in any order."""
    if len(xs) != len(ys):
        prose = any(n.kind == "unread" or (n.kind == "word" and " " in n.text) for n in (*xs, *ys))
        return None if prose else False
    left = list(ys)
    for x in xs:
        verdicts = [equal(x, y) for y in left]
        if True not in verdicts:
            return None if None in verdicts else False
        del left[verdicts.index(True)]
    return True


def by_math_verify(a: Node, b: Node) -> bool | None:
    """For relations, sets and calculus. Two equations are also the same up to a constant factor."""
    x, y = (parse(n.text) if n.text else n.value for n in (a, b))
    if x is None or y is None:
        return None
    if isinstance(x, Equality) != isinstance(y, Equality):
        return False  # verify would keep the right side of one: 0 for every equation that ends in = 0
    with contextlib.suppress(Exception):
        if isinstance(x, Equality):
            ratio = sympy.Mul(x.lhs - x.rhs, sympy.Pow(y.lhs - y.rhs, -1, evaluate=False), evaluate=False)
            at = [v for v in (value_at(ratio, point, _BITS) for point in range(_SMOOTH)) if v]
            first = at[0][0]
            if first and all(abs(v - first) < mp.ldexp(size, -300) for v, size in at):
                return True
    options = {"timeout_seconds": None, "raise_on_error": True, "allow_set_relation_comp": True}
    told: list[bool | None] = [None, None]
    for turn, pair in enumerate(((x, y), (y, x))):
        with contextlib.suppress(Exception):
            told[turn] = verify(*pair, **options)
    return True if True in told else None if None in told else False


def settle(node: Node) -> None:
    """Meet what is slow in an answer now, so that no answer held against it later is blamed for it."""
    for item in node.items:
        settle(item)
    if node.kind == "formula":
        equal(node, read(r"\sqrt{2}+\pi"))


def judge(answer: str, others: Sequence[str]) -> dict[str, Any]:
    """Compare the answer with each of the others until one is equal. No others: only read and settle it."""
    node = read(answer)
    if not others:
        settle(node)
    unsure = f"could not parse {answer[:60]!r}" if node.kind == "unread" else ""
    for index, other in enumerate(others):
        there = read(other)
        verdict = equal(node, there)
        if verdict:
            return {"verdict": True, "why": "equal", "match": index}
        if verdict is None and not unsure:
            unsure = f"could not parse {other[:60]!r}" if there.kind == "unread" else "could not compare"
    return {"verdict": None if unsure else False, "why": unsure or "different"}


def by_library(answer: str, others: Sequence[str]) -> dict[str, Any]:
    """What math-verify says by itself, as others use it: for audits, never for grades."""
    told = parse_text(rf"\boxed{{{answer}}}", parsing_timeout=None)
    if not told:
        return {"verdict": None, "why": f"could not parse {answer[:60]!r}"}
    for index, other in enumerate(others):
        if verify(parse_text(rf"\boxed{{{other}}}", parsing_timeout=None), told, timeout_seconds=None):
            return {"verdict": True, "why": "equal", "match": index}
    return {"verdict": False, "why": "different"}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not break the protocol
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        faulthandler.dump_traceback_later(request["timeout"] + 10, exit=True)  # in case the parent was killed
        reply = {"verdict": None, "why": "could not compare"}
        with contextlib.suppress(Exception):  # RecursionError and MemoryError too
            reply = (by_library if request["library"] else judge)(request["answer"], request["others"])
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
