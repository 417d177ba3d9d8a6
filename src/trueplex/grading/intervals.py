r"""Sets of real numbers, exactly: ``x<-2 or x>3`` is ``(-\infty,-2)\cup(3,\infty)``, and ``(0,1)`` is not ``[0,1]``.

A set is a sorted row of intervals that do not touch. Ends are formulae without variables, compared exactly (see
`equality.order`); None is an infinite end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trueplex.grading import symbolic
from trueplex.grading.equality import order
from trueplex.grading.formula import Expr, symbols
from trueplex.grading.reading import Node


class Interval(NamedTuple):
    low: Expr | None
    closed_low: bool
    high: Expr | None
    closed_high: bool


RealSet = tuple[Interval, ...]
EVERYTHING: RealSet = (Interval(None, False, None, False),)


class Untold(Exception):
    """It is no set of real numbers, or two of its ends cannot be compared."""


def _order(a: Expr, b: Expr) -> int:
    told = 0 if a == b else order(a, b)
    if told is None:
        raise Untold
    return told


def _by_low(a: Interval, b: Interval) -> int:
    if a.low is None or b.low is None:
        return (a.low is not None) - (b.low is not None)
    return _order(a.low, b.low) or b.closed_low - a.closed_low


def _higher(a: Interval, b: Interval) -> Interval:
    """The one that ends later."""
    if a.high is None or b.high is None:
        return a if a.high is None else b
    told = _order(a.high, b.high)
    return a if told > 0 or (told == 0 and a.closed_high) else b


def _filled(part: Interval) -> bool:
    if part.low is None or part.high is None:
        return True
    told = _order(part.low, part.high)
    return told < 0 or (told == 0 and part.closed_low and part.closed_high)


def union(parts: Sequence[Interval]) -> RealSet:
    """The sorted row of what lies in any of them."""
    found: list[Interval] = []
    for part in sorted(filter(_filled, parts), key=functools.cmp_to_key(_by_low)):
        if found and _touch(found[-1], part):
            last = _higher(found[-1], part)
            found[-1] = found[-1]._replace(high=last.high, closed_high=last.closed_high)
        else:
            found.append(part)
    return tuple(found)


def _touch(a: Interval, b: Interval) -> bool:
    """Whether an interval and one that begins no earlier leave no gap."""
    if a.high is None or b.low is None:
        return True
    told = _order(b.low, a.high)
    return told < 0 or (told == 0 and (a.closed_high or b.closed_low))


def complement(parts: RealSet) -> RealSet:
    """All the other real numbers; the parts are a sorted row."""
    found: list[Interval] = []
    low: Expr | None = None
    closed = False
    for k, part in enumerate(parts):
        if k or part.low is not None:
            found.append(Interval(low, closed, part.low, not part.closed_low))
        low, closed = part.high, not part.closed_high
        if part.high is None:
            return tuple(found)
    return (*found, Interval(low, closed, None, False))


def intersection(a: RealSet, b: RealSet) -> RealSet:
    return complement(union((*complement(a), *complement(b))))


def same_sets(a: RealSet, b: RealSet) -> bool:
    """Whether two sorted rows are the same.

    Raises:
        Untold: see there.
    """
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if (x.closed_low, x.closed_high) != (y.closed_low, y.closed_high):
            return False
        for end, other in ((x.low, y.low), (x.high, y.high)):
            if (end is None) != (other is None) or (end is not None and other is not None and _order(end, other)):
                return False
    return True


# -- from trees ---------------------------------------------------------------------------------------------


def _end(node: Node, sign: str) -> Expr | None:
    if node.kind == "infinite" and node.label == sign:
        return None
    if node.kind != "formula" or symbols(node.value):
        raise Untold
    return node.value


def _interval(node: Node) -> RealSet:
    if node.label not in ("()", "[]", "(]", "[)") or len(node.items) != 2:
        raise Untold
    low, high = _end(node.items[0], "-"), _end(node.items[1], "")
    if low is not None and high is not None and _order(low, high) > 0:
        raise Untold  # (3, -1) is a point
    part = Interval(low, node.label[0] == "[" and low is not None, high, node.label[1] == "]" and high is not None)
    return union([part])


def _points(node: Node) -> RealSet:
    ends = [_end(item, "?") for item in node.items]
    return union([Interval(end, True, end, True) for end in ends])


_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}


def _half(sign: str, end: Expr | None) -> RealSet:
    """The numbers that stand in a relation to a number, as x does in x < 3."""
    if end is None:
        return EVERYTHING  # x < \infty
    if sign == r"\ne":
        return complement((Interval(end, True, end, True),))
    if sign in ("<", r"\le"):
        return (Interval(None, False, end, sign != "<"),)
    return (Interval(end, sign != ">", None, False),)


def _relation(node: Node) -> RealSet:
    signs = node.label.split()
    alone = [k for k, item in enumerate(node.items) if item.kind == "formula" and item.value.op == "sym"]
    if len(alone) != 1 or len(signs) > 2 or (len(signs) == 2 and alone != [1]):
        return _solved(node)
    place = alone[0]
    found = EVERYTHING
    if place < len(signs):
        right = node.items[place + 1]
        found = intersection(found, _half(signs[place], _end(right, "" if signs[place] in ("<", r"\le") else "-")))
    if place > 0:
        left, sign = node.items[place - 1], _TURNED[signs[place - 1]]
        found = intersection(found, _half(sign, _end(left, "" if sign in ("<", r"\le") else "-")))
    return found


def _solved(node: Node) -> RealSet:
    """x^2 < 4, solved; a chain of two is solved link by link."""
    signs = node.label.split()
    found = EVERYTHING
    for k, sign in enumerate(signs):
        solved = symbolic.solutions(f"{node.items[k].text}{sign} {node.items[k + 1].text}")
        if solved is None:
            raise Untold
        found = intersection(found, union([Interval(*part) for part in solved]))
    return found


def _all(node: Node) -> RealSet:
    return functools.reduce(intersection, map(real_set, node.items))


def _any(node: Node) -> RealSet:
    return union([part for item in node.items for part in real_set(item)])


def _listed(node: Node) -> RealSet:
    """Inequalities with commas between: all hold, unless that cannot be, as in x < -2, x > 3."""
    if node.label == "" and all(item.kind == "tuple" for item in node.items):
        return _any(node)  # (-\infty, 1) or (2, 3)
    if node.label == "{" or not all(item.kind == "relation" or r"\in" in item.text for item in node.items):
        return _points(node)
    return _all(node) or _any(node)


def _without(node: Node) -> RealSet:
    return functools.reduce(lambda a, b: intersection(a, complement(b)), map(real_set, node.items))


def _such(node: Node) -> RealSet:
    domain, condition = node.items
    found = real_set(condition)
    return intersection(found, real_set(domain)) if domain.kind == "named" else found


def _roots(node: Node) -> RealSet:
    found = symbolic.roots(node.text)
    if found is None:
        raise Untold
    return union([Interval(root, True, root, True) for root in found])


def _named(node: Node) -> RealSet:
    (value,) = node.items
    return _points(node) if value.kind == "formula" else real_set(value)  # x = 3 beside x > 5


_SETS: dict[str, Callable[[Node], RealSet]] = {
    "tuple": _interval, "relation": _relation, "or": _any, "and": _all, "union": _any, "meet": _all, "without": _without,
    "such": _such, "list": _listed, "named": _named, "empty": lambda node: (), "equation": _roots, "reals": lambda node: EVERYTHING,
}  # fmt: skip


def real_set(node: Node) -> RealSet:
    """The set of real numbers that an answer describes.

    Raises:
        Untold: see there.
    """
    if node.kind not in _SETS:
        raise Untold
    return _SETS[node.kind](node)


def variables(node: Node) -> frozenset[str]:
    """The letters that an answer's inequalities are about."""
    if node.kind == "formula":
        return symbols(node.value)
    if node.kind == "such":
        return frozenset()  # a set, whatever its elements are called
    member = node.kind == "named" and r"\in" in node.text and len(node.label) == 1
    found: frozenset[str] = frozenset({node.label}) if member else frozenset()
    return found.union(*map(variables, node.items))
