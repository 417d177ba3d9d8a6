r"""Where an answer stands in a text that has no box: "the answer is …", the last number, the last line, JSON, a choice."""

from __future__ import annotations

import json
import re
from typing import Any

_LEAD = r"(?:\b(?:final |correct |right |best )?answers?\b(?: (?:to|for|of) [^.\n:]{1,80}?)?(?: (?:is|are|should be|must be|would be)|[ *_]*[:=]|[*_]+ *[:=])|答案(?:是|为|[:：]))"
_SAID = re.compile(rf"{_LEAD}[ *_:]*(?P<tail>\s*[ *_]*[^\n]+)", re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"[.!?。](?=\s|[*_]|$)")
_CLAUSE = re.compile(r"(?:,? (?:because|since|as|so|which|where)|, (?=[a-z]{3,})) .*", re.IGNORECASE)
_NOTHING = re.compile(  # and a box that the model only mentions, as the instruction does
    r"(?:not|that|because|in|as follows|unclear|unknown|given|below|above|the following)\b|.*\\boxed\{\s*\}",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.,/])[-−+]?[$€£]?\d+(?:,\d{3})*(?:\.\d+)?(?: ?/ ?\d+)?(?:\^\d+)?(?![\w/])")
_EDGES = ' \t*_`"“”'
_LINE_ENDS = re.compile(r"<\|[^|<>]*\|>|</s>|<eos>|<end_of_turn>")
_MENTIONED = re.compile(r"(?<![A-Za-z\\'’])(?:\(([A-Z])\)|([A-Z])[).:](?=\s|$)|([A-Z])(?![A-Za-z'’]))")
_CHOICE = re.compile(r"\W*(?:(?:choice|option|answer)\W+)?\(?([A-Z])\)?(?:[).:,]|\W*$)", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def visible(text: str) -> str:
    """The text without the special tokens that end it."""
    return _LINE_ENDS.sub("", text).strip()


def said(text: str) -> str | None:
    """What follows the last "the answer is", "Answer:" or the like, up to the end of its sentence."""
    for match in reversed(list(_SAID.finditer(text))):
        tail = match["tail"].strip().strip(_EDGES + ":").strip()
        end = _SENTENCE_ENDS.search(tail)
        tail = _CLAUSE.sub("", tail[: end.start()] if end else tail).strip(_EDGES)
        if tail and not tail.endswith(":") and not _NOTHING.match(tail):
            return tail
    return None


def last_number(text: str) -> str | None:
    """The last number, without currency signs and commas between thousands."""
    found = _NUMBER.findall(text)
    return re.sub(r"[$€£, ]", "", found[-1]).replace("−", "-").removeprefix("+") if found else None


def last_line(text: str) -> str | None:
    """The last line that is not blank, without Markdown around it."""
    lines = [line.strip().lstrip("#>-•").strip(_EDGES) for line in text.splitlines()]
    lines = [line for line in lines if line and set(line) - set("`~=-")]
    return lines[-1] if lines else None


def letter(text: str) -> str | None:
    """The choice that a short answer names: ``B``, ``(B)``, ``B. Paris``, ``option b``; None where it names none."""
    found = _CHOICE.match(text.strip(_EDGES + "$") + "\n")
    return found[1].upper() if found and (found[1].isupper() or len(text.strip(_EDGES)) <= 8) else None


def last_letter(text: str) -> str | None:
    """The last capital letter that stands by itself, "I" and "A" as words left aside unless marked as a choice."""
    found = [a or b or c for a, b, c in _MENTIONED.findall(text) if a or ((b or c) != "I" and c != "A")]
    return found[-1] if found else None


def last_json(text: str) -> Any:
    """The last JSON object or list of a text, in a fence or bare. Raises ValueError where there is none."""
    for fenced in reversed(_FENCE.findall(text)):
        try:
            return json.loads(fenced)
        except (ValueError, RecursionError):
            continue
    decoder, found, at = json.JSONDecoder(), [], 0
    while (at := min((p for p in (text.find("{", at), text.find("[", at)) if p >= 0), default=-1)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            found.append(value)
        except (ValueError, RecursionError):
            at += 1
    if not found:
        raise ValueError("there is no JSON")
    return found[-1]
