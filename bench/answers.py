"""Requests of every kind, what is read of their answers, and when two are the same: for `bench/load.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import trueplex
from trueplex.models.backbone import Backbone

SOLVE, CHAT, TEXT = "/v1/solve", "/v1/chat/completions", "/v1/completions"
WAYS: tuple[tuple[str, dict[str, Any]], ...] = (
    (SOLVE, {"paths": 4}),
    (SOLVE, {"paths": 2, "thinking": "discrete", "stream": True}),
    (SOLVE, {"paths": 3, "prune": "half:8", "probe_every": 8, "temperature": 1.5}),
    (SOLVE, {"paths": 2, "verifier": "deepconf", "thinking": "discrete"}),
    (SOLVE, {"paths": 4, "stream": True, "candidates": True}),
    (SOLVE, {"paths": 1, "width": 2, "answer": "number"}),
    (CHAT, {"trueplex": {"paths": 3}}),
    (CHAT, {"trueplex": {"paths": 1}, "stream": True, "stream_options": {"include_usage": True}}),
    (CHAT, {"trueplex": {"paths": 4, "stream_paths": "live"}, "stream": True}),
    (CHAT, {"trueplex": {"paths": 3}, "stream": True}),
    (CHAT, {"trueplex": {"paths": 1}, "n": 3}),
    (CHAT, {"trueplex": {"paths": 2}, "stop": ["boxed"]}),
    (CHAT, {"trueplex": {"paths": 2}, "logprobs": True, "top_logprobs": 2}),
    (CHAT, {"trueplex": {"paths": 2}, "response_format": {"type": "json_object"}}),
    (TEXT, {"trueplex": {"paths": 2}}),
)
VOLATILE = ("id", "created", "seconds")
NEAR = 1e-3  # of scores and log-probabilities: other rows in the batch change their last digits


@dataclass(frozen=True)
class Case:
    """A request, and the problem that its answer must be about."""

    path: str
    body: dict[str, Any]
    problem: str


def cases(count: int, most: int) -> list[Case]:
    """Different requests: every way, each problem once."""
    found = []
    for number in range(count):
        path, options = WAYS[number % len(WAYS)]
        problem = f"Ann has {2 + number} apples. Ann buys {3 + number % 17} more. How many apples are there now?"
        asked = {
            SOLVE: {"problem": problem},
            CHAT: {"messages": [{"role": "user", "content": problem}]},
            TEXT: {"prompt": problem},
        }[path]
        found.append(Case(path, {**asked, "seed": number % 7, "max_tokens": most, **options}, problem))
    return found


def read(case: Case, text: str) -> Any:
    """What an answer says, whole or streamed, without what differs from time to time. Raises ValueError for an error in it."""
    if not case.body.get("stream"):
        return _lasting(json.loads(text))
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    if not lines or lines.pop() != "[DONE]":
        raise ValueError("the stream has no end")
    events = [json.loads(line) for line in lines]
    if wrong := [e for e in events if "error" in e]:
        raise ValueError(str(wrong[0]["error"]))
    return _lasting(_joined(events))


def _joined(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the pieces add up to: texts of each path and choice, and whatever was told once."""
    texts: dict[str, str] = {}
    told: dict[str, Any] = {}
    for chunk in events:
        event = chunk if "event" in chunk else chunk.get("trueplex", {})
        kind = event.get("event")
        if kind == "tokens":
            name = f"path {event['path']}"
            texts[name] = texts.get(name, "") + event["text"]
        elif kind == "solution" or (kind is None and event):
            told = event
        if kind == "status":
            continue  # how often they are told depends on the pace
        for choice in chunk.get("choices", ()):
            for part in ("content", "reasoning"):
                name = f"{part} {choice['index']}"
                texts[name] = texts.get(name, "") + (choice["delta"].get(part) or "")
            if choice["finish_reason"]:
                texts[f"finish {choice['index']}"] = choice["finish_reason"]
        if chunk.get("usage"):
            told = {**told, "usage": chunk["usage"]}
    return {"texts": texts, "told": told}


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        # How often a prompt was read depends on how many of its paths could enter together; OpenAI's own usage does not.
        reads = ("prompt_tokens",) if "probe_tokens" in value else ()
        return {name: _lasting(one) for name, one in value.items() if name not in (*VOLATILE, *reads)}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two answers differ, but for the last digits of scores, weights and log-probabilities."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from differences(one.get(name), other.get(name), f"{place}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for mine, theirs in zip(one, other, strict=True):
            yield from differences(mine, theirs, f"{place}[]")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=NEAR, abs_tol=NEAR):
            yield place
    elif one != other:
        yield place


def of_solve(case: Case, model: Backbone, found: Any) -> bool:
    """Whether an answer of `/v1/solve` is that of `trueplex.solve` with the same options."""
    options = {k: v for k, v in case.body.items() if k not in ("problem", "stream", "candidates")}
    solution = trueplex.solve(model, case.problem, **options)
    told = found.get("told") or found
    mine = [(t.status.value, t.tokens, t.text, t.answer) for t in solution.traces]
    return told["answer"] == solution.answer and mine == [
        (p["status"], p["tokens"], p["text"], p["answer"]) for p in told["paths"]
    ]
