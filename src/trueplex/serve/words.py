"""Ids → what a client reads: thinking and answer apart, without tags, ends of sequence and stop strings.

What is streamed and what is sent whole go the same way, so that the pieces add up to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from trueplex.models.backbone import Backbone
from trueplex.types import Prompt, Trace

UNFINISHED = "\ufffd"  # what the first bytes of a character decode to


@dataclass(slots=True)
class Piece:
    """Text that is new: thinking, then answer."""

    thinking: str = ""
    answer: str = ""


@dataclass(slots=True)
class _Segment:
    """Text that grows: what is decoded, and what is held back."""

    ids: list[int] = field(default_factory=list)
    told: int = 0  # ids whose text is known
    prefix: int = 0  # where decoding begins: a little before, as some tokenizers join a token to the one before it
    held: str = ""
    started: bool = True  # False: blanks at its beginning are dropped


class Spelling:
    """The text of one path, as it grows. `feed` it ids, `end` it with what stopped it.

    ``apart`` False leaves thinking and its tags in the text, which is then all answer.
    """

    def __init__(self, backbone: Backbone, prompt: Prompt, stops: Sequence[str] = (), apart: bool = True) -> None:
        self.backbone, self.stops, self._markers = backbone, tuple(stops), backbone.markers if apart else None
        self.thinks = apart and prompt.thinking == "open"
        self._may_open = apart and prompt.thinking == "model"
        self._tail: tuple[int, ...] = ()  # ids that may become a marker
        self._thought, self._answer = _Segment(started=False), _Segment(started=not self.thinks)
        self.answer_at: list[int] = []  # positions of the steps whose tokens are answer
        self._position = 0

    def feed(self, ids: Sequence[int]) -> Piece:
        piece = Piece()
        for token in ids:
            self._take(int(token), piece)
            self._position += 1
        return piece

    def end(self, trace: Trace) -> Piece:
        """What was held back, without what ended the path."""
        piece = Piece()
        self._release(piece)
        for segment, name in ((self._thought, "thinking"), (self._answer, "answer")):
            text = segment.held + self._decoded(segment, last=True)
            segment.held = ""
            if trace.reason == "stop string" and self.stops:
                at = [i for stop in self.stops if (i := text.find(stop)) >= 0]
                text = text[: min(at)] if at else text
            setattr(
                piece,
                name,
                getattr(piece, name) + (text.rstrip() if name == "thinking" else self._begun(segment, text)),
            )
        return piece

    # -- one token ------------------------------------------------------------------------------------

    def _take(self, token: int, piece: Piece) -> None:
        marks = self._marks()
        self._tail += (token,)
        if self._tail in marks:
            self._tail = ()
            self._turn(piece)
            return
        while self._tail and not any(mark[: len(self._tail)] == self._tail for mark in marks):
            first, self._tail = self._tail[0], self._tail[1:]
            self._write(first, self._position - len(self._tail), piece)
            if self._tail in marks:
                self._tail = ()
                self._turn(piece)
                return

    def _marks(self) -> tuple[tuple[int, ...], ...]:
        """The markers that matter now."""
        if self._markers is None:
            return ()
        return self._markers.end if self.thinks else self._markers.start if self._may_open else ()

    def _turn(self, piece: Piece) -> None:
        if self.thinks:
            text = self._thought.held + self._decoded(self._thought, last=True)
            piece.thinking += text.rstrip()
            self._thought.held, self.thinks = "", False
            self._answer.started = False
        else:
            self.thinks, self._may_open = True, False

    def _write(self, token: int, position: int, piece: Piece) -> None:
        if token in self.backbone.ends:
            return
        segment = self._thought if self.thinks else self._answer
        if not self.thinks:
            self.answer_at.append(position)
        segment.ids.append(token)
        segment.held += self._decoded(segment)
        text = self._free(segment)
        if self.thinks:
            piece.thinking += text
        else:
            piece.answer += text

    def _release(self, piece: Piece) -> None:
        """Ids that looked like the beginning of a marker were text."""
        tail, self._tail = self._tail, ()
        for at, token in enumerate(tail):
            self._write(token, self._position - len(tail) + at, piece)

    def _decoded(self, segment: _Segment, last: bool = False) -> str:
        """The text that the newest ids add; none while a character is unfinished. Some tokenizers join by what stands before."""
        decode = self.backbone.tokenizer.decode
        if segment.told == len(segment.ids):
            return ""
        before = decode(segment.ids[segment.prefix : segment.told], skip_special_tokens=True)
        text = decode(segment.ids[segment.prefix :], skip_special_tokens=True)
        if text.endswith(UNFINISHED) and not last:
            return ""
        segment.prefix, segment.told = segment.told, len(segment.ids)
        return text[len(before) :]

    def _free(self, segment: _Segment) -> str:
        """What need not be held back: no blanks where they are dropped, nothing that may become a stop string."""
        text, keep = segment.held, 0
        for stop in self.stops:
            if stop in text:
                keep = max(keep, len(text) - text.find(stop))
            keep = max(keep, *(n for n in range(min(len(stop), len(text)) + 1) if text.endswith(stop[:n])))
        if self.thinks:
            keep = max(keep, len(text) - len(text[: len(text) - keep].rstrip()))
        free, segment.held = text[: len(text) - keep], text[len(text) - keep :]
        return self._begun(segment, free)

    def _begun(self, segment: _Segment, text: str) -> str:
        if not segment.started:
            text = text.lstrip()
            segment.started = bool(text)
        return text


def whole(
    backbone: Backbone, prompt: Prompt, trace: Trace, stops: Sequence[str] = (), apart: bool = True
) -> tuple[str, str, list[int]]:
    """Thinking and answer of a stopped trace, and the positions of the answer's tokens."""
    assert trace.steps is not None
    spelling = Spelling(backbone, prompt, stops, apart)
    pieces = [spelling.feed(trace.steps.ids[:, 0].tolist()), spelling.end(trace)]
    return "".join(p.thinking for p in pieces), "".join(p.answer for p in pieces), spelling.answer_at
