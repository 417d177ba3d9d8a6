r"""The one grader: is this answer right? Reward, evaluation and the vote all ask here: they cannot disagree.

`extract` finds the boxed answer, `normalise` gives it one spelling, `same` compares two by value, `grade`
judges a text, `group` sorts a vote. Plain numbers are compared exactly, right here, in microseconds. The rest
goes to a worker process (`trueplex.grading.worker`, the `math` extra), which is killed when it is late. Every
call blocks, needs no signals and no event loop, and may come from any thread.

**What counts as equal.** The same value as written: ``0.5`` is ``1/2``, but ``0.333`` is not ``1/3``, nor
``3.14`` ``\pi``. A bare list or a set is equal in any order, a tuple or interval only in its own. A unit or
degree sign after a number counts for nothing. ``p%`` is ``p`` and also ``p/100``; ``x = 5`` is ``5``, but not
``y = 5``. (Otherwise being the same is transitive.) Variables are real numbers, and ``r`` is not ``R``. None
means that nobody can tell, never "wrong".

Left out: answers told in prose, judges, trigonometry in degrees, the decimal comma.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from trueplex.errors import MissingExtra
from trueplex.grading.pool import Reply, workers

LONGEST = 2000  # characters; a longer answer is compared by its spelling only, so that every cost has a bound
TIMEOUT = 3.0


@dataclass(frozen=True, slots=True)
class Grade:
    """``correct`` is None where nobody can tell; ``why`` says in a few words how it was decided."""

    correct: bool | None
    extracted: str | None
    why: str


# -- spelling ------------------------------------------------------------------------------------------------

_SIGNS = {"−": "-", "–": "-", "÷": "/", "²": "^2", "³": "^3", "½": r"\frac12", "€": "$", "£": "$"}
_SIGNS |= {"×": r"\times ", "·": r"\cdot ", "√": r"\sqrt ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ "}
_SIGNS |= {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in "}
_TEXT = r"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|it|sf)|mbox|hbox|unit) ?"
_UNIT = (
    r"(?:[A-Za-z]{4,}|[cmkn]m|in|ft|yd|mi|mph|km/h|m/s|[km]?g|lbs?|oz|m?L|k?J|k?W|k?Hz|eV|min|hrs?|sec|days?"
    r"|deg|sq|cu)(?![A-Za-z])(?:\^\{?-?\d\}?)?"
)
# In this order. Each takes linear time, once runs of space are single.
_SPELLINGS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\s+", " "),
    (r"(?<=\d)(?:\{,\}|, ?\\!|\\,) ?(?=\d{3}(?!\d))", ""),  # 1{,}234 and 10,\!080 are one number, wherever
    (r"\\\$|\$|(?<!\\)\\[()[\]]", ""),
    (r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![a-z])|\\(?:display|text)style(?![a-z])", " "),
    (r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z]) ?\.?", ""),
    (r"\\[dtc]frac", r"\\frac"),
    (r"<=|\\leq(?:slant)?(?![a-z])", r"\\le "),
    (r">=|\\geq(?:slant)?(?![a-z])", r"\\ge "),
    (rf" ?(?:\\?%|(?<![a-z])percent(?![a-z])|{_TEXT}\{{ ?percent ?\}})", "%"),
    (r" ?\^ ?\{? ?\\circ ?\}?(?: ?[CF](?![A-Za-z]))?", ""),  # degrees
    (r"(?<=\d) ?\^ ?\{ ?\\prime ?(?:\\prime ?)?\}(?=\.?$)", ""),  # minutes and seconds of arc
    (rf" ?,? ?(?:{_TEXT}\{{ ?(?:and|or) ?\}}|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z])) ?", ","),
    # A unit set as text after a number, as in 15\text{ cm}^2; but not \mathrm{i} or \mathrm{e}.
    (
        rf"(?:(?<=[\d)}}\]])|(?<=\\pi)) ?(?:{_TEXT}\{{(?! ?[ei] ?\}})[^{{}}]*\}}"
        r"(?: ?\^ ?(?:\{[^{}]*\}|\d))?[ /.]?)+(?=$|[,;)])",
        "",
    ),
    (rf"{_TEXT}\{{([^{{}}]*)\}}", r"\1"),
    (rf"{_TEXT}\{{([^{{}}]*)\}}", r"\1"),  # once more: \textbf{\text{(C)}}
    (r"^ ?\(([A-Za-z])\) ?$", r"\1"),  # the choice (C)
    (r"(?<![\\A-Za-z])infinity(?![A-Za-z])", r"\\infty"),
    (r"(?<![\\A-Za-z])(sqrt|(?:arc)?(?:sin|cos|tan)|cot|ln|log|exp|pi|theta|infty)(?![A-Za-z])", r"\\\1"),
    (rf"(?<=[\d)}}]) ?{_UNIT}(?:[ /]{_UNIT}){{0,3}}(?=\.?$|[,;)])", ""),  # a unit in plain letters: 5 cm^2
    # Thousands, if nothing else is there, and before the spaces go: "1, 234" is a list, from now on 1;234.
    (r"^ ?[+-]?[1-9]\d{0,2}((,\d{3})+|( \d{3})+)(?=(\.\d+)? ?%?\.? ?$)", lambda m: re.sub("[ ,]", "", m[0])),
    (r"^ ?[+-]?[1-9]\d{0,2}( ?, ?\d{3})+(?=\.? ?$)", lambda m: re.sub(" ?, ?", ";", m[0])),
    (r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=\d) (?=[A-Za-z])|(?<=[A-Za-z]) (?=\d)", ""),
    (r"^=|[.,;:]+$|^\*+|\*+$", ""),
    (r"(?<![\d.])\.(?=\d)", "0."),
    (r"(?<=\d)[eE]([+-]?\d{1,3})$", r"\\times10^{\1}"),
    (r"^([+-]?\d+) (\d+)/(\d+)$", r"\1\\frac{\2}{\3}"),  # 1 4/5
    (r"\\frac ?([0-9A-Za-z])", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\}) ?([0-9A-Za-z])", r"\1{\2}"),
    (r"\\sqrt ?([0-9A-Za-z])", r"\\sqrt{\1}"),
    (r"\\sqrt\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\^(-\d+|\d\d+)", r"^{\1}"),
    (r"([\^_])\{(\w)\}(?!\w)", r"\1\2"),
]
_TABLE = str.maketrans(_SIGNS)
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in _SPELLINGS]
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def extract(text: str) -> str | None:
    r"""The content of the last ``\boxed{…}`` or ``\fbox{…}``, or the one word of ``\boxed 5``.

    None without a box, and when the last one is empty or never closes: an earlier box is no answer then.
    """
    starts = [match.end() for match in _BOX.finditer(text)]
    if not starts:
        return None
    if not text.startswith("{", starts[-1]):
        word = re.match(r"[^\s$]*", text[starts[-1] :])
        return (word[0].rstrip(".,;") or None) if word else None
    depth = 0
    for brace in _BRACE.finditer(text, starts[-1]):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return text[starts[-1] + 1 : brace.start()].strip() or None
    return None


def normalise(answer: str) -> str:
    r"""One spelling for answers that differ only in habits of LaTeX: equal results are equal answers.

    Goes: a box around it, ``$``, ``\( \)``, spaces (not between two words or two numbers), ``\left``, fonts,
    ``\text{}``, currency, degree signs, a final full stop, and units after a number (set as ``\text{…}``, a
    common abbreviation, or words of four letters and more; never one letter, which may be a variable). One
    way is left to write ``\frac{a}{b}``, ``\sqrt{a}``, ``x^2``, ``%``, ``0.5``, ``\times10^{5}``. Thousands:
    ``1{,}234`` and ``1,\!234`` anywhere; ``1,234`` and ``1 234`` only as the whole answer, so ``(1,234)``
    stays a pair and ``1, 234`` a list. Capitals stay. An answer over `LONGEST` is only stripped.
    """
    if len(answer) > LONGEST:
        return answer.strip()
    if _BOX.search(answer):
        answer = extract(answer) or answer
    answer = answer.translate(_TABLE).strip()
    for pattern, replacement in _COMPILED:
        answer = pattern.sub(replacement, answer)
    return answer


# -- plain values --------------------------------------------------------------------------------------------

_NUMBER = r"\d+(?:\.\d*)?"
_INTEGER = re.compile(r"-?\d{1,300}")
_RATIO = re.compile(rf"([+-]?{_NUMBER})(?:/({_NUMBER}))?")
_FRACTION = re.compile(rf"([+-]?)(\d*)\\frac\{{([+-]?{_NUMBER})\}}\{{([+-]?{_NUMBER})\}}")
_REPEATING = re.compile(r"([+-]?)(\d+)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}")
_SCIENTIFIC = re.compile(rf"([+-]?)(?:({_NUMBER})(?:\\times|\\cdot|\*))?10\^(?:(\d)|\{{([+-]?\d{{1,3}})\}})")
_WORD = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z' -]*|(?i:yes|no|odd|all|one|two|six|ten|DNE)")
_PROSE = re.compile(r"(?<![\\{A-Za-z])[A-Za-z]+ [A-Za-z]{3,}")


class _Reading(NamedTuple):
    """An answer as far as it can be read without math-verify."""

    text: str
    exact: Fraction | None = None
    percent: bool = False
    word: str | None = None

    @property
    def key(self) -> Fraction | str:
        """Equal for answers that are the same already at this point."""
        return self.exact if self.exact is not None else self.word or self.text


def _exact(text: str) -> Fraction | None:
    """The rational number that a normalised answer spells (mixed and repeating ones too), if it is one."""
    try:
        if match := _RATIO.fullmatch(text):
            return Fraction(match[1]) / Fraction(match[2] or 1)
        if match := _FRACTION.fullmatch(text):
            sign, whole, above, below = match.groups()
            value = Fraction(whole or 0) + Fraction(above) / Fraction(below)
        elif match := _SCIENTIFIC.fullmatch(text):
            sign, mantissa, digit, digits = match.groups()
            value = Fraction(mantissa or 1) * Fraction(10) ** int(digit or digits)
        elif match := _REPEATING.fullmatch(text):
            sign, whole, fixed, cycle = match.groups()
            repeated = int(whole + fixed + cycle) - int(whole + fixed)
            value = Fraction(repeated, 10 ** len(fixed + cycle) - 10 ** len(fixed))
        else:
            return None
    except ZeroDivisionError:
        return None
    return -value if sign == "-" else value


def _read(answer: str) -> _Reading:
    return _read_short(answer) if len(answer) <= LONGEST else _Reading(answer.strip())


@functools.lru_cache(8192)
def _read_short(answer: str) -> _Reading:
    if _INTEGER.fullmatch(answer):
        return _Reading(answer, Fraction(int(answer)))
    text = normalise(answer)
    if (exact := _exact(text.removesuffix("%"))) is not None:
        return _Reading(text, exact, text.endswith("%"))
    return _Reading(text, word=text.casefold() if _WORD.fullmatch(text) else None)


def _plainly(a: _Reading, b: _Reading) -> bool | None:
    """Whether the two are the same, if spelling and exact numbers can tell."""
    if a.key == b.key or a.text == b.text:
        return True
    if a.exact is not None and b.exact is not None:
        return a.percent != b.percent and a.exact == b.exact * (100 if a.percent else Fraction(1, 100))
    return False if (a.word or a.exact is not None) and (b.word or b.exact is not None) else None


# -- verdicts ------------------------------------------------------------------------------------------------


def same(a: str, b: str, timeout: float = TIMEOUT) -> bool | None:
    """Whether two answers are equal in value: True, False, or None if that cannot be told (unreadable, late).

    ``same(a, b) == same(b, a)``. It works for at most ``timeout`` seconds, not counting the wait for a
    worker, which starts in about a second, at the first question and after a late one.

    Raises:
        MissingExtra: plain comparison cannot decide and math-verify is not installed.
    """
    return _compare(_read(a), [_read(b)], timeout).verdict


def _compare(a: _Reading, others: Sequence[_Reading], timeout: float) -> Reply:
    """Whether the answer is the same as any of the others, and which. No others: whether it is comparable."""
    verdicts = [_plainly(a, b) for b in others]
    if True in verdicts:
        return Reply(True, "equal", verdicts.index(True))
    unsure = [k for k, verdict in enumerate(verdicts) if verdict is None]
    if others and not unsure:
        return Reply(False, "different")
    if max(len(a.text), *(len(others[k].text) for k in unsure), 0) > LONGEST:
        return Reply(None, f"could not parse: longer than {LONGEST} characters")
    reply = workers.ask(a.text, [others[k].text for k in unsure], timeout)
    return reply if reply.match is None else reply._replace(match=unsure[reply.match])


def grade(prediction: str | None, answers: Sequence[str], timeout: float = TIMEOUT) -> Grade:
    """Judge a model's text, or a bare answer, against the answers that count as right (any of them will do).

    Of a text with thinking, only what follows the first ``</think>``, up to another tag, is read; a
    ``<think>`` that never closes was cut off and is wrong. The answer is the last box (see `extract`).
    Without a box, a text of at most 400 characters and one line (or with a LaTeX environment) is itself the
    answer, unless it is prose: two plain words in a row, beside something else. Any other text is wrong.

    Raises:
        MissingExtra: see `same`.
    """
    text = prediction or ""
    if text.rfind("<think>") > text.rfind("</think>"):
        return Grade(False, None, "thinking was truncated")
    if "</think>" in text:
        text = re.split("</?think>", text.split("</think>", 1)[1], maxsplit=1)[0]
    extracted = extract(text)
    if extracted is None:
        if _BOX.search(text):
            return Grade(False, None, "the last box is broken or empty")
        extracted = text.strip()
        bare, spelt = _read(extracted), [_read(a).text for a in answers]
        prose = _PROSE.search(bare.text) and not bare.word and bare.text not in spelt
        lines = 1 if "\\begin{" in extracted else len(extracted.splitlines())
        if prose or lines != 1 or len(extracted) > 400:
            return Grade(False, None, "no boxed answer")
    if not answers:
        return Grade(None, extracted, "no answer to compare with")
    reply = _compare(_read(extracted), [_read(a) for a in answers], timeout)
    return Grade(reply.verdict, extracted, reply.why)


def grade_many(pairs: Iterable[tuple[str | None, Sequence[str]]], timeout: float = TIMEOUT) -> list[Grade]:
    """`grade` each (prediction, answers), on all workers at once; the grades are in order."""
    with ThreadPoolExecutor(workers.size) as threads:
        return list(threads.map(lambda pair: grade(pair[0], pair[1], timeout), pairs))


def group(answers: Sequence[str], timeout: float = TIMEOUT) -> list[list[int]]:
    """The indices of the answers, grouped by value, in order of first appearance.

    An answer is held against the first of each group, then tried alone before others are held against it,
    each for at most ``timeout`` seconds. What cannot be told (unreadable, late, or math-verify is not
    installed) never merges, unless spelt the same. ``50%`` stands with ``50``, not with ``0.5``.
    """
    groups: list[list[int]] = []
    places: dict[Fraction | str, list[int]] = {}
    firsts: list[tuple[_Reading, list[int]]] = []  # of the groups that others can be held against
    for index, reading in enumerate(map(_read, answers)):
        if reading.key not in places:
            rivals = [first for first in firsts if reading.exact is None or first[0].exact is None]
            reply = Reply(False, "")
            try:
                if reading.word or not reading.text:
                    reply = Reply(None, "")
                elif rivals:
                    reply = _compare(reading, [rival for rival, _ in rivals], timeout)
                if reply.verdict is False and reading.exact is None:
                    reply = _compare(reading, [], timeout)
            except MissingExtra:
                reply = Reply(None, "")
            if reply.match is None:
                groups.append([])
                if reply.verdict is False:
                    firsts.append((reading, groups[-1]))
            places[reading.key] = groups[-1] if reply.match is None else rivals[reply.match][1]
        places[reading.key].append(index)
    return groups
