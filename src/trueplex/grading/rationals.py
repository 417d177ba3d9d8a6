r"""Rational numbers as people write them: ``1 4/5``, ``0.(3)``, ``4.5\times10^{33}``, ``1.5 billion``, ``twenty-five``.

`spelt_out` turns words into figures, `exact` reads a normalised answer. All exact, nothing rounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: value for value, word in enumerate(_SMALL)} | {word: 10 * k for k, word in enumerate(_TENS, 2)}
_SCALES = {"hundred": 2, "thousand": 3, "lakh": 5, "million": 6, "crore": 7, "billion": 9, "trillion": 12}
_SCALES |= {"百(?!分)": 2, "千(?![米克瓦卡伏赫焦帕字])": 3, "万": 4, "亿": 8}
_COUNTS = {"dozen": 12, "score": 20, "gross": 144}
_PARTS = ["half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
_PART = {word: k for k, word in enumerate(_PARTS, 2)} | {"fourth": 4, "halve": 2, "hundredth": 100, "thousandth": 1000}

_NUMBER_WORD = "|".join((*sorted(_WORDS, key=len, reverse=True), "hundred", "thousand", "million"))
_NAMED = re.compile(
    rf"(?:(?:negative|minus) )?(?:{_NUMBER_WORD})(?:(?:[ -]|,? and )(?:{_NUMBER_WORD}))*(?=$|[ .,%-])", re.I
)
_PLACE = r"\\(?:text|mathrm|mbox) ?\{ ?"
_SCALE = re.compile(rf"(?<=[\d}}]) ?(?:{_PLACE})?({'|'.join((*_SCALES, *_COUNTS))})s?(?![A-Za-z]) ?")
_PORTION = re.compile(
    rf"^([-+]?\d+)(?: |-| ?{_PLACE})({'|'.join(sorted(_PART, key=len, reverse=True))})s?(?![A-Za-z]) ?\}}?(?=$|[ .,\\])"
)


def _value(words: str) -> int | None:
    """The whole number that English words spell: three hundred and five."""
    total = current = 0
    for word in re.split(r"[ ,-]+", words.lower()):
        if word in _WORDS:
            if current % 10 or 0 < current % 100 < 20:
                return None  # "two three" is no number
            current += _WORDS[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word in _SCALES:
            total, current = total + max(current, 1) * 10 ** _SCALES[word], 0
        elif word != "and":
            return None
    return total + current


def _figures(words: str) -> str:
    bare = re.sub(r"^(?:negative|minus) ", "", words, flags=re.I)
    value = _value(bare)
    return words if value is None else f"{'-' if bare != words else ''}{value}"


def spelt_out(text: str) -> str:
    r"""Words that are numbers as figures: ``5 million`` is ``5\times10^{6}``, ``3 halves`` is ``\frac{3}{2}``."""
    if (wrapped := re.fullmatch(_PLACE + r"([A-Za-z -]+)\}", text)) and _NAMED.match(wrapped[1]):
        text = wrapped[1].strip()
    if named := _NAMED.match(text):
        text = _figures(named[0]) + text[named.end() :]
    portion = _PORTION.match(text)
    if portion and not text.endswith("quarters"):
        text = rf"\frac{{{portion[1]}}}{{{_PART[portion[2]]}}}" + text[portion.end() :]
    return _SCALE.sub(_scaled, text)


def _scaled(match: re.Match[str]) -> str:
    word = next(w for w in (*_SCALES, *_COUNTS) if w.split("(")[0] == match[1])
    factor = rf"\times10^{{{_SCALES[word]}}}" if word in _SCALES else rf"\times{_COUNTS[word]}"
    wrapped = match[0].lstrip().startswith("\\")
    return factor + (r"\text{ " if wrapped else " ")  # what the word's braces still hold: a unit, or nothing


_NUMBER = r"\d+(?:\.\d*)?"
_RATIO = re.compile(rf"([+-]*)({_NUMBER})(?:/([+-]?{_NUMBER}))?")
_FRACTION = re.compile(rf"([+-]?)(\d*)\\frac\{{([+-]?{_NUMBER})\}}\{{([+-]?{_NUMBER})\}}")
_POWER = re.compile(r"([+-]?)10\^(?:(\d)|\{\+?(-?\d{1,3})\})")
_CYCLE = re.compile(r"([+-]?)(\d+)\.(\d*)(?:\\(?:overline|bar|dot) ?(?:\{(\d+)\}|(\d))|\((\d+)\))")
_DOTTED = re.compile(r"([+-]?\d+\.\d*)\\dot\{?(\d)\}?(?:(\d*)\\dot\{?(\d)\}?)")
_DOTS = re.compile(r"([+-]?)(\d+)\.(\d*?)((\d+?)\5+)\\ldots")


def _repeating(whole: str, fixed: str, cycle: str) -> Fraction:
    repeated = int(whole + fixed + cycle) - int(whole + fixed)
    return Fraction(repeated, 10 ** len(fixed + cycle) - 10 ** len(fixed))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign.count("-") % 2 else value


def exact(text: str) -> Fraction | None:
    """The rational number that a normalised answer spells (mixed, repeating and scientific ones too), if it is one."""
    try:
        if match := _RATIO.fullmatch(text):
            return _signed(match[1], Fraction(match[2]) / Fraction(match[3] or 1))
        if match := _FRACTION.fullmatch(text):
            sign, whole, above, below = match.groups()
            if whole and not abs(Fraction(above)) < abs(Fraction(below)):
                return None  # 2\frac{3}{2} is a product
            return _signed(sign, Fraction(whole or 0) + Fraction(above) / Fraction(below))
        if match := _POWER.fullmatch(text):
            return _signed(match[1], Fraction(10) ** int(match[2] or match[3]))
        if match := _DOTTED.fullmatch(text):
            text = f"{match[1]}({match[2]}{match[3]}{match[4]})"
        if match := _CYCLE.fullmatch(text):
            return _signed(match[1], _repeating(match[2], match[3], match[4] or match[5] or match[6]))
        if (match := _DOTS.fullmatch(text)) and (len(match[5]) > 1 or len(match[4]) > 1):
            return _signed(match[1], _repeating(match[2], match[3], match[5]))
    except ZeroDivisionError:
        return None
    first, sign, rest = re.match(
        r"([^\\*]*(?:\\frac\{[^{}]*\}\{[^{}]*\})?)(\\times|\\cdot|\*)?(.*)", text, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    if not sign or len(text) > 200:
        return None
    left, right = exact(first), exact(rest)
    return None if left is None or right is None else left * right
