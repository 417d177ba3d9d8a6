r"""Unicode signs as LaTeX: ``10²³`` is ``10^{23}``, ``３／４`` is ``3/4``, ``⅓`` is ``\frac{1}{3}``.

Models and web pages write mathematics in any of these. Superscripts are read as runs: digit by digit, ``10²³``
would become ``10^2^3``. What is left after the tables goes through NFKC, which knows fullwidth and styled letters.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_SUPERSCRIPT = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᵏᵐᵖᵗˣʸ", "0123456789+-=()niabcdekmptxy", strict=True))
_SUBSCRIPT = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₒₓₕₖₗₘₙₚₛₜᵢⱼ", "0123456789+-=()aeoxhklmnpstij", strict=True))
_VULGAR = dict.fromkeys("¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↉")
_RAISED = re.compile(f"[{re.escape(''.join(_SUPERSCRIPT))}]+")
_LOWERED = re.compile(f"[{re.escape(''.join(_SUBSCRIPT))}]+")

_PLAIN = dict.fromkeys("−–—‐‑‒―﹣－", "-") | dict.fromkeys("⁄∕／", "/") | dict.fromkeys("•⋅·∙・", r"\cdot ")
_PLAIN |= {
    "、": ",",
    "，": ",",
    "。": ".",
    "；": ";",
    "′": "'",
    "″": "''",
    "’": "'",
    "ʹ": "'",
    "“": '"',
    "”": '"',
    "∶": ":",
}
_COMMANDS = {
    "×": "times", "✕": "times", "÷": "div", "π": "pi", "∞": "infty", "≤": "le", "≥": "ge", "⩽": "le", "⩾": "ge",
    "≦": "le", "≧": "ge", "≠": "ne", "≈": "approx", "≅": "cong", "≡": "equiv", "±": "pm", "∓": "mp", "∪": "cup",
    "∩": "cap", "∈": "in", "∉": "notin", "∅": "emptyset", "∖": "setminus", "∧": "land", "∨": "lor", "∠": "angle",
    "△": "triangle", "⟨": "langle", "⟩": "rangle", "〈": "langle", "〉": "rangle", "⌊": "lfloor", "⌋": "rfloor",
    "⌈": "lceil", "⌉": "rceil", "→": "to", "∑": "sum", "∏": "prod", "∫": "int", "∂": "partial", "∣": "mid",
    "…": "ldots", "⋯": "ldots", "Ω": "Omega", "ℓ": "ell",
}  # fmt: skip
_LETTERS = {"ℝ": r"\mathbb{R}", "ℂ": r"\mathbb{C}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}"}
_DEGREES = {"°": r"^\circ ", "º": r"^\circ ", "℃": r"^\circ C", "℉": r"^\circ F"}
_CAPITALS = ("GAMMA", "DELTA", "THETA", "LAMBDA", "XI", "PI", "SIGMA", "UPSILON", "PHI", "PSI", "OMEGA")


def _greek() -> dict[str, str]:
    letters = {"µ": r"\mu ", "ϕ": r"\phi ", "ϵ": r"\epsilon ", "ϑ": r"\vartheta ", "ς": r"\varsigma "}
    for char in map(chr, range(0x391, 0x3CA)):
        size, _, name = unicodedata.name(char, "").removeprefix("GREEK ").partition(" LETTER ")
        if name == "LAMDA":  # as Unicode spells it
            name = "LAMBDA"
        if size == "SMALL" and name.isalpha() and name != "OMICRON":
            letters[char] = rf"\{name.lower()} "
        elif size == "CAPITAL" and name in _CAPITALS:
            letters[char] = rf"\{name.capitalize()} "
    return letters


_TABLE = str.maketrans(
    _greek() | _PLAIN | {sign: rf"\{name} " for sign, name in _COMMANDS.items()} | _LETTERS | _DEGREES
)
_ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}


def _fraction(char: str) -> str:
    above, _, below = unicodedata.normalize("NFKC", char).partition("\u2044")
    return rf"\frac{{{above}}}{{{below}}}"


def _root(match: re.Match[str]) -> str:
    inside = match[2] or match[3] or ""
    return rf"\sqrt{_ROOTS[match[1]]}" + (f"{{{inside}}}" if inside else " ")


def as_latex(text: str) -> str:
    """The same text in ASCII and LaTeX commands, as far as a sign has one; invisible characters go."""
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text)
    text = re.sub(r"\\text\{ ?[°º] ?\}", r"^\\circ ", text)
    text = _RAISED.sub(lambda run: "^{" + "".join(map(_SUPERSCRIPT.__getitem__, run[0])) + "}", text)
    text = _LOWERED.sub(lambda run: "_{" + "".join(map(_SUBSCRIPT.__getitem__, run[0])) + "}", text)
    text = re.sub(r"\^\{(\d+)\}[⁄/]_\{(\d+)\}", r"\\frac{\1}{\2}", text)
    text = "".join(_fraction(char) if char in _VULGAR else char for char in text)
    text = re.sub(r"([√∛∜]) ?(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))?", _root, text)
    return unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
