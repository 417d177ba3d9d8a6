"""Thinking and answer apart, in pieces that add up, whatever the pieces, the markers and the stop strings."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from trueplex.models.markers import Markers
from trueplex.serve.structured import read_json
from trueplex.serve.words import Spelling, whole
from trueplex.types import Problem, Prompt, Status, Steps, Trace

BYTES = SimpleNamespace(
    decode=lambda ids, skip_special_tokens=False: bytes(i for i in ids if i < 256).decode("utf-8", "replace")
)
OPEN, CLOSE, END = (300, 301), (302, 303), 304


def backbone(tagged: bool = True) -> SimpleNamespace:
    return SimpleNamespace(
        tokenizer=BYTES, markers=Markers((OPEN,), (CLOSE,)) if tagged else None, ends=frozenset({END})
    )


def trace(ids: list[int], reason: str = "end of sequence") -> Trace:
    column = np.array(ids)[:, None]
    steps = Steps(column, np.ones_like(column, dtype=float), column * 0.0, column[:, 0] * 0.0, column[:, 0] * 0.0)
    return Trace(Problem("x"), 0, 0, Status.FINISHED, reason, tokens=len(ids), steps=steps)


def ids(text: str) -> list[int]:
    return list(text.encode())


CASES = {
    "opened by the template": ("open", [*ids("two é "), *CLOSE, *ids("\n\nso 4"), END], (), "two é", "so 4"),
    "opened by the model": ("model", [*OPEN, *ids("\nhm"), *CLOSE, *ids("4"), END], (), "hm", "4"),
    "never opened": ("model", [*ids("plain 😀"), END], (), "", "plain 😀"),
    "closed in the prompt": ("closed", [*ids("4"), END], (), "", "4"),
    "never closed": ("open", ids("on and on"), (), "on and on", ""),
    "half a marker is text": ("open", [*ids("a"), 302, *ids("b"), *CLOSE, *ids("c"), END], (), "ab", "c"),
    "a stop string": ("closed", ids("one STOP"), ("STOP",), "", "one "),
    "a stop string that is nearly there": ("closed", [*ids("one STO"), END], ("STOP",), "", "one STO"),
    "untagged": ("untagged", [*ids(" all of it"), END], (), "", " all of it"),
}


@pytest.mark.parametrize("name", CASES)
def test_pieces_add_up(name: str) -> None:
    thinking, tokens, stops, thought, answer = CASES[name]
    model = backbone(thinking != "untagged")
    prompt = Prompt(Problem("x"), (1,), "x", thinking)
    stopped = trace(tokens, "stop string" if name == "a stop string" else "end of sequence")
    told = whole(model, prompt, stopped, stops)  # type: ignore[arg-type]
    assert told[:2] == (thought, answer)
    rng = random.Random(1)
    for _ in range(20):
        spelling, at, got = Spelling(model, prompt, stops), 0, ["", ""]  # type: ignore[arg-type]
        while at < len(tokens):
            step = rng.randint(1, 4)
            piece = spelling.feed(tokens[at : at + step])
            got = [got[0] + piece.thinking, got[1] + piece.answer]
            at += step
        last = spelling.end(stopped)
        assert (got[0] + last.thinking, got[1] + last.answer) == (thought, answer)
        assert spelling.answer_at == told[2]


def test_equal_values_of_json_have_one_spelling() -> None:
    assert read_json(' {"b": 1.0, "a": "x y"}<|end|>') == read_json('{"a":"x y","b":1}') == '{"a":"x y","b":1}'
    assert read_json('{"a": "xy"}') != read_json('{"a": "x y"}') and read_json("no") is None and read_json("") is None
