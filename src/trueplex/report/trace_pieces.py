"""A stored trace as pieces of text, one per step, each with what the step weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.data.about import about
from trueplex.data.traces import Origin, read, read_traces
from trueplex.errors import InputError, StoreError
from trueplex.models.fingerprint import tokenizer_fingerprint
from trueplex.models.load import load_tokenizer
from trueplex.types import Problem, Steps, Trace

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
    """The trace step by step. The texts joined are what was thought: of a merged step, its heaviest token.

    The text in the record has slot 0 there, one draw of K; where all weigh the same, so has this.
    """
    assert trace.steps is not None
    steps = trace.steps
    texts, scores = _texts(heaviest_ids(steps), tokenizer), dict(trace.scores)
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


def heaviest_ids(steps: Steps) -> list[int]:
    """The id of the most weight at every step, equal ids summed; of equal weights, the one in the lower slot."""
    same = steps.ids[:, :, None] == steps.ids[:, None, :]
    summed = (same * steps.weights[:, None, :]).sum(-1)
    return steps.ids[np.arange(len(steps)), np.round(summed, 6).argmax(1)].tolist()


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


@dataclass(slots=True, frozen=True)
class Told:
    """The traces of one problem of a store, by seed and index; which of how many problems it is; and the model's tokenizer."""

    traces: list[Trace]
    number: int
    problems: int
    tokenizer: Any


def traces_of(path: Path, which: str, model: str | None = None) -> Told:
    """The traces of a store's problem, by its number in the order of its file, or by its id.

    ``model`` None is the one that the store says, else ``reference``.

    Raises:
        InputError: there is no such problem.
        StoreError: the store cannot be read, or was written with another tokenizer.
    """
    known, ids = about(path), dict[str, str]()
    for row in read(path, ("problem", "id")):
        ids.setdefault(row["problem"], row["id"])
    places = {key: place for place, key in enumerate(known.order)}
    texts = sorted(
        ids, key=lambda text: places.get(Problem(text).key, len(places))
    )  # sorting is stable: others as they come
    if not texts:
        raise InputError(f"{path} holds no traces. Try: save some with --save")
    number = _number(path, which, [ids[text] for text in texts])
    tokenizer = load_tokenizer(model or known.model or "reference")
    try:
        found = [t for t, _ in read_traces(path, Origin(None, tokenizer_fingerprint(tokenizer), ""), texts[number - 1])]
    except StoreError as error:
        if model or known.model:
            raise
        raise StoreError(
            f"{path} does not say which model wrote it, and it was not {'reference'!r}. Try: --model MODEL"
        ) from error
    return Told(sorted(found, key=lambda t: (t.seed, t.index)), number, len(texts), tokenizer)


def _number(path: Path, which: str, ids: Sequence[str]) -> int:
    """The number of the problem that is meant, from 1. Raises InputError where there is none."""
    if which in ids and (not which.isdecimal() or int(which) > len(ids)):
        return ids.index(which) + 1
    if which.isdecimal() and 1 <= int(which) <= len(ids):
        return int(which)
    ends = [place for place, name in enumerate(ids, 1) if name.rpartition("/")[2] == which]
    if len(ends) == 1:
        return ends[0]
    shown = ", ".join(name for name in ids[:5] if name)
    raise InputError(f"{path} holds {len(ids)} problems, and --problem is {which!r}. Try: a number from 1 to {len(ids)}"
                     + (f", or an id such as {shown}" if shown else ""))  # fmt: skip
