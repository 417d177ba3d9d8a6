"""A stored trace as pieces of text, one per step, each with what the step weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueplex.data.traces import Origin, read, read_traces
from trueplex.errors import InputError
from trueplex.models.fingerprint import tokenizer_fingerprint
from trueplex.models.load import load_tokenizer
from trueplex.types import Trace

CONTEXT = 8  # tokens before a step that its piece of text is decoded with: bytes and spaces depend on them


@dataclass(slots=True, frozen=True)
class Piece:
    """One step: the text that it adds, the tokens it weighed, and how sure the model and the verifier were.

    ``candidates`` are (text, weight), the heaviest first, equal tokens summed; ``score`` is the latest
    score at this step, None before any.
    """

    text: str
    candidates: tuple[tuple[str, float], ...]
    explores: bool
    entropy: float
    score: float | None
    answering: bool


def pieces(trace: Trace, tokenizer: Any) -> list[Piece]:
    """The trace step by step. The texts joined are what was emitted."""
    assert trace.steps is not None
    steps, emitted = trace.steps, trace.steps.ids[:, 0].tolist()
    texts, scores = _texts(emitted, tokenizer), dict(trace.scores)
    score, found = None, []
    for at in range(len(steps)):
        score = scores.get(at + 1, score)
        weights: dict[int, float] = {}
        for word, weight in zip(steps.ids[at].tolist(), steps.weights[at].tolist(), strict=True):
            weights[word] = weights.get(word, 0.0) + weight
        heaviest = sorted(((w, i) for i, w in weights.items() if w > 0), reverse=True)
        candidates = tuple((tokenizer.decode([i]), w) for w, i in heaviest)
        found.append(Piece(texts[at], candidates, not bool(steps.consensus[at]), float(steps.entropy[at]), score,
                           bool(trace.closing) and at >= trace.thinking_tokens))  # fmt: skip
    return found


def _texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """What each id adds to the text; half a character waits for its other half."""
    texts, begun = [], 0  # `begun`: the first id whose text has not been given whole
    for at in range(len(ids)):
        first = max(0, begun - CONTEXT)
        before = tokenizer.decode(list(ids[first:begun]), skip_special_tokens=False)
        now = tokenizer.decode(list(ids[first : at + 1]), skip_special_tokens=False)
        if now.endswith("\ufffd") and at + 1 < len(ids):
            texts.append("")
        else:
            texts.append(now[len(before) :])
            begun = at + 1
    return texts


def traces_of(path: Path, number: int, model: str) -> tuple[list[Trace], int, Any]:
    """The traces of a store's problem `number`, by index, how many problems there are, and the tokenizer.

    Raises:
        InputError: there are fewer problems.
        StoreError: the store cannot be read, or was written with another tokenizer.
    """
    texts = list(dict.fromkeys(row["problem"] for row in read(path, ("problem",))))
    if not 1 <= number <= len(texts):
        raise InputError(f"{path} holds {len(texts)} problems, and --problem is {number}. Try: a number from 1 to "
                         f"{len(texts)}" if texts else f"{path} holds no traces. Try: save some with --save")  # fmt: skip
    tokenizer = load_tokenizer(model)
    origin = Origin(None, tokenizer_fingerprint(tokenizer), "")
    found = [t for t, _ in read_traces(path, origin, texts[number - 1])]
    return sorted(found, key=lambda t: (t.seed, t.index)), len(texts), tokenizer
