r"""One spelling for answers that differ only in habits of writing: LaTeX, Unicode, units, thousands, words.

`normalise` takes an answer through the steps of `_STEPS` in order. Each takes about linear time once runs of space
are single. What an answer *means* (lists, sets, equations) is read later; here it only loses its clothes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from trueplex.grading.extract import after_hashes, closing_brace, extract, has_box
from trueplex.grading.rationals import spelt_out
from trueplex.grading.signs import as_latex
from trueplex.grading.units import LETTERS, TEXT, without_units

LONGEST = 2000  # characters; a longer answer is compared by its spelling only, so that every cost has a bound

Rule = tuple[str, "str | Callable[[re.Match[str]], str]"]


def _rules(*rules: Rule) -> Callable[[str], str]:
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def apply(text: str) -> str:
        for pattern, replacement in compiled:
            text = pattern.sub(replacement, text)
        return text

    return apply


# -- dress: spacing, styles, colours, other names of the same sign ------------------------------------------

_END = r"(?![a-zA-Z])"
_spacing = _rules(
    (r"\s+", " "),
    (r"(?<![A-Za-z])(?:US|HK|AU?|CA?|NZ) ?\\?\$ ?(?=\d)", ""),
    (r"(?<=\d)\{\.\}(?=\d)", "."),
    (r"(?<=\d)'(?=\d{3}(?!\d))", ""),  # 1'234, as the Swiss write it
    (r"\{ ?\\(?:rm|text|bf|it) ([^{}]*)\}", r"\\text{\1}"),
    (r"(?<=\d)(?:\{,\}|, ?\\!|\\,|\\ |~|\\[;:]) ?(?=\d{3}(?!\d))", ""),  # 10,\!080 is one number, wherever
    (r"\\\$|\$|(?<!\\)\\[()[\]]", ""),
    (rf"(?<!\\)\\[,;:!> ]|~|\\(?:q?quad|(?:display|text|script)style|limits|nolimits|thinspace|strut){_END}", " "),
    (r"\\[hv]space\*? ?\{[^{}]*\}|\\(?:[hv]?phantom|tag\*?|label) ?\{[^{}]*\}", " "),
    (rf"\\(?:left|right|middle|[bB]igg?[lrm]?){_END} ?\.?", ""),
    (
        rf"\\(?:bf|it|rm|sf|tt|em|sl|bfseries|itshape|rmfamily|[lL]arge|LARGE|[hH]uge|(?:normal|small)size|small|tiny){_END} ?",
        "",
    ),
    (r"\\color ?(?:\[[^\]]*\])? ?\{[^{}]*\} ?|(\\(?:textcolor|colorbox) ?(?:\[[^\]]*\])? ?)\{[^{}]*\}(?= ?\{)", r"\1"),
    (r"\\(?:begin|end)\{(?:align(?:ed)?|gather(?:ed)?|split|equation|math)\*?\} ?|(?<!\\)&(?==)", ""),
    (r"\\+ ?$", ""),
)
_STYLES = re.compile(
    r"\\(bm|boldsymbol|math(?:bf|it|sf|tt|normal|scr)|pmb|underline|emph|text(?:bf|it|tt|sl|sc|sf|up|normal|rm)"
    r"|textcolor|colorbox|ensuremath|num|ang|vec|overrightarrow|fbox|boxed) ?(?=\{)"
)
_AS_TEXT = ("emph", "textbf", "textit", "texttt", "textsl", "textsc", "textsf", "textup", "textnormal", "textrm")


def _without_styles(text: str) -> str:
    r"""``\bm{42}`` is ``42``; text styles become ``\text``, since a unit or a word may stand in them."""
    for _ in range(100):
        match = _STYLES.search(text)
        end = match and closing_brace(text, match.end())
        if not match or end is None:
            break
        inside = text[match.end() + 1 : end]
        if match[1] in _AS_TEXT:
            inside = rf"\text{{{inside}}}"
        elif len(inside) > 1 and (text.startswith(("^", "_"), end + 1) or text[: match.start()].endswith(("^", "_"))):
            inside = f"{{{inside}}}"
        text = text[: match.start()] + inside + text[end + 1 :]
    return text


_GROUP = r"(?:\{([^{}]*)\}|(\w))"


def _choose(match: re.Match[str]) -> str:
    above = match[1] or match[2]
    below = match[4] or match[5]
    if match[3] == "C":
        return rf"\binom{{{above}}}{{{below}}}"
    return rf"\frac{{({above})!}}{{({above}-({below}))!}}"


_names = _rules(
    (r"\\(?:[dtc]frac|nicefrac|sfrac|xfrac)(?![a-z])", r"\\frac"),
    (r"(?<![\\A-Za-z])frac(?=\{)", r"\\frac"),
    (r"\\colon(?![a-z])", ":"),
    (r"\\[dt]binom(?![a-z])", r"\\binom"),
    (r"\{([^{}]*)\\over(?![a-z]) ?([^{}]*)\}|^([^{}=,]*)\\over(?![a-z]) ?([^{}=,]*)$", r"\\frac{\1\3}{\2\4}"),
    (r"\{([^{}]*)\\choose(?![a-z]) ?([^{}]*)\}", r"\\binom{\1}{\2}"),
    (rf"(?:\{{ ?\}} ?|(?<![\w}}]))[_^] ?{_GROUP} ?([CP]) ?_ ?{_GROUP}", _choose),
    (r"(?<![\w\\])(\d+)([CP])(\d+)(?!\w)", lambda m: _choose(re.match(r"()(\d+)([CP])()(\d+)", m[0]) or m)),
    (rf"<=|\\leq(?:slant|q)?{_END}", r"\\le "),
    (rf">=|\\geq(?:slant|q)?{_END}", r"\\ge "),
    (rf"{TEXT} ?\{{ ?(lcm|gcd|max|min|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|mod) ?\}}", r"\\\1 "),
    (r"(?<![A-Za-z\\])C ?\( ?(\w+) ?, ?(\w+) ?\)", r"\\binom{\1}{\2}"),
    (r"\\pmod ?(\w)", r"\\pmod{\1}"),
    (rf"(?<=\d) ?(?:{TEXT} ?\{{ ?to ?\}}|(?<= )to(?= )) ?(?=\d)", ":"),
    (
        r"(?:\\text ?\{ ?)?(?i:all real(?:s| numbers)),? (?i:except|other than|but)(?: for)?(?: x ?=)? ?\}? ?([^{}]+)\}?$",
        r"\\mathbb{R}\\setminus\\{\1\\}",
    ),
    (rf" != |\\neq{_END}|\\not ?=", r"\\ne "),
    (rf"\\lt{_END}", "<"),
    (rf"\\gt{_END}", ">"),
    (rf"\\lbrace{_END} ?", r"\\{"),
    (rf" ?\\rbrace{_END}", r"\\}"),
    (rf"\\(?:[lr]?vert){_END} ?", "|"),
    (rf"\\[lr]?Vert{_END}", r"\\|"),
    (rf"\\[lr]brack{_END} ?", lambda m: "[" if "l" in m[0] else "]"),
    (rf"\\[lr]paren{_END} ?", lambda m: "(" if "l" in m[0] else ")"),
    (rf"\\(?:varnothing|O){_END}|\\\{{ ?\\\}}|(?i:(?:\\text\{{)?\b(?:the )?(?:empty set|no (?:real )?solutions?)\b\.?\}}?)|^(?:无解|空集)$", r"\\emptyset "),
    (rf"\\(?:small)?setminus{_END}|\\backslash{_END}", r"\\setminus "),
    (rf"\\wedge{_END}", r"\\land "),
    (rf"\\vee{_END}", r"\\lor "),
    (rf"\\(?:centerdot|cdotp|bullet){_END}", r"\\cdot "),
    (rf"\\ast{_END}", "*"),
    (rf"\\infin{_END}|(?<![\\A-Za-z])infinity{_END}|\\text ?\{{ ?infinity ?\}}", r"\\infty "),
    (rf"\\(?:[lc]dots|dots[cbm]?){_END}|\.\.\.+", r"\\ldots "),
    (rf"\\(?:pounds|euro|yen|textdollar|texteuro){_END} ?", "$"),
    (rf"(?:\\approx|\\simeq|\\cong|\\doteq){_END}", r"\\approx "),
    (r"\\overset ?\{\\?(?:\.|cdot)\} ?(?=\{\d\})", r"\\dot"),
    (rf"\\(?:Reals|R|reals|mathbf\{{R\}}){_END}|\\mathbb ?R|\\mathds\{{R\}}|(?:\\text\{{ ?)?(?i:all real(?:s| numbers))(?: ?\}})?", r"\\mathbb{R}"),
    (rf"\\mathbb ?([A-Z]){_END}", r"\\mathbb{\1}"),
)  # fmt: skip

# -- numbers ------------------------------------------------------------------------------------------------

_CURRENCY = r"[$€£¥₹₩₽₪฿₺₫₴₦₱]"
_TRIG = r"\\?(?:sin|cos|tan|cot|sec|csc)(?: ?\^ ?\{? ?-?\d ?\}?)?"
_DEGREE = r" ?(?:\^ ?\{? ?(?:\\(?:circ|degree)|o)(?![a-z]) ?\}?|\\(?:degree|deg|textdegree)(?![a-z]))"
_amounts = _rules(
    (rf"{TEXT} ?\{{ ?(?:{_CURRENCY}|Rs\.?|USD|EUR|GBP|CNY|RMB|INR|JPY) ?\}} ?(?=[-\d])", ""),
    (rf"(?<![A-Za-z])(?:{_CURRENCY}|(?:Rs\.?|USD|EUR|GBP|CNY|RMB|INR|JPY)(?= ?\d)) ?", ""),
    (r"(?<=\d) ?[xX] ?(?=10 ?(?:\^|\*\*))", r"\\times "),
    (r"(?<=\d) ?[€£¥₹₩₽₪฿¢]", ""),
    (rf" ?(?:\\?%|(?<![a-z])per ?cent(?![a-z])|{TEXT} ?\{{ ?(?:per ?cent|\\?%) ?\}})", "%"),
    # Degrees inside trigonometry are an argument; elsewhere the sign counts for nothing.
    (rf"({_TRIG}) ?(?:\( ?(\d+(?:\.\d+)?){_DEGREE} ?\)|\{{? ?(\d+(?:\.\d+)?){_DEGREE} ?\}}?)", r"\1(\\frac{\2\3\\pi}{180})"),
    (rf"{_DEGREE}(?: ?(?:[CF](?![A-Za-z])|{TEXT} ?\{{ ?[CF] ?\}}))?", ""),
    (r"(?<=\d) ?\^ ?\{ ?\\prime ?(?:\\prime ?)?\}(?=\.?$)", ""),  # minutes and seconds of arc
)  # fmt: skip
_COMMAS = re.compile(r"(?<![\d.,\w])[1-9]\d{0,2}(?:(?:,\d{3})+|(?:,\d{2}){1,3},\d{3})(?!\d)(?!,\d)")
_GAPS = re.compile(r"(?<![\d.,\w/])[1-9]\d{0,2}(?: \d{3})+(?![\d/])(?! \d| ?\\frac)")


def _bracket_around(text: str, place: int) -> tuple[str, str]:
    """The innermost bracket that is open at a place, with its content up to where it closes."""
    open_at: list[int] = []
    for match in re.finditer(r"\\\{|\\\}|[\[\](){}]", text[:place]):
        if match[0][-1] in "([{":
            open_at.append(match.start())
        elif open_at:
            open_at.pop()
    if not open_at:
        return "", text
    rest = text[open_at[-1] :]
    mark = r"\{" if rest.startswith("\\") else rest[0]
    return mark, re.split(r"[\])]|\\\}", rest.removeprefix(mark), maxsplit=1)[0]


def _join_thousands(text: str) -> str:
    r"""``1,234`` as 1234, in formulae and lists too; but ``(1,234)`` is a pair and ``1, 234`` a list.

    Inside brackets that may hold a list, commas of thousands are told by the spaces behind others (``(1,234, 5,678)``)
    or by a group that no number begins with (``(10,000)``).
    """

    def join(match: re.Match[str]) -> str:
        mark, content = _bracket_around(text, match.start())
        listed = mark in ("(", "[", r"\{") and not re.search(r", |;|,0\d\d", content)
        return match[0] if listed or text[: match.start()].endswith("_{") else re.sub("[ ,]", "", match[0])

    text = _COMMAS.sub(join, text)
    text = _GAPS.sub(join, text)
    # "1, 234" is a list, and stays one once the spaces have gone: from now on 1;234.
    spaced = re.match(r"^ ?[+-]?[1-9]\d{0,2}( ?, ?\d{3})+(?=\.? ?$)", text)
    return re.sub(" ?, ?", ";", spaced[0]) + text[spaced.end() :] if spaced else text


_AND = re.compile(
    rf" ?[,;]? ?(?:{TEXT} ?\{{[ ,]*(and|or|和|或|与|且) ?\}}|(?<![\\A-Za-z])(and|or)(?![A-Za-z])|(?<![一-鿿])([和或与且])(?![一-鿿])) ?"
)


def _joined(text: str) -> str:
    r"""The words between answers: a comma between values, ``\lor`` and ``\land`` between inequalities."""
    relations = re.search(rf"[<>]|\\(?:le|ge|ne|in){_END}", text)

    def sign(match: re.Match[str]) -> str:
        if not relations:
            return ","
        return r" \land " if (match[1] or match[2] or match[3]) in ("and", "与", "且") else r" \lor "

    return _AND.sub(sign, text)


# -- spelling -----------------------------------------------------------------------------------------------

_spelling = _rules(
    (rf"^{TEXT} ?\{{ ?(?i:(?:the )?(?:final |correct )?answer(?: is|:)) ?\}} ?", ""),
    (rf"{TEXT} ?\{{([^{{}}]*)\}}", r"\1"),
    (rf"{TEXT} ?\{{([^{{}}]*)\}}", r"\1"),  # once more: \textbf{\text{(C)}}
    (r"^ ?\(([A-Za-z])\) ?$", r"\1"),  # the choice (C)
    (r"^ ?([A-J])\)\.? ?$", r"\1"),
    (r"(?<![\\A-Za-z])(?:approx(?:imately)?\.?|about|roughly|exactly) *(?=[-\d\\])", ""),
    (r" ?\((?:approx(?:imately|\.)?|only|exact(?:ly)?|rounded|or equivalent)\)$", ""),
    (r"^ ?(?:\\approx|\\therefore|\\implies|\\Rightarrow)(?![a-z])", ""),
    (r"\\?(?<![\\A-Za-z])arc(sin|cos|tan)(?![A-Za-z])", r"\\arc\1"),
    (r"(?<![\\A-Za-z])(sqrt|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp|pi|theta|infty|alpha|beta|gamma|lambda)(?![A-Za-z])", r"\\\1"),
    (r"  +", " "),
    (rf"(?<![A-Za-z0-9}}]) | (?![A-Za-z0-9])|(?<=[\d}}]) (?![{LETTERS}]$)(?=[A-Za-z])|(?<=[A-Za-z}}]) (?=\d)", ""),
    (r"^=|[.,;:]+$|^\*+|\*+$|^`+|`+$|^__|__$|^\"|\"$", ""),
    (r"(?<![\d.A-J])\.(?=\d)", "0."),
    (r"(?<=\d)[eE]([+-]?\d{1,3})$", lambda m: rf"\times10^{{{m[1].removeprefix('+')}}}"),
    (r"^([+-]?\d+) (\d+)/(\d+)$", r"\1\\frac{\2}{\3}"),  # 1 4/5
    (r"\\frac ?([0-9A-Za-z])", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\}) ?([0-9A-Za-z])", r"\1{\2}"),
    (r"_(\d) (?=\d)", r"_{\1}"),
    (r"\\binom ?(\w) ?(\w)", r"\\binom{\1}{\2}"),
    (r"\\sqrt ?([0-9A-Za-z])", r"\\sqrt{\1}"),
    (r"\\sqrt\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\^\((-?\w+)\)", r"^{\1}"),
    (r"\*\*", "^"),
    (r"\^(-\d+|\d\d+)", r"^{\1}"),
    (r"([\^_])\{(\w)\}(?!\w)", r"\1\2"),
)  # fmt: skip


def _without_outer_braces(text: str) -> str:
    for _ in range(8):
        if not text.startswith("{") or closing_brace(text, 0) != len(text) - 1:
            break
        text = text[1:-1].strip()
    return text


_STEPS: list[Callable[[str], str]] = [
    as_latex,
    str.strip,
    lambda text: text if r"\begin" in text else re.sub(r"\\\\(?=[A-Za-z{])", r"\\", text),  # escaped once too often
    _spacing,
    _without_styles,
    _names,
    _amounts,
    lambda text: spelt_out(text.strip()),
    _join_thousands,
    _joined,
    lambda text: re.sub(rf"{TEXT} ?\{{ ?(?=[-+]?\d)([^{{}}]*)\}}", r"\1", text),  # \text{5 cm}: the number is no unit
    without_units,
    _spelling,
    _without_outer_braces,
]


def normalise(answer: str) -> str:
    r"""One spelling for answers that differ only in habits of writing: equal results are equal answers.

    Goes: a box around it, ``$``, ``\( \)``, spaces (not between two words or two numbers), ``\left``, fonts, colours,
    ``\text{}``, currency, degree signs, a final full stop, and units (see `units`). One way is left to write
    ``\frac{a}{b}``, ``\sqrt{a}``, ``x^2``, ``%``, ``0.5``, ``\times10^{5}``, ``\le``, and signs of Unicode. Thousands:
    ``1,234`` is 1234 in formulae and lists, but ``(1,234)`` stays a pair and ``1, 234`` a list. Capitals stay. An
    answer over `LONGEST` is only stripped.
    """
    if has_box(answer):
        answer = extract(answer) or answer
    elif "####" in answer:
        answer = after_hashes(answer) or answer
    if len(answer) > LONGEST:
        return answer.strip()
    for step in _STEPS:
        answer = step(answer)
    return answer
