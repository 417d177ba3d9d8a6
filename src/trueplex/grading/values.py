r"""What a formula comes to, exactly where it can be told: are two of them equal, and which is larger?

Rational parts are computed in fractions. The rest is a number to so many bits, with two bounds on the way (BFMSS, after
Burnikel, Funke, Mehlhorn, Schirra and Schmitt): a formula of roots over whole numbers that is not 0 is at least
``u^(1-D) / l`` in size, where D multiplies the degrees of its roots. So two algebraic numbers are equal when their
difference is smaller than that. For pi, e, logarithms and their like nothing of the kind is known; there the same
bound, and some bits more, are asked for. Bits are added only while the two cannot be told apart.

A formula with variables is compared at fixed points, the same in every process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

from mpmath import mp

from trueplex.grading.formula import Expr, symbols


class NoValue(Exception):
    """The formula is no elementary function of its variables."""


class TooLarge(ArithmeticError):
    """A number on the way has more digits than can be compared."""


class Undefined(ArithmeticError):
    """There is no such number: 1/0, the square root of -1 among real variables."""


_HUGE = 200_000  # bits of a rounded number's exponent; 10^(10^10) has 3e10
_EXACT = 1_200_000  # bits of an exact fraction
REALS = 16  # so many points are real, the others whole
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(mp, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
}
_FUNCTIONS |= {f"arc{name}": getattr(mp, f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
_FUNCTIONS |= {f"arc{name}": getattr(mp, f"a{name}") for name in ("sinh", "cosh", "tanh", "coth")}


class Number(NamedTuple):
    """A value, exact if it is a Fraction; log2 of the bounds u and l; its error, in units of the last bit."""

    value: Any
    upper: float
    lower: float
    error: Any = 0

    @property
    def exact(self) -> bool:
        return isinstance(self.value, Fraction)


def rounded(number: Number) -> Any:
    """The value to work on with others that are not exact."""
    if not number.exact:
        return number.value
    return mp.mpf(number.value.numerator) / number.value.denominator


def error(number: Number) -> Any:
    return abs(rounded(number)) if number.exact else number.error


def _log2(n: int) -> float:
    return float(max(n.bit_length(), 1))


def _rational(value: Fraction) -> Number:
    return Number(value, _log2(abs(value.numerator)), _log2(value.denominator))


def sample(name: str, point: int) -> Fraction:
    """A variable's value at a point: some fraction, positive or not; from `REALS` on a small whole number."""
    seed = int.from_bytes(hashlib.blake2b(f"{name} {point}".encode(), digest_size=8).digest(), "little")
    if point >= REALS:
        return Fraction(seed % 41 + 1)
    return Fraction(seed % 251 + 31, 101) * (-1 if seed & 1 and point % 8 < 5 else 1)


class Computation:
    """One formula at one point. Keeps the degrees of its roots, and whether anything in it is not algebraic."""

    def __init__(self, real: bool, point: int) -> None:
        self.real, self.point = real, point
        self.roots: dict[tuple[Expr | Fraction, int], int] = {}
        self.transcendental = False

    def walk(self, expr: Expr) -> Number:
        number = self.number(expr)
        if number.exact:
            return number
        value = +number.value
        if mp.isnan(value) or (self.real and mp.im(value)):
            raise Undefined
        if mp.isinf(value) or mp.mag(value) > _HUGE:
            raise TooLarge
        return number._replace(value=value, error=number.error + abs(value))

    def number(self, expr: Expr) -> Number:
        op, args = expr
        if op == "num":
            return _rational(args[0])
        if op == "sym":
            return _rational(sample(args[0], self.point))
        if op == "const":
            return self.constant(args[0])
        if op == "apply":
            return self.applied(args[0], args[1:])
        numbers = [self.walk(arg) for arg in args]
        if op == "add":
            return self.add(numbers)
        if op == "mul":
            return functools.reduce(self.mul, numbers)
        if op == "pow":
            return self.power(numbers[0], numbers[1], expr)
        return self.function(op, numbers)

    def constant(self, name: str) -> Number:
        if name == "i":
            self.roots[Fraction(-1), 2] = 2
            return Number(mp.j, 0, 0)
        return self.transcendent({"pi": mp.pi, "e": mp.e}[name] + 0)

    def transcendent(self, value: Any, *arguments: Number) -> Number:
        self.transcendental = True
        size = float(mp.mag(value)) if value else 0.0
        upper, lower = (sum(numbers) for numbers in zip((0, 0), *((a.upper, a.lower) for a in arguments), strict=True))
        return Number(value, max(size, 0) + upper, max(-size, 0) + lower)

    def add(self, numbers: list[Number]) -> Number:
        exact = [n for n in numbers if n.exact]
        total = _rational(sum((n.value for n in exact), Fraction(0)))
        others = [n for n in numbers if not n.exact]
        if not others:
            return total
        terms = [total, *others] if total.value else others
        lower = sum(n.lower for n in terms)
        upper = max(n.upper - n.lower for n in terms) + lower + math.log2(len(terms))
        return Number(mp.fsum([rounded(n) for n in terms]), upper, lower, sum(map(error, terms)))

    def mul(self, a: Number, b: Number) -> Number:
        if a.exact and b.exact:
            return _rational(a.value * b.value)
        if (a.exact and not a.value) or (b.exact and not b.value):
            return _rational(Fraction(0))
        x, y = rounded(a), rounded(b)
        return Number(x * y, a.upper + b.upper, a.lower + b.lower, abs(x) * error(b) + abs(y) * error(a))

    def inverse(self, a: Number) -> Number:
        if not a.value:
            raise Undefined
        if a.exact:
            return _rational(1 / a.value)
        return Number(1 / a.value, a.lower, a.upper, a.error / abs(a.value) ** 2)

    def power(self, base: Number, exponent: Number, expr: Expr) -> Number:
        if exponent.exact and exponent.value.denominator == 1:
            return self.whole_power(base, exponent.value.numerator)
        if symbols(expr.args[1]) and base.exact and base.value < 0:
            raise Undefined  # (-1)^n stands for whole n only
        if exponent.exact and exponent.value.denominator < 1000:
            degree = exponent.value.denominator
            return self.whole_power(self.root(base, degree, expr), exponent.value.numerator)
        a, b = rounded(base), rounded(exponent)
        if not a:
            if b.real > 0:
                return _rational(Fraction(0))
            raise Undefined
        if abs(b) * abs(mp.log(abs(a), 2)) > _HUGE:
            raise TooLarge
        value = mp.power(a, b)
        spread = abs(value) * (error(exponent) * abs(mp.log(a)) + error(base) * abs(b / a))
        return self.transcendent(value, base, exponent)._replace(error=spread)

    def whole_power(self, base: Number, n: int) -> Number:
        if n < 0:
            return self.whole_power(self.inverse(base), -n)
        if n == 0:
            if not base.value:
                raise Undefined
            return _rational(Fraction(1))
        if base.exact and (abs(base.value) in (0, 1) or n * max(base.upper, base.lower) < _EXACT):
            return _rational(base.value ** (n if abs(base.value) != 1 else n % 2 + 2))
        if n * max(base.upper, base.lower) > 1e12:
            raise TooLarge
        value = rounded(base)
        if value and n * abs(mp.mag(value)) > 4 * _HUGE and n * abs(mp.log(abs(value), 2)) > _HUGE:
            raise TooLarge
        result = mp.power(value, n)
        spread = n * error(base) * (abs(result / value) if value else 1)
        return Number(result, n * base.upper, n * base.lower, spread)

    def root(self, base: Number, degree: int, expr: Expr) -> Number:
        """The real root where there is one: the cube root of -8 is -2."""
        if base.exact and (found := _exact_root(base.value, degree)) is not None:
            return _rational(found)
        value = rounded(base)
        if degree % 2 and not mp.im(value) and mp.re(value) < 0:
            result = -mp.root(-mp.re(value), degree)
        else:
            result = mp.root(value, degree)
        self.roots[(base.value if base.exact else expr.args[0]), degree] = degree
        smallest = error(base) * mp.ldexp(1, 8 - mp.prec)  # below, the root of the error is all that is known
        spread = (
            error(base) * abs(result / value)
            if abs(value) > smallest
            else mp.root(smallest, degree) * mp.ldexp(1, mp.prec)
        )
        return Number(result, base.upper / degree, base.lower / degree, spread)

    def applied(self, name: str, arguments: tuple[Expr, ...]) -> Number:
        """f(x): some smooth function, the same for every f."""
        shift = sample(f"{name}()", self.point)
        numbers = [self.walk(arg) for arg in arguments]
        inside = sum((rounded(n) * (k + 2) for k, n in enumerate(numbers)), mp.mpf(shift.numerator) / shift.denominator)
        return self.transcendent(mp.cos(inside), *numbers)._replace(
            error=sum(error(n) * (k + 2) for k, n in enumerate(numbers))
        )

    def function(self, op: str, numbers: list[Number]) -> Number:
        if op in _EXACT_FUNCTIONS and all(n.exact for n in numbers):
            found = _EXACT_FUNCTIONS[op](*(n.value for n in numbers))
            if found is not None:
                return _rational(Fraction(found))
        values = [rounded(n) for n in numbers]
        if op == "abs":
            return numbers[0]._replace(value=abs(values[0]))
        if op == "conjugate":
            return numbers[0]._replace(value=mp.conj(values[0]))
        if op in ("floor", "ceiling"):
            return _rational(Fraction(int(_steady(op, values[0]))))
        if op in ("min", "max"):
            return (min if op == "min" else max)(zip(values, range(99), numbers, strict=False))[2]
        if op == "log":
            return self.logarithm(*numbers)
        if op in ("factorial", "binomial"):
            if abs(values[0]) > _HUGE / 16:
                raise TooLarge
            return self.smooth(getattr(mp, op), values, numbers)
        if op not in _FUNCTIONS:
            raise NoValue
        if abs(values[0]) > 1e6:
            raise TooLarge
        return self.smooth(_FUNCTIONS[op], values, numbers)

    def smooth(self, function: Callable[..., Any], values: list[Any], numbers: list[Number]) -> Number:
        """A function's value, with the error that it makes of its arguments' errors."""
        value, step = function(*values), mp.ldexp(1, -mp.prec // 3)
        spread = mp.mpf(0)
        if not all(n.exact for n in numbers):
            moved = function(*(x + step for x in values))
            spread = (abs(moved - value) / step + 1) * sum(map(error, numbers))
        return self.transcendent(value, *numbers)._replace(error=spread)

    def logarithm(self, x: Number, base: Number) -> Number:
        if not x.value or not base.value:
            raise Undefined
        if x.exact and x.value == 1:
            return _rational(Fraction(0))
        bottom = mp.log(rounded(base))
        if not bottom:
            raise Undefined
        value = mp.log(rounded(x)) / bottom
        spread = error(x) / abs(rounded(x)) + abs(value) * error(base) / abs(rounded(base))
        return self.transcendent(value, x, base)._replace(error=spread / abs(bottom))


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if value < 0:
        if degree % 2 == 0:
            return None
        found = _exact_root(-value, degree)
        return None if found is None else -found
    above, below = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    return None if above is None or below is None else Fraction(above, below)


def _whole_root(n: int, degree: int) -> int | None:
    if n < 2:
        return n
    if degree == 2:
        root = math.isqrt(n)
    elif n.bit_length() > 20_000:
        return None
    else:
        with mp.workprec(n.bit_length() + 20):
            root = int(mp.nint(mp.root(n, degree)))
    return root if root**degree == n else None


def _steady(op: str, x: Any) -> Any:
    """floor and ceiling that do not fall off a whole number by the last bit, as in log_2 8."""
    if mp.im(x):
        raise Undefined
    near = mp.nint(x)
    return near if abs(x - near) < mp.ldexp(1, -60) else getattr(mp, "ceil" if op == "ceiling" else op)(x)


def _factorial(n: Fraction) -> int | None:
    if n.denominator > 1:
        return None
    if n < 0:
        raise Undefined
    if n > 50_000:
        raise TooLarge
    return math.factorial(n.numerator)


def _binomial(n: Fraction, k: Fraction) -> int | None:
    if n.denominator > 1 or k.denominator > 1 or n < 0:
        return None
    if n > 50_000:
        raise TooLarge
    return math.comb(n.numerator, k.numerator) if k >= 0 else 0


def _double_factorial(n: Fraction) -> int:
    if n.denominator > 1 or n < 0 or n > 20_000:
        raise Undefined
    return math.prod(range(n.numerator, 0, -2))


def _remainder(a: int, b: int) -> int:
    if not b:
        raise Undefined
    return a % abs(b)


def _whole(function: Callable[..., int]) -> Callable[..., int]:
    def of(*args: Fraction) -> int:
        if any(arg.denominator > 1 for arg in args):
            raise Undefined
        return function(*(arg.numerator for arg in args))

    return of


_EXACT_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "floor": math.floor, "ceiling": math.ceil, "min": min, "max": max, "gcd": _whole(math.gcd), "lcm": _whole(math.lcm),
    "factorial": _factorial, "binomial": _binomial, "doublefactorial": _double_factorial,
    "conjugate": Fraction, "mod": _whole(_remainder),
}  # fmt: skip


@functools.lru_cache(1 << 15)
def value_at(expr: Expr, point: int, bits: int) -> tuple[Number, Computation] | None:
    """The value at a point to that many bits, None where it is undefined or too large.

    Raises:
        NoValue: see there.
    """
    variables = symbols(expr)
    imaginary = expr_has_i(expr)
    with mp.workprec(bits), contextlib.suppress(ArithmeticError, ValueError, TypeError):
        computation = Computation(bool(variables) and not imaginary, point if variables else 0)
        return computation.walk(expr), computation
    return None


@functools.lru_cache(1 << 14)
def expr_has_i(expr: Expr) -> bool:
    return expr == ("const", ("i",)) or any(expr_has_i(arg) for arg in expr.args if isinstance(arg, Expr))
