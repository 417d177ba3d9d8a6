r"""Elementary formulae: from LaTeX to a small tree, in microseconds, with every number exact.

math-verify's parser takes tens of milliseconds a formula and keeps decimals as floats; most answers are a fraction, a
root or a polynomial. What this grammar does not know (matrices, integrals, prose) is None, and others may try.

Readings where notation is loose: ``1/2x`` is x/2 but ``1/ab`` is 1/(ab); ``2\frac{1}{3}`` is a mixed number;
``\sin 2x`` takes the product, ``\sin x \cos x`` stops at the next function; ``\log`` has base 10; ``f(x)`` applies f.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import NamedTuple


class Expr(NamedTuple):
    """``num`` (args: a Fraction), ``sym`` (its name), ``const`` (pi, e, i), ``add``, ``mul``, ``pow``, or a function."""

    op: str
    args: tuple


def num(value: int | Fraction) -> Expr:
    return Expr("num", (Fraction(value),))


ZERO, ONE, MINUS = num(0), num(1), num(-1)
PI, E, IMAGINARY = Expr("const", ("pi",)), Expr("const", ("e",)), Expr("const", ("i",))


def add(*terms: Expr) -> Expr:
    return terms[0] if len(terms) == 1 else Expr("add", terms)


def mul(*factors: Expr) -> Expr:
    return factors[0] if len(factors) == 1 else Expr("mul", factors)


def power(base: Expr, exponent: Expr) -> Expr:
    return Expr("pow", (base, exponent))


def minus(a: Expr, b: Expr) -> Expr:
    return add(a, mul(MINUS, b))


@functools.lru_cache(1 << 14)
def symbols(expr: Expr) -> frozenset[str]:
    """The names of the variables."""
    if expr.op == "sym":
        return frozenset(expr.args)
    return frozenset().union(*(symbols(arg) for arg in expr.args if isinstance(arg, Expr)))


@functools.lru_cache(1 << 14)
def functions(expr: Expr) -> frozenset[str]:
    """The names of all operations in it, ``apply`` for f(x) among them."""
    return frozenset({expr.op}).union(*(functions(arg) for arg in expr.args if isinstance(arg, Expr)))


class NotElementary(ValueError):
    """The text is outside the grammar."""


_TOKEN = re.compile(
    r" *(?:(?P<num>\d+(?:\.\d+)?)|(?P<cmd>\\(?:[a-zA-Z]+|[{}|]))|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^_(){}\[\]|!',]))"
)
_TRIG = (
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "sinh",
    "cosh",
    "tanh",
    "coth",
    "arcsin",
    "arccos",
    "arctan",
    "arccot",
)
_FUNCTIONS = {*_TRIG, "ln", "log", "lg", "exp", "min", "max", "gcd", "lcm"}
_LETTERS = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa", "lambda", "mu", "nu", "xi", "rho", "varrho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega", "ell", "hbar",
}  # fmt: skip
_DECORATED = {"overline", "hat", "tilde", "bar", "dot", "ddot", "widehat", "widetilde", "mathcal", "overrightarrow"}
_APPLIED = set("fghFGHPOT") | {"Theta", "Omega", "Phi", "phi", "varphi", "sigma"}
_DERIVATIVE = re.compile(r"\\frac\{d(?:\^\w)?\}\{d")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_DEEPEST = 40  # brackets in brackets; a hostile answer has hundreds


def _tokens(text: str) -> list[str]:
    found, place = [], 0
    text = text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise NotElementary(text[place:])
        found.append(match[0].strip())
        place = match.end()
    return found


class _Parser:
    def __init__(self, text: str, applied: bool) -> None:
        self.tokens, self.place, self.applied = _tokens(text), 0, applied
        self.bars: list[bool] = []  # whether the innermost bracket is a pair of |
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise NotElementary(token)
        self.place += 1
        return token

    def within(self, closer: str, bar: bool = False) -> Expr:
        """A whole formula up to a closing bracket, which is taken."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise NotElementary("brackets")
        self.bars.append(bar)
        inside = self.sum()
        self.bars.pop()
        self.depth -= 1
        self.take(closer)
        return inside

    def sum(self) -> Expr:
        terms = [self.term()]
        while self.peek() in ("+", "-"):
            terms.append(self.term())
        return add(*terms)

    def sign(self) -> int:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        return sign

    def term(self) -> Expr:
        factors = [MINUS] if self.sign() < 0 else []
        factors.append(self.factor())
        while True:
            token = self.peek()
            if token in ("*", r"\cdot", r"\times"):
                self.take()
                if self.sign() < 0:
                    factors.append(MINUS)
                factors.append(self.factor())
            elif token in ("/", r"\div"):
                self.take()
                factors.append(power(self.denominator(), MINUS))
            elif token in (r"\bmod", r"\mod"):
                self.take()
                factors = [Expr("mod", (mul(*factors), self.factor()))]
            elif self.starts():
                factors.append(self.factor())
            else:
                return mul(*factors)

    def starts(self) -> bool:
        """Whether a factor begins here, so that it is multiplied without a sign."""
        token = self.peek()
        if token == "|":
            return not (self.bars and self.bars[-1])
        if token[:1].isdecimal():
            return not self.tokens[self.place - 1][:1].isdecimal()
        if token.startswith("\\"):
            name = token[1:]
            return name in _FUNCTIONS | _LETTERS | _DECORATED | {
                "frac", "sqrt", "pi", "binom", "lfloor", "lceil", "imath", "mathrm", "left",
            }  # fmt: skip
        return token.isalpha() or token in ("(", "[", "{")

    def denominator(self) -> Expr:
        if self.sign() < 0:
            return mul(MINUS, self.denominator())
        letters = self.peek().isalpha() or self.peek()[1:] in _LETTERS
        factors = [self.factor()]
        while letters and self.starts():
            factors.append(self.factor())
        return mul(*factors)

    def factor(self) -> Expr:
        whole = self.peek()
        base = self.atom()
        if whole.isdecimal() and self.tokens[self.place - 1] == whole and self.mixed():
            return add(base, self.atom())
        return self.raised(base)

    def mixed(self) -> bool:
        r"""Whether \frac{1}{2} follows, of two whole numbers and less than one."""
        parts = self.tokens[self.place : self.place + 7]
        if len(parts) < 7 or parts[:2] != [r"\frac", "{"] or parts[3:5] != ["}", "{"] or parts[6] != "}":
            return False
        return parts[2].isdecimal() and parts[5].isdecimal() and int(parts[2]) < int(parts[5])

    def raised(self, base: Expr) -> Expr:
        while self.peek() in ("!", "^"):
            if self.take() == "!":
                name = "factorial"
                if self.peek() == "!":
                    self.take()
                    name = "doublefactorial"
                    if self.peek() == "!":
                        raise NotElementary("!!!")
                base = Expr(name, (base,))
            else:
                base = power(base, self.exponent())
                if self.peek() == "^":
                    raise NotElementary("^^")
        return base

    def exponent(self) -> Expr:
        token = self.peek()
        if token == "{":
            self.take()
            return self.within("}")
        if token in ("+", "-"):
            sign = self.sign()
            return mul(num(sign), self.atom())
        if token.isdecimal() and len(token) > 1:  # 2^10 as a person types it
            return num(int(self.take()))
        return self.atom()

    def atom(self) -> Expr:
        token = self.take()
        if token[0].isdecimal():
            return num(Fraction(token))
        if token == "{" and self.peek() == "}":
            self.take()
            return self.atom()
        if token in _CLOSERS:
            return self.within(_CLOSERS[token])
        if token == "|":
            return Expr("abs", (self.within("|", bar=True),))
        if token.isalpha():
            return self.named(token)
        if token.startswith("\\"):
            return self.command(token[1:])
        raise NotElementary(token)

    def group(self) -> Expr:
        if self.peek() == "{":
            self.take()
            return self.within("}")
        token = self.peek()
        if token.isdecimal() and len(token) > 1:  # \frac12 has been spelt out before
            raise NotElementary(token)
        return self.atom()

    def command(self, name: str) -> Expr:
        if name == "frac":
            above = self.group()
            return mul(above, power(self.group(), MINUS))
        if name == "sqrt":
            index = num(2)
            if self.peek() == "[":
                self.take()
                index = self.within("]")
            return power(self.group(), power(index, MINUS))
        if name == "binom":
            return Expr("binomial", (self.group(), self.group()))
        if name == "pi":
            return PI
        if name == "imath":
            return IMAGINARY
        if name in ("lfloor", "lceil"):
            return Expr("floor" if name == "lfloor" else "ceiling", (self.within(rf"\r{name[1:]}"),))
        if name in _FUNCTIONS:
            return self.function(name)
        if name in _LETTERS:
            return self.named(name)
        if name in _DECORATED:
            return self.decorated(name)
        raise NotElementary(name)

    def decorated(self, name: str) -> Expr:
        r"""A name with a bar, a hat, …; the bar over a complex number is its conjugate."""
        inside = self.raw_group()
        if name in ("overline", "bar") and (tree := parse(inside)) and not symbols(tree):
            return Expr("conjugate", (tree,))
        return self.named(f"{name}({inside})")

    def raw_group(self) -> str:
        """The tokens of a group as they stand: an index, or what a bar is over."""
        if self.peek() != "{":
            return self.take()
        depth = 0
        parts: list[str] = []
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return "".join(parts[1:])
            parts.append(token)

    def named(self, name: str) -> Expr:
        """A variable with its index and primes, a constant, or a function applied."""
        plain = name
        if self.peek() == "_":
            self.take()
            name += f"_{self.raw_group()}"
        while self.peek() == "'":
            name += self.take()
        if name == "e":
            return E
        if name == "i":
            return IMAGINARY
        if self.applied and plain in _APPLIED and self.inverse():
            name += "^-1"
            self.place += 5 if self.peek(1) == "{" else 3
        if self.applied and plain in _APPLIED and self.peek() == "(":
            self.take()
            return Expr("apply", (name, *self.arguments()))
        return Expr("sym", (name,))

    def inverse(self) -> bool:
        """Whether ^{-1}( follows, which makes an inverse function of a name."""
        return self.tokens[self.place : self.place + 6] == ["^", "{", "-", "1", "}", "("]

    def arguments(self) -> list[Expr]:
        """What stands between ( and ), commas apart; the opening bracket is taken already."""
        found = [self.sum()]
        while self.peek() == ",":
            self.take()
            found.append(self.sum())
        self.take(")")
        return found

    def function(self, name: str) -> Expr:
        base = {"ln": E, "log": num(10), "lg": num(10)}.get(name)
        exponent: Expr | None = None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self.group()
            else:
                exponent = self.exponent()
        if name in ("min", "max", "gcd", "lcm"):
            opened = self.take()
            if opened != "(":
                raise NotElementary(name)
            return Expr(name, tuple(self.arguments()))
        if exponent == mul(MINUS, ONE) and name in _TRIG:
            name, exponent = f"arc{name}", None
        argument = self.argument()
        if base is not None:
            value = Expr("log", (argument, base))
        else:
            value = power(E, argument) if name == "exp" else Expr(name, (argument,))
        return value if exponent is None else power(value, exponent)

    def argument(self) -> Expr:
        r"""What a function without brackets is applied to: 2x in \sin 2x, x alone in \sin x \cos x."""
        if self.peek() in ("(", "[") or (self.peek() == "{"):
            return self.raised_argument()
        factors = [MINUS] if self.sign() < 0 else []
        factors.append(self.factor())
        while self.starts() and self.peek()[1:] not in _FUNCTIONS and self.peek() not in ("(", "|", "["):
            factors.append(self.factor())
        return mul(*factors)

    def raised_argument(self) -> Expr:
        return self.within(_CLOSERS[self.take()])


@functools.lru_cache(1 << 14)
def parse(text: str, applied: bool = True) -> Expr | None:
    """The tree of a normalised formula, None if it is outside the grammar.

    ``applied`` says whether f(x) applies a function; otherwise it multiplies, as the h in h(a+b)/2 does.
    """
    if r"\frac{d" in text and _DERIVATIVE.search(text):
        return None
    try:
        parser = _Parser(text, applied)
        tree = parser.sum()
    except (NotElementary, RecursionError, ValueError):
        return None
    return tree if parser.place == len(parser.tokens) else None
