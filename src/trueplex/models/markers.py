"""Where thinking opens and closes: the markers of the model families, as sequences of token ids.

A family's markers are found in the model's vocabulary or in its chat template; a caller gives the text of any other
model's. The last marker that the template writes after the last message says where a prompt leaves thinking.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Tags:
    """The texts that open and close thinking. The first of each is the one to write; all of them are recognised."""

    start: tuple[str, ...]
    end: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Markers:
    """`Tags` as sequences of token ids, in the same order."""

    start: Sequences
    end: Sequences

    @property
    def longest(self) -> int:
        return max(map(len, (*self.start, *self.end)))

    def opened(self, ids: Sequence[int]) -> bool:
        """Whether the ids hold a marker that opens thinking."""
        ids = tuple(ids)
        return any(ids[at : at + len(mark)] == mark for mark in self.start for at in range(len(ids) - len(mark) + 1))


def completed(recent: np.ndarray, sequences: Sequences) -> np.ndarray:
    """Which rows of the last emitted ids [B, L], −1 where there are none, end in one of the sequences: [B] bool."""
    found = np.zeros(len(recent), dtype=bool)
    for sequence in sequences:
        found |= (recent[:, -len(sequence) :] == sequence).all(1)
    return found


FAMILIES = (
    # gpt-oss (harmony): channels. Writing the first end also closes the message and opens the next.
    Tags(
        ("<|channel|>analysis<|message|>",),
        ("<|end|><|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>"),
    ),
    Tags(("<|channel>thought",), ("<channel|>",)),  # Gemma 4
    Tags(("[THINK]",), ("[/THINK]",)),  # Magistral
    Tags(("◁think▷",), ("◁/think▷",)),  # Kimi: several ids each
    Tags(("<think>",), ("</think>",)),  # Qwen3, R1, SmolLM3, OLMo 3, GLM, Nemotron and most others
)


def template_of(tokenizer: Any) -> str:
    """The source of the chat template that a plain conversation uses, or an empty text."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return template if isinstance(template, str) else template.get("default", "")


def tags_of(tokenizer: Any) -> Tags | None:
    """The tags of a model's family: in its chat template, or else in its vocabulary, as one special token each part."""
    template, added = template_of(tokenizer), tokenizer.get_added_vocab()
    for tags in FAMILIES:
        if all(_written(tags_text, template) for tags_text in (tags.start[0], tags.end[-1])):
            return tags
    return next((tags for tags in FAMILIES if _in_vocabulary(tags, added)), None)


def _written(text: str, template: str) -> bool:
    """Whether a template writes this text; gpt-oss's fills the name of the channel in, so that its parts are looked for."""
    return text in template or ("<|channel|>" in text and "<|channel|>" in template and "analysis" in template)


def _in_vocabulary(tags: Tags, added: dict[str, int]) -> bool:
    start, end = tags.start[0].replace("thought", ""), tags.end[-1]
    return start in added and end in added if "<|channel|>" not in end else "<|channel|>" in added


def given_tags(start: str | None, end: str | None, own: Tags | None) -> Tags | None:
    """The model's own tags, with those that a caller gave in their place."""
    if start is None and end is None:
        return own
    starts = (start,) if start else own.start if own else ()
    ends = (end,) if end else own.end if own else ()
    return Tags(starts, ends)


def markers_of(tokenizer: Any, tags: Tags | None) -> Markers | None:
    """Tags → ids. A text of ordinary tokens may follow a space, where it has other ids: both are recognised."""
    if tags is None:
        return None
    return Markers(*(tuple(dict.fromkeys(s for t in texts for s in _sequences(tokenizer, t))) for texts in (tags.start, tags.end)))  # fmt: skip


def _sequences(tokenizer: Any, text: str) -> list[tuple[int, ...]]:
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    special = set(tokenizer.get_added_vocab().values())
    if special & set(ids):
        return [ids]
    return [ids, tuple(tokenizer(f" {text}", add_special_tokens=False)["input_ids"])]


def thinking_after(tail: str, tags: Tags | None) -> str:
    """Where the last text that the template wrote leaves thinking: ``open``, ``closed``, ``model`` or ``untagged``."""
    if tags is None or not (tags.start or tags.end):
        return "untagged"
    opened = max((tail.rfind(text) for text in tags.start), default=-1)
    closed = max((tail.rfind(text) for text in tags.end), default=-1)
    if opened == closed:  # neither: -1 both
        return "model" if tags.start else "open"  # nothing can open it, so it is open until it closes
    return "open" if opened > closed else "closed"
