"""Whether two answers are equal: kind by kind, in three values, and the same in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

from trueplex.grading import symbolic
from trueplex.grading.equality import difference_at, proportional, same_value
from trueplex.grading.formula import Expr, functions, minus, mul, num, parse
from trueplex.grading.intervals import Untold, real_set, same_sets, variables
from trueplex.grading.reading import Node, read
from trueplex.grading.values import NoValue

SETS = {"relation", "or", "and", "union", "meet", "without", "such", "empty", "reals"}


def every(verdicts: Iterable[bool | None]) -> bool | None:
    """Three-valued and: one False decides, else one None spoils."""
    told = list(verdicts)
    return False if False in told else None if None in told else True


def equal(a: Node, b: Node) -> bool | None:
    """Whether two answers have the same value; `equal(b, a)` says the same. None: that cannot be told."""
    if a.text and a.text == b.text:
        return True
    kinds = {a.kind, b.kind}
    for kind, compare in _RULES:
        if kind in kinds:
            return compare(*((a, b) if a.kind == kind else (b, a)))
    if kinds & SETS or _condition(a) or _condition(b):
        return _equal_sets(a, b)
    if "list" in kinds:
        listed, other = (a, b) if a.kind == "list" else (b, a)
        return _coordinates(listed, other) if other.kind == "tuple" else match(listed.members, other.members)
    if kinds == {"tuple"}:
        return _equal_tuples(a, b)
    if kinds == {"formula"}:
        return _equal_formulae(a, b)
    return False


# -- equations ----------------------------------------------------------------------------------------------


def _named(a: Node, b: Node) -> bool | None:
    """x = 5 is 5, and also x = 5, but neither y = 5 nor 6; and it is any equation that says the same."""
    (value,) = a.items
    if b.kind in SETS or _condition(b):
        return _equal_sets(a, b)
    if b.kind == "list" and value.kind == "tuple":
        return _coordinates(b, value)
    if b.kind == "list":
        return match(value.members, b.members)
    if b.kind not in ("named", "equation"):
        return equal(value, b)
    if b.kind == "named" and (a.label == b.label or _same_name(a.label, b.label)):
        return equal(a.items[0], b.items[0])
    if a.value is None or b.value is None:
        return False
    return proportional(a.value, b.value)


def _same_name(a: str, b: str) -> bool:
    left, right = parse(a), parse(b)
    if left is None or right is None or left.op in ("sym", "apply") or right.op in ("sym", "apply"):
        return False
    return _three_valued(same_value, left, right) is True


def _equation(a: Node, b: Node) -> bool | None:
    """Two equations are the same up to a constant factor; an equation is no number."""
    return proportional(a.value, b.value) if b.kind == "equation" else None if b.kind == "unread" else False


def _coordinates(listed: Node, point: Node) -> bool | None:
    """x = 1, y = 2 as (1, 2): every item has a name of its own, and they go by the alphabet."""
    names = [item.label for item in listed.items]
    if point.label != "()" or any(item.kind != "named" for item in listed.items) or len(set(names)) < len(names):
        return match(listed.members, point.members)
    values = [item.items[0] for item in sorted(listed.items, key=lambda item: item.label)]
    return _row(values, point.items)


# -- lists, tuples, sets ------------------------------------------------------------------------------------


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


def _row(xs: Sequence[Node], ys: Sequence[Node]) -> bool | None:
    if len(xs) != len(ys):
        return False
    return every(equal(x, y) for x, y in zip(xs, ys, strict=True))


def _equal_tuples(a: Node, b: Node) -> bool | None:
    """In order and in the same brackets; a column of a matrix is a vector, in whatever brackets."""
    column = {tuple(label.split()) for label in (a.label, b.label)}
    if a.label != b.label and not ("()" in (a.label, b.label) and any(set(shape) == {"1"} for shape in column)):
        return False
    return _row(a.items, b.items)


def _condition(node: Node) -> bool:
    """Whether a list is one of inequalities."""
    return node.kind == "list" and bool(node.items) and all(item.kind == "relation" for item in node.items)


def _equal_sets(a: Node, b: Node) -> bool | None:
    """As sets of real numbers where they are; otherwise kind by kind."""
    try:
        named, other = variables(a), variables(b)
        if named and other and named != other:
            return False
        return same_sets(real_set(a), real_set(b))
    except Untold:
        pass
    if "formula" in (a.kind, b.kind) or "word" in (a.kind, b.kind):
        return False
    if a.kind == b.kind == "relation":
        return _equal_relations(a, b)
    if a.kind == b.kind and a.kind in ("or", "and", "union", "meet", "list"):
        return match(a.items, b.items) or None
    if a.kind == b.kind:
        return _row(a.items, b.items) or None
    return None


def _directed(node: Node) -> tuple[list[str], list[Node]]:
    signs, items = node.label.split(), list(node.items)
    if ">" in signs or r"\ge" in signs:
        signs = [{">": "<", r"\ge": r"\le"}.get(sign, sign) for sign in reversed(signs)]
        items.reverse()
    return signs, items


def _equal_relations(a: Node, b: Node) -> bool | None:
    """Inequalities in several variables: the same chain, or the same up to a positive factor."""
    (signs, xs), (others, ys) = _directed(a), _directed(b)
    if signs != others:
        return False
    if _row(xs, ys):
        return True
    if len(xs) != 2 or any(n.kind != "formula" for n in (*xs, *ys)):
        return None
    (x, y), (z, w) = [n.value for n in xs], [n.value for n in ys]
    return proportional(minus(x, y), minus(z, w), positive=signs != [r"\ne"])


# -- leaves -------------------------------------------------------------------------------------------------


def _three_valued(compare: Callable[..., bool | None], a: Any, b: Any) -> bool | None:
    try:
        return compare(a, b)
    except (NoValue, ArithmeticError, ValueError):
        return None


def _equal_formulae(a: Node, b: Node) -> bool | None:
    told = _three_valued(same_value, a.value, b.value)
    if told is not True and any("apply" in functions(node.value) for node in (a, b)):
        # h(a+b)/2 may be a product: is it one on both sides?
        products = [parse(node.text, applied=False) if node.text else None for node in (a, b)]
        if products[0] is not None and products[1] is not None:
            told = _three_valued(same_value, *products) or told
    return told


def _percent(a: Node, b: Node) -> bool | None:
    """p% is p, and p/100."""
    if b.kind == "percent":
        return equal(a.items[0], b.items[0])
    if b.kind != "formula" or a.items[0].kind != "formula":
        return equal(a.items[0], b) if b.kind in ("list", "named") else False
    part = Node("formula", "", value=mul(a.items[0].value, num(Fraction(1, 100))))
    told = [equal(a.items[0], b), equal(part, b)]
    return True if True in told else None if None in told else False


def _either(a: Node, b: Node) -> bool | None:
    """Two readings, of which one is enough."""
    told = [equal(item, b) for item in a.items]
    return True if True in told else None if None in told else False


def _clock(a: Node, b: Node) -> bool | None:
    """Times of day; where one says neither morning nor afternoon, either will do."""
    if b.kind != "clock":
        return _ratio_of_clock(a, b)
    (hour, *rest, half), (other, *others, other_half) = a.value, b.value
    if rest != others:
        return False
    if bool(half) == bool(other_half):
        return (hour % 12, half) == (other % 12, other_half) if half else hour == other
    bare, told, when = (other, hour, half) if half else (hour, other, other_half)
    return bare == told % 12 + (12 if when == "p" else 0) or (0 < bare <= 12 and bare % 12 == told % 12)


def _ratio_of_clock(a: Node, b: Node) -> bool | None:
    hour, minute, second, half = a.value
    if b.kind != "ratio" or half or second or len(b.items) != 2:
        return False
    return _ratio(Node("ratio", "", (read(str(hour)), read(str(minute)))), b)


def _ratio(a: Node, b: Node) -> bool | None:
    """3:4 is 6:8, and also the number 3/4."""
    items = [*a.items, *b.items]
    if b.kind == "formula" and len(a.items) == 2:
        return _ratio(a, Node("ratio", "", (b, read("1"))))
    if b.kind != "ratio" or len(a.items) != len(b.items):
        return False
    if any(item.kind != "formula" for item in items):
        return _row(a.items, b.items) or None
    x, y = a.items[0].value, b.items[0].value
    crossed = [(mul(x, q.value), mul(y, p.value)) for p, q in zip(a.items[1:], b.items[1:], strict=True)]
    return every(_three_valued(same_value, *pair) for pair in crossed)


def _infinite(a: Node, b: Node) -> bool | None:
    if b.kind == "formula":
        return False if _three_valued(_defined, b.value, None) else None
    return b.kind == "infinite" and a.label == b.label


def _defined(value: Expr, _: None) -> bool:
    return difference_at(value, value, 0) is not None


def _word(a: Node, b: Node) -> bool | None:
    return b.kind == "word" and a.text.casefold() == b.text.casefold()


def _symbolic(a: Node, b: Node) -> bool | None:
    return symbolic.same(a.value, b.value) if b.kind == "symbolic" else None


# In this order: the first kind that one of the two has decides. It is asked with that one in front.
_RULES: list[tuple[str, Callable[[Node, Node], bool | None]]] = [
    ("named", _named),
    ("equation", _equation),
    ("either", _either),
    ("unread", lambda a, b: match(a.members, b.members) if b.kind == "list" else None),
    ("percent", _percent),
    ("clock", _clock),
    ("ratio", _ratio),
    ("infinite", _infinite),
    (
        "word",
        lambda a, b: (
            _equal_sets(a, b) if b.kind in SETS else match((a,), b.members) if b.kind == "list" else _word(a, b)
        ),
    ),
    ("symbolic", _symbolic),
]
