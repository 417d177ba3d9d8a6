"""Bodies made by the schema of each endpoint's fields, and then spoilt: for `bench/load.py`."""

from __future__ import annotations

import json
import random
from typing import Any

from trueplex.serve.wire import ChatBody, CompletionBody, DetokenizeBody, GradeBody, SolveBody, TokenizeBody

ENDPOINTS = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody, "/v1/solve": SolveBody, "/v1/grade": GradeBody,
             "/tokenize": TokenizeBody, "/detokenize": DetokenizeBody}  # fmt: skip
SCHEMAS = {path: kind.model_json_schema() for path, kind in ENDPOINTS.items()}
WORDS = ["none", "auto", "discrete", "multiplex", "soft", "weighted", "mean", "half:8", "drop:1@8", "keep-top:1@4", "majority", "best", "auto:3", "deepconf",
         "entropy", "call:os:abort", "regex:(a+)+$", "json:/etc/passwd", "/etc/passwd", "text", "user", "reference", "gumbel", "low", "1", "", "\u0000", "\ud800",
         "\ufffd\u202e", "x" * 3000, "}{", "<|end|>", "</think>", "%s{}$HOME", "../../.."]  # fmt: skip
NUMBERS = [0, 1, 2, 3, -1, 4096, 2**31, 2**63, 10**30, 0.5, -0.0, 1e-9, 1e308]
JUNK: list[Any] = [None, True, False, *NUMBERS, *WORDS, [], {}, [None], [[1, 2]], [{}], {"a": 1}, {"type": "text"}, {"type": "function"},
                   [5, 10**9], ["a"] * 40, {"schema": {"$ref": "#"}}, {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": "(a+)+$"}}}]  # fmt: skip
DEEP = "[" * 3000 + "]" * 3000


def fuzzed(rng: random.Random, secret: str) -> tuple[str, bytes]:
    """An endpoint, and a body for it that holds ``secret`` in its texts."""
    path = rng.choice(list(ENDPOINTS))
    schema = SCHEMAS[path]
    body = _object(rng, schema, schema.get("$defs", {}), secret)
    if rng.random() < 0.8:
        for _ in range(rng.randint(1, 3)):
            body = _spoilt(rng, body)
    raw = json.dumps(body).encode()
    return path, _scratched(rng, raw) if rng.random() < 0.1 else raw


def _object(rng: random.Random, schema: dict[str, Any], kinds: dict[str, Any], secret: str) -> dict[str, Any]:
    needed, fields = schema.get("required", ()), schema.get("properties", {})
    chosen = {*needed, *rng.sample(list(fields), min(len(fields), rng.randint(0, 3)))}
    return {name: _value(rng, fields[name], kinds, secret) for name in chosen}


def _value(rng: random.Random, schema: dict[str, Any], kinds: dict[str, Any], secret: str) -> Any:
    """A value of the schema's type, which its bounds or its grammar may still refuse."""
    if "$ref" in schema:
        return _value(rng, kinds[schema["$ref"].rpartition("/")[2]], kinds, secret)
    if "anyOf" in schema:
        return _value(rng, rng.choice(schema["anyOf"]), kinds, secret)
    if "enum" in schema or "const" in schema:
        return rng.choice(schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "object":
        return _object(rng, schema, kinds, secret)
    if kind == "array":
        return [_value(rng, schema.get("items", {}), kinds, secret) for _ in range(rng.randint(0, 2))]
    if kind == "string":
        return secret if rng.random() < 0.5 else rng.choice(WORDS)
    if kind in ("integer", "number"):
        return rng.choice(NUMBERS)
    return rng.random() < 0.5 if kind == "boolean" else None if kind == "null" else rng.choice(JUNK)


def _spoilt(rng: random.Random, value: Any) -> Any:
    """The same with one place changed: a value of another kind, a field too many, a field too few."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        way = rng.random()
        if way < 0.1:
            return {
                **value,
                rng.choice(["unknown", "Temperature", "temperature ", "", "__proto__", "x" * 500]): rng.choice(JUNK),
            }
        if way < 0.2:
            return {k: v for k, v in value.items() if k != name}
        return {**value, name: _spoilt(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.6:
        at = rng.randrange(len(value))
        return [*value[:at], _spoilt(rng, value[at]), *value[at + 1 :]]
    return rng.choice(JUNK)


def _scratched(rng: random.Random, raw: bytes) -> bytes:
    """Bytes that are hardly JSON any more."""
    at = rng.randrange(len(raw))
    return rng.choice([raw[:at], raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :], raw + raw, b"", DEEP.encode(), b'{"problem":' + DEEP.encode() + b"}",
                       b"\xff\xfe" + raw, b"[" + raw + b"]", raw.replace(b":", b":NaN,", 1), b'{"problem": 1e999}', b'{"seed": ' + b"9" * 5000 + b"}"])  # fmt: skip
