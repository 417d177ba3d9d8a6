r"""An answer as a tree: what is a list, a set, an interval, an equation, and what only looks like one.

Everything is told by signs outside of brackets, the weakest first: commas, "or", inequalities, equals signs, unions.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import Any, NamedTuple

from trueplex.grading import symbolic
from trueplex.grading.formula import ZERO, Expr, minus, parse, symbols


class Node(NamedTuple):
    r"""What an answer is made of.

    ``formula`` (value: an Expr) · ``list`` (in any order; label ± where one sign made it, { in braces) · ``tuple`` (label:
    its brackets or shape) · ``named`` (label: what the other side of = is called; value: left minus right) ·
    ``equation`` (value: left minus right) · ``relation`` (label: its signs) · ``or``, ``and``, ``union``, ``meet``,
    ``without`` · ``such`` (a set with a condition) · ``empty``, ``reals``, ``infinite`` · ``percent`` · ``either`` · ``ratio`` ·
    ``clock`` (value: hour, minute, second, half of the day) · ``word`` · ``symbolic`` (value: a sympy object) · ``unread``.
    """

    kind: str
    text: str
    items: tuple[Node, ...] = ()
    label: str = ""
    value: Any = None

    @property
    def members(self) -> tuple[Node, ...]:
        return self.items if self.kind == "list" else (self,)


_BRACKETS = re.compile(r"\\begin(?![a-z])|\\end(?![a-z])|\\langle(?![a-z])|\\rangle(?![a-z])|[(\[{]|[)\]}]")
_RELATION = r"<|>|\\(?:le|ge|ne)(?![a-z])"
_WORD = re.compile(
    r"(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z' -]*|\d\w*_(?:\w|\{\w+\})|\d{4}-\d\d?-\d\d?|[^\x00-\x7f]+"
)  # 52_8 is a spelling
_PROSE = re.compile(r"(?<![\\A-Za-z{_])(?:[A-Za-z]{5,}|[A-Za-z]+ [A-Za-z]{3,})|\d \d")
_CLOCK = re.compile(r"(?!\d+:?$)(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?i:([ap])\.?m)?|(\d{1,2})(?i:([ap])\.?m|o'clock)")
_OUTWARD = re.compile(r"([\[\](])([^\[\]]*[,;][^\[\]]*)([\[\])])")  # ]0,1[ as some countries write (0,1)
_MATRIX = re.compile(r"\\begin\{([pbBV]?matrix|smallmatrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_ANY_WHOLE = re.compile(r"\(?(?:where)? ?[a-z]\\in\\mathbb\{[ZN]\}(?:\^[+*]|_\+)?\)?")
_CASES = re.compile(r"\\begin\{cases\}([^&]*)\\end\{cases\}", re.DOTALL)


def pieces(text: str, separator: str) -> tuple[list[str], list[str]]:
    """The parts between separators that stand outside every bracket, of whatever kind ((3,4] is one); and those."""
    parts: list[str] = []
    found: list[str] = []
    depth = start = 0
    for match in re.finditer(rf"{_BRACKETS.pattern}|{separator}", text):
        sign = match[0]
        if sign in "([{" or sign in (r"\begin", r"\langle"):
            depth += 1
        elif sign in ")]}" or sign in (r"\end", r"\rangle"):
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()])
            found.append(sign)
            start = match.end()
    return [*parts, text[start:]], found


def split(text: str, separator: str) -> list[str]:
    return pieces(text, separator)[0]


@functools.lru_cache(4096)
def read(text: str) -> Node:
    """The tree of a normalised answer."""
    text = text.strip()
    for reader in _READERS:
        if (node := reader(text)) is not None:
            return node
    return Node("unread", text)


def _read_all(parts: list[str]) -> tuple[Node, ...]:
    """Their trees; what one ± stands for joins the others."""
    nodes = (read(part) for part in parts if part.strip())
    return tuple(itertools.chain.from_iterable(n.items if n.label == "±" else (n,) for n in nodes))


def _read_list(text: str) -> Node | None:
    if match := _CASES.fullmatch(text):
        return Node("list", text, _read_all(re.split(r"\\\\|[,;]", match[1])))
    if vector := re.fullmatch(r"<([^<>]*,[^<>]*)>", text):
        return Node("tuple", text, tuple(map(read, split(vector[1], ","))), "()")
    parts = split(text, "[,;]")
    if len(parts) < 2:
        return None
    if len(said := [part for part in parts if not _ANY_WHOLE.fullmatch(part)]) == 1:
        return read(said[0])  # 2k\pi, k \in \mathbb{Z}
    return Node("list", text, _read_all(parts))


def _read_signs(text: str) -> Node | None:
    r"""± as both signs. Several are independent, but with a \mp beside them all go together."""
    signs = re.findall(r"\\(?:pm|mp)(?![a-z])", text)
    if not signs or len(signs) > 4:
        return None
    together = r"\mp" in signs
    found: dict[str, None] = {}
    for choice in (
        (("+",) * len(signs), ("-",) * len(signs)) if together else itertools.product("+-", repeat=len(signs))
    ):
        rest = iter(choice)
        flipped = {"+": "-", "-": "+"}

        def sign(match: re.Match[str], rest: Any = rest, flipped: dict[str, str] = flipped) -> str:
            plain = next(rest)
            return plain if match[0] == r"\pm" else flipped[plain]

        found[re.sub(r"\\(?:pm|mp)(?![a-z])", sign, text)] = None
    return Node("list", text, tuple(read(variant.removeprefix("+")) for variant in found), "±")


def _read_logic(text: str) -> Node | None:
    for kind, sign in (("or", r"\\lor(?![a-z])"), ("and", r"\\land(?![a-z])")):
        if len(parts := split(text, sign)) > 1:
            return Node(kind, text, _read_all(parts))
    if re.search(_RELATION, text) and len(parts := split(text, r"\\cup(?![a-z])")) > 1:  # x<1 \cup x>3
        return Node("or", text, _read_all(parts))
    return None


def _read_relation(text: str) -> Node | None:
    parts, signs = pieces(text, _RELATION)
    if not signs:
        return None
    return Node("relation", text, tuple(map(read, parts)), " ".join(signs))


def _read_member(text: str) -> Node | None:
    parts = split(text, r"\\in(?![a-z])")
    if len(parts) != 2 or not all(parts):
        return None
    return Node("named", text, (read(parts[1]),), parts[0])


# -- equations: which side is the answer --------------------------------------------------------------------

_DERIVATIVE = re.compile(r"\\frac\{d[^{}]*\}\{d[^{}]*\}|d\w/d\w")
_HEADS = {
    "abs",
    "factorial",
    "binomial",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "apply",
    "sym",
    "floor",
    "ceiling",
    "gcd",
    "lcm",
    "min",
    "max",
}


def _is_name(side: str) -> bool:
    r"""Whether a side is what is asked for, whatever it equals: x, a_n, f(x), \overline{AB}, [ABC], \angle A, Volume."""
    tree = None if _DERIVATIVE.fullmatch(side) else parse(side)
    return (tree is None and "\\forall" not in side) or (tree is not None and tree.op in ("sym", "apply"))


def _is_quantity(side: str) -> bool:
    r"""Whether a side may be what is asked for, if the other is a constant: m+n, \cos\theta, |z|; but not 3x or x^2,
    whose equation is still to be solved."""
    tree = parse(side)
    if tree is not None and tree.op == "pow" and tree.args[0].op in _HEADS - {"sym"}:
        tree = tree.args[0]  # \sin^2 A
    return tree is not None and bool(symbols(tree)) and (tree.op in _HEADS or len(symbols(tree)) > 1)


def _is_constant(node: Node) -> bool:
    """Whether a node has a value of its own. 0 counts only behind a name: x + y = 0 is an equation."""
    if node.kind == "formula":
        return not symbols(node.value) and node.value != ZERO
    return node.kind in ("tuple", "list", "word", "percent", "ratio", "empty", "infinite", "union")


def _read_equation(text: str) -> Node | None:
    parts = split(text, r"=|\\approx(?![a-z])")
    if len(parts) < 2 or not all(parts):
        return None
    first, last = parts[0], parts[-1]
    left, right = parse(first), parse(last)
    gap = None if left is None or right is None else minus(left, right)
    if left is not None and right is not None and not symbols(gap or left):
        return read(last)  # 2 + 3 = 5 says 5
    for name, value in ((first, last), (last, first)):
        answer = read(value)
        if answer.kind != "unread" and (
            (_is_name(name) and (name == first or not _is_name(value))) or (_is_quantity(name) and _is_constant(answer))
        ):
            return _named(text, name, answer, gap)
    if gap is None:
        return Node("unread", text)
    return Node("equation", text, value=gap)


def _named(text: str, name: str, answer: Node, gap: Expr | None) -> Node:
    if answer.label == "±":
        items = tuple(_named("", name, item, None) for item in answer.items)
        return Node("list", text, items, "±")
    return Node("named", text, (answer,), name, gap)


# -- sets, intervals, tuples --------------------------------------------------------------------------------


def _read_ratio(text: str) -> Node | None:
    if match := _CLOCK.fullmatch(text):
        hour, half = match[1] or match[5], match[4] or match[6] or ""
        if int(hour) <= 24:
            return Node("clock", text, value=(int(hour), int(match[2] or 0), int(match[3] or 0), half.lower()))
    parts = split(text, ":")
    return Node("ratio", text, tuple(map(read, parts))) if len(parts) > 1 and all(parts) else None


def _read_operation(text: str) -> Node | None:
    if re.fullmatch(r"\\mathbb\{R\}-\\\{.*\\\}", text):
        text = text.replace("-", r"\setminus", 1)
    for kind, sign in (("union", r"\\cup"), ("meet", r"\\cap"), ("without", r"\\setminus")):
        parts = split(text, rf"{sign}(?![a-z])")
        if len(parts) > 1 and all(parts):
            return Node(kind, text, tuple(map(read, parts)))
    return None


def _read_set(text: str) -> Node | None:
    match = re.fullmatch(r"\\\{(.*)\\\}", text)
    if not match or "\\}" in match[1].split("\\{")[0]:
        return None
    parts = split(match[1], r":|\\mid(?![a-z])|(?<=[A-Za-z}])\|(?=[^|]*$)")
    if len(parts) == 2 and re.match(r"\(?[A-Za-z]", parts[0]):
        return Node("such", text, tuple(map(read, parts)))
    return Node("list", text, _read_all(split(match[1], "[,;]")), "{")


def _read_brackets(text: str) -> Node | None:
    if text.startswith(r"\langle") and text.endswith(r"\rangle"):
        text = f"({text[7:-7]})"
    match = re.fullmatch(r"([(\[])(.+)([)\]])", text)
    if rows := re.fullmatch(r"\[(\[[^\[\]]*\](?:,\[[^\[\]]*\])*)\]", text):  # [[1,2],[3,4]]
        return read(rf"\begin{{matrix}}{rows[1][1:-1].replace('],[', chr(92) * 2).replace(',', '&')}\end{{matrix}}")
    if match and len(parts := split(match[2], "[,;]")) > 1 and _balanced(match[2]):
        return Node("tuple", text, tuple(map(read, parts)), match[1] + match[3])
    if (turned := _OUTWARD.fullmatch(text)) and len(parts := split(turned[2], "[,;]")) == 2:
        opened = {"]": "(", "[": "[", "(": "("}[turned[1]]
        closed = {"[": ")", "]": "]", ")": ")"}[turned[3]]
        return Node("tuple", text, tuple(map(read, parts)), opened + closed)
    if match and match[1] + match[3] in ("()", "[]") and _balanced(match[2]) and parse(text) is None:
        return read(match[2])  # around a matrix
    return None


def _balanced(text: str) -> bool:
    depth = 0
    for match in re.finditer(r"[(\[]|[)\]]", text):
        depth += 1 if match[0] in "([" else -1
        if depth < 0:
            return False
    return depth == 0


def _read_matrix(text: str) -> Node | None:
    match = _MATRIX.fullmatch(text)
    if not match or r"\begin" in match[2]:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", re.sub(r"\\hline", "", match[2])) if row.strip()]
    cells = tuple(read(cell) for row in rows for cell in row)
    return Node("tuple", text, cells, " ".join(str(len(row)) for row in rows))


# -- leaves -------------------------------------------------------------------------------------------------


def _read_sign(text: str) -> Node | None:
    if text == r"\emptyset":
        return Node("empty", text)
    if text in (r"\mathbb{R}", r"(-\infty,\infty)", r"(-\infty,+\infty)"):
        return Node("reals", text)
    if text in (r"\mathbb{R}^+", r"\mathbb{R}_+", r"\mathbb{R}_{+}", r"\mathbb{R}_{>0}"):
        return read(r"(0,\infty)")._replace(text=text)
    if text in (r"\infty", r"+\infty", r"-\infty"):
        return Node("infinite", text, label="-" if text.startswith("-") else "")
    if text.endswith("%"):
        return Node("percent", text, (read(text[:-1]),))
    return None


def _read_measure(text: str) -> Node | None:
    """6 m: six metres, or six times m."""
    if measure := re.fullmatch(r"(.*[\d}]) ([A-Za-z])", text):
        return Node("either", text, (read(measure[1]), read(measure[1] + measure[2])))
    return None


def _read_formula(text: str) -> Node | None:
    if _WORD.fullmatch(text):
        return Node("word", text)
    if _PROSE.search(text) or re.search(r"[^\x00-\x7f]", text):
        return Node("unread", text)
    if (tree := parse(text)) is not None:
        return Node("formula", text, value=tree)
    return None


def _read_symbolic(text: str) -> Node | None:
    found = symbolic.parse(text)
    if found is None:
        return None
    if isinstance(found, Expr):
        return Node("formula", text, value=found)
    if isinstance(found, symbolic.Matrix):
        cells = tuple(Node("formula", "", value=cell) for cell in found.cells)
        return Node("tuple", text, cells, found.shape)
    return Node("symbolic", text, value=found)


_READERS = (
    _read_list, _read_set, _read_signs, _read_sign, _read_measure, _read_logic, _read_relation, _read_member, _read_equation, _read_ratio,
    _read_operation, _read_brackets, _read_matrix, _read_formula, _read_symbolic,
)  # fmt: skip
