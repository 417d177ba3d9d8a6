r"""Finding the answer in a model's text: the last ``\boxed{…}``, several boxes that form one list, GSM8K's ``####``."""

from __future__ import annotations

import re

_BOX = re.compile(
    r"(?:\\(?:boxed|fbox|framebox)|\x08oxed)(?![a-zA-Z])\s*"
)  # \x08: the \b of a string with one backslash
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# What stands in a box that only shows the format: \boxed{}, \boxed{...}, \boxed{\text{your answer}}.
_EMPTY = re.compile(
    r"(?:[.\s…~_?]|\\(?:[lc]?dots|q?quad|[,;: ])|\{\})*|(?:\\text\{)? ?<?(?:(?:your|the|final|ANS) ?)*answers?(?: here)?>? ?\}?",
    re.I,
)
_HASHES = re.compile(r"(?:^|\n)[ \t]*#{4}[ \t]*([^\n]+)")
# What may stand between two boxes of one list: "\boxed{3}, \boxed{5} and $x = \boxed{7}$". Never a new line or sentence.
_BETWEEN = re.compile(
    r"[$\s]*(?:[,;]|(?:[,;]\s*)?\\?(?:text\{ ?)?(?:and|or|和|或)(?: ?\})?)[$ ]*\n?[$ ]*(?:[A-Za-z](?:_\w|_\{\w+\})? ?= ?)?[$ ]*"
)


def has_box(text: str) -> bool:
    """Whether a box is opened anywhere, be it empty or broken."""
    return bool(_BOX.search(text))


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace that opens at ``start`` closes; None if it never does."""
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return brace.start()
    return None


def _boxes(text: str) -> list[tuple[int, int, str | None]]:
    r"""Start, end and content of every box; None as content where it never closes. ``\boxed 5`` counts, a bare
    ``\boxed`` in prose does not, nor does an empty box: they are talk about the format."""
    found: list[tuple[int, int, str | None]] = []
    for match in _BOX.finditer(text):
        if found and match.start() < found[-1][1]:
            continue  # inside the one before
        if text.startswith("{", match.end()):
            end = closing_brace(text, match.end())
            if end is None:
                found.append((match.start(), len(text), None))
            elif not _EMPTY.fullmatch(content := text[match.end() + 1 : end].strip()):
                inner = extract(content) if _BOX.search(content) else None
                found.append((match.start(), end + 1, inner or content))
        elif word := re.match(r"[-+]?(?:\d|\\[dt]?frac|\\sqrt|\\pi|[A-Zb-z](?![A-Za-z]))[^\s$]*", text[match.end() :]):
            found.append((match.start(), match.end() + word.end(), word[0].rstrip(".,;")))
    return found


def extract(text: str) -> str | None:
    r"""The content of the last box (``\boxed{…}``, ``\fbox{…}``, ``\framebox{…}``, or the one word of ``\boxed 5``).

    Boxes with nothing but a comma, "and" or "or" between them are one list: ``\boxed{3}, \boxed{5}`` is ``3, 5``.
    A later empty box, or a bare ``\boxed`` in a sentence, is talk about the format and voids nothing. None
    without a box, and when the last one never closes: it was cut off, and an earlier box is no answer then.
    """
    boxes = _boxes(text)
    if not boxes or boxes[-1][2] is None:
        return None
    listed = [boxes[-1][2]]
    for (_, end, content), (start, _, _) in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        if content is None or not _BETWEEN.fullmatch(text[end:start]):
            break
        listed.append(content)
    if len(set(listed)) == 1:  # said twice
        return listed[0]
    return ", ".join(reversed(listed))


def after_hashes(text: str) -> str | None:
    """The answer behind the last ``####``, as in GSM8K."""
    found = _HASHES.findall(text)
    return found[-1].strip() if found else None


def after_thinking(text: str) -> str | None:
    """What follows the first ``</think>``, up to another tag; None where a ``<think>`` never closes."""
    if text.rfind("<think>") > text.rfind("</think>"):
        return None
    if "</think>" in text:
        return re.split("</?think>", text.split("</think>", 1)[1], maxsplit=1)[0]
    return text
