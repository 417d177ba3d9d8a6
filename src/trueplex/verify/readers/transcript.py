"""A trace as text: for reward models with tokenizers of their own, and to split it into steps.

A merged step is read by the token that it emitted, slot 0. Steps end where the text breaks: at every line or at
every empty line, at ``</think>``, and where the trace ends. They are given in tokens, so a prefix can be cut
at one, and never change as the text grows.
"""

from __future__ import annotations

from collections.abc import Sequence

from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone

SEPARATORS = {"lines": "\n", "paragraphs": "\n\n"}


def separator(name: str) -> str:
    """What separates steps: ``lines`` or ``paragraphs``. Raises OptionError for anything else."""
    if name not in SEPARATORS:
        raise OptionError(f"unknown steps {name!r}. Try: one of {', '.join(SEPARATORS)}")
    return SEPARATORS[name]


class Transcript:
    """The text of a model's ids, and where its steps end. What each id decodes to is cached."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._pieces: dict[int, str] = {}

    def text(self, ids: Sequence[int], tags: bool = False) -> str:
        """What the ids say, without the end of sequence; with its ``</think>`` or an empty line in its place."""
        kept = [int(i) for i in ids if i not in self.backbone.ends]
        if tags or self.backbone.think_end not in kept:
            return self.backbone.decode(kept)
        at = kept.index(self.backbone.think_end)
        thought, answer = (self.backbone.decode(part).strip("\n") for part in (kept[:at], kept[at + 1 :]))
        return f"{thought}\n\n{answer}"

    def step_ends(self, ids: Sequence[int], separator: str, ended: bool) -> list[int]:
        """Numbers of tokens after which a step is finished, rising; the last one counts too when the trace has ended.

        A step holds at least one visible character; empty lines belong to the step before them.
        """
        ends: list[int] = []
        run = ""
        for at, token in enumerate(ids, 1):
            token = int(token)
            if token in self.backbone.ends:
                continue
            closes = token == self.backbone.think_end
            run += "" if closes else self._piece(token)
            if run.strip() and (closes or separator in run.lstrip()):
                ends.append(at)
                run = ""
        if ended and run.strip():
            ends.append(len(ids))
        return ends

    def steps(self, ids: Sequence[int], ends: Sequence[int]) -> list[str]:
        """The text of each step that ends there, without the white space around it."""
        starts = (0, *ends)
        hidden = {*self.backbone.ends, self.backbone.think_end}
        return [
            self.backbone.decode([int(i) for i in ids[a:b] if i not in hidden]).strip()
            for a, b in zip(starts, ends, strict=False)
        ]

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.backbone.decode([token])
        return self._pieces[token]
