"""Whether two formulae are equal, which is larger, and whether one is a multiple of the other.

All of them ask for the difference at a point, with bits added only while the two cannot be told apart (see `values`).
"""

from __future__ import annotations

import math
from typing import Any

from mpmath import mp

from trueplex.grading.formula import ZERO, Expr, functions, mul, symbols
from trueplex.grading.values import REALS, Computation, Number, error, rounded, sample, value_at

_FIRST, _MOST, _SPARE = 320, 120_000, 256  # bits: at first, at most, and beyond the bound for pi and its like
_GUARD = 12  # bits of a margin on the error
_SMOOTH, _STEPS = 28, 116  # points in all


def _bits_to_tell(a: tuple[Number, Computation], b: tuple[Number, Computation]) -> float:
    """So many bits tell for certain whether the two values differ."""
    (x, on_way), (y, on_other) = a, b
    degree = math.prod((on_way.roots | on_other.roots).values())
    lower = x.lower + y.lower
    upper = max(x.upper + y.lower, y.upper + x.lower) + 1
    spare = _SPARE if on_way.transcendental or on_other.transcendental else 0
    return (degree - 1) * upper + lower + spare


def difference_at(a: Expr, b: Expr, point: int) -> Any:
    """The difference of two formulae at a point: exactly 0 if they are equal there, None if that cannot be told."""
    bits = _FIRST
    while True:
        x, y = value_at(a, point, bits), value_at(b, point, bits)
        if x is None or y is None:
            return None
        if x[0].exact and y[0].exact:
            return x[0].value - y[0].value
        with mp.workprec(bits):
            gap = rounded(x[0]) - rounded(y[0])
            spread = error(x[0]) + error(y[0])
            if abs(gap) > mp.ldexp(spread, _GUARD - bits):
                return gap
            needed = int(_bits_to_tell(x, y) + max(int(mp.mag(spread)) if spread else 0, 0)) + _GUARD + 1
        if needed <= bits:
            return 0
        if bits >= _MOST:
            return None
        bits = min(needed, 4 * bits, _MOST)


def same_value(a: Expr, b: Expr) -> bool | None:
    """Whether two formulae agree wherever both are defined; if both go in steps, at whole numbers only.

    None if they are defined nowhere together: what has no value equals nothing.

    Raises:
        NoValue: see there.
    """
    variables = symbols(a) | symbols(b)
    steps = all(functions(formula) & {"floor", "ceiling"} for formula in (a, b))
    points = range(REALS if steps else 0, _STEPS if steps else _SMOOTH)
    agreed = 0
    for point in points if variables else (0,):
        gap = difference_at(a, b, point)
        if gap:
            return False
        agreed += gap is not None
    return True if agreed >= (3 if variables else 1) else None


def order(a: Expr, b: Expr) -> int | None:
    """-1, 0 or 1 as the first real number is less than, equal to or more than the second; None if not known."""
    gap = None if symbols(a) | symbols(b) else difference_at(a, b, 0)
    if gap is None or mp.im(gap):
        return None
    return 0 if not gap else 1 if gap > 0 else -1


def proportional(a: Expr, b: Expr, positive: bool = False) -> bool | None:
    """Whether one formula is a constant (if asked, positive) times the other, and neither is always 0."""
    if symbols(a) != symbols(b):
        return False
    first: tuple[Expr, Expr] | None = None
    agreed = 0
    for point in range(_SMOOTH):
        x, y = _at(a, point), _at(b, point)
        if x is None or y is None:
            continue
        if first is None:
            if not _nonzero(x) or not _nonzero(y):
                continue
            if positive and order(x, ZERO) != order(y, ZERO):
                return False
            first = x, y
            continue
        gap = difference_at(mul(x, first[1]), mul(y, first[0]), 0)
        if gap:
            return False
        agreed += gap is not None
    return True if agreed >= 3 else None


def _at(expr: Expr, point: int) -> Expr | None:
    """The formula with its variables put in, None where it has no value."""
    return substituted(expr, point) if value_at(expr, point, _FIRST) else None


def _nonzero(expr: Expr) -> bool:
    return bool(difference_at(expr, ZERO, 0))


def substituted(expr: Expr, point: int) -> Expr:
    if expr.op == "sym":
        return Expr("num", (sample(expr.args[0], point),))
    return Expr(expr.op, tuple(substituted(arg, point) if isinstance(arg, Expr) else arg for arg in expr.args))
