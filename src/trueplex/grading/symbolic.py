r"""What is beyond elementary formulae, by sympy: integrals, sums, limits, derivatives, products of matrices.

math-verify's parser reads it, sympy works it out exactly, and the result becomes an `Expr` like any other. No float is
rounded on the way: decimals are fractions before sympy sees them, and a value that sympy cannot find stays unfound.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig

from trueplex.grading.formula import IMAGINARY, PI, E, Expr, add, mul, num, power


class Matrix(NamedTuple):
    """Cells row by row; the shape as `reading` writes it: the length of each row."""

    cells: tuple[Expr, ...]
    shape: str


_REPAIRS = [
    (re.compile(r"([A-Za-z])('+|\^\{?\\prime\}?)"), r"\\tilde{\1}"),  # the grammar drops primes
    (re.compile(r"(?<![\\_])(?<!_\{)(I|E(?=_))"), r"\\mathcal{\1}"),  # and takes I and E_0 for constants
    (re.compile(r"_\{\\([a-z]+)\}"), r"_{\1}"),
    (re.compile(r"%|(?<=\\\\)(?=\S)"), " "),
    (re.compile(r"(?<![\w.}])\(([^()]*)\)/\(([^()]*)\)"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<![\w.])(\d+)/(\d+)(?=[A-Za-z\\(])"), r"\\frac{\1}{\2}"),  # 1/2x is x/2, not 1/(2x)
    (re.compile(r"\^([A-Za-z])"), r"^{\1}"),
    (re.compile(r"\\frac\{d([a-z])\}\{([^{}]*)\}$"), r"\\frac{1}{\2}d\1"),
    (re.compile(r"\\det\(?(\\begin\{)[pb](matrix\}.*\\end\{)[pb](matrix\})\)?", re.DOTALL), r"\1v\2v\3"),
]
_DECIMAL = re.compile(r"(\d+)\.(\d+)")
_NAMES = {sympy.pi: PI, sympy.E: E, sympy.I: IMAGINARY}
_OPERATIONS = {
    "Abs": "abs", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "acot": "arccot", "asec": "arcsec", "acsc": "arccsc",
    "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "Max": "max", "Min": "min", "floor": "floor",
    "ceiling": "ceiling", "factorial": "factorial", "binomial": "binomial", "factorial2": "doublefactorial",
}  # fmt: skip
_OPERATIONS |= {name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")}


class _Foreign(ValueError):
    """Something that `Expr` has no word for."""


def _fraction(match: re.Match[str]) -> str:
    return rf"\frac{{{int(match[1] + match[2])}}}{{{10 ** len(match[2])}}}"


def _sympy(text: str) -> Any:
    for pattern, replacement in _REPAIRS:
        text = pattern.sub(replacement, text)
    with contextlib.suppress(Exception):
        config = ConversionConfig(lowercase_symbols=False)
        return latex2sympy(
            _DECIMAL.sub(_fraction, text), is_real=True, normalization_config=None, conversion_config=config
        )


def _imaginary(found: Any) -> Any:
    """With i as the unit, where it is no index of a sum."""
    bound = {symbol for part in found.atoms(sympy.Sum, sympy.Product, sympy.Integral) for symbol in part.variables}
    return found.subs({s: sympy.I for s in found.free_symbols if s.name in ("i", "imath") and s not in bound})


def as_expr(found: Any) -> Expr:
    """The same formula as an `Expr`.

    Raises:
        _Foreign: it holds something else than elementary functions.
    """
    if found in _NAMES:
        return _NAMES[found]
    if found.is_Rational:
        return num(Fraction(int(found.p), int(found.q)))
    if found.is_Float:
        return num(Fraction(str(found)))
    if found.is_Symbol:
        return Expr("sym", (found.name,))
    args = tuple(map(as_expr, found.args)) if not found.is_Atom else ()
    if found.is_Add or found.is_Mul:
        return (add if found.is_Add else mul)(*args)
    if found.is_Pow:
        return power(*args)
    name = type(found).__name__
    if name == "exp":
        return power(E, args[0])
    if name == "log":
        return Expr("log", (args[0], args[1] if len(args) > 1 else E))
    if name == "UnevaluatedExpr":
        return args[0]
    if name in _OPERATIONS:
        return Expr(_OPERATIONS[name], args)
    if isinstance(found, sympy.core.function.AppliedUndef):
        return Expr("apply", (str(found.func), *args))
    raise _Foreign(name)


def _known(found: Any) -> bool:
    return not found.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo)


def parse(text: str) -> Expr | Matrix | Any | None:
    """A formula worked out: an Expr or a Matrix where it has a value, else the sympy object, None if unreadable."""
    found = _sympy(text)
    if found is None:
        return None
    with contextlib.suppress(_Foreign, ArithmeticError, AttributeError, TypeError, ValueError, NotImplementedError):
        if isinstance(found, sympy.MatrixBase | sympy.MatrixExpr):
            matrix = found.doit()
            matrix = matrix.as_explicit() if isinstance(matrix, sympy.MatrixExpr) else matrix
            rows, columns = matrix.shape
            return Matrix(tuple(map(as_expr, matrix)), " ".join([str(columns)] * rows))
        if isinstance(found, sympy.Expr):
            done = _imaginary(found).doit()
            return as_expr(done) if _known(done) else None
    return found if isinstance(found, sympy.Basic) and _known(found) else None


def same(a: Any, b: Any) -> bool | None:
    """Whether two sympy objects are the same; None where sympy does not know."""
    with contextlib.suppress(Exception):
        if a == b or a.doit() == b.doit():
            return True
        sums = (sympy.Sum, sympy.Product)  # simplify is slow with them, and finds nothing
        if not (a.has(*sums) or b.has(*sums)) and sympy.simplify(a - b) == 0:
            return True
    return None


def solutions(relation: str) -> Sequence[tuple[Any, bool, Any, bool]] | None:
    """The intervals of real numbers that satisfy an inequality in one variable; ends are Expr, or None if infinite."""
    found = _sympy(relation)
    if found is None or len(getattr(found, "free_symbols", ())) != 1:
        return None
    with contextlib.suppress(Exception):
        variable = next(iter(found.free_symbols))
        solved = sympy.solve_univariate_inequality(found, variable, relational=False)
        return [
            _interval(part)
            for part in (solved.args if isinstance(solved, sympy.Union) else [solved])
            if part != sympy.S.EmptySet
        ]
    return None


def roots(equation: str) -> Sequence[Expr] | None:
    """The real numbers that satisfy an equation in one variable, if they are finitely many."""
    found = _sympy(equation)
    if found is None or len(getattr(found, "free_symbols", ())) != 1:
        return None
    with contextlib.suppress(Exception):
        variable = next(iter(found.free_symbols))
        solved = sympy.solveset(found.lhs - found.rhs, variable, sympy.S.Reals)
        return [as_expr(root) for root in solved] if isinstance(solved, sympy.FiniteSet) else None
    return None


def _interval(part: Any) -> tuple[Any, bool, Any, bool]:
    if isinstance(part, sympy.FiniteSet) and len(part) == 1:
        point = as_expr(next(iter(part)))
        return point, True, point, True
    if part == sympy.S.Reals:
        return None, False, None, False
    if not isinstance(part, sympy.Interval):
        raise _Foreign(str(part))
    low = None if part.start == -sympy.oo else as_expr(part.start)
    high = None if part.end == sympy.oo else as_expr(part.end)
    return low, not part.left_open, high, not part.right_open
