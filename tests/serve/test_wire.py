"""What goes over the wire, byte for byte but for ids, times and figures of the machine: tests/serve/golden.

TRUEPLEX_WRITE_GOLDEN=1 pytest tests/serve/test_wire.py     # writes them anew: look at the difference
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from served import PROBLEM, Served

GOLDEN = Path(__file__).parent / "golden"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": PROBLEM}], "max_tokens": 60, "seed": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", ASK | {"trueplex": {"paths": 2}}),
    "chat-streamed": (
        "/v1/chat/completions",
        ASK | {"stream": True, "stream_options": {"include_usage": True}, "trueplex": {"paths": 1}},
    ),
    "chat-many-streamed": ("/v1/chat/completions", ASK | {"stream": True, "trueplex": {"paths": 3}}),
    "chat-logprobs": ("/v1/chat/completions", ASK | {"logprobs": True, "top_logprobs": 1, "trueplex": {"paths": 1}}),
    "completion": ("/v1/completions", {"prompt": "3+4=", "max_tokens": 4, "trueplex": {"paths": 1}}),
    "solve-live": ("/v1/solve", {"problem": PROBLEM, "max_tokens": 12, "paths": 2, "stream": True, "candidates": True}),
    "refused": ("/v1/chat/completions", ASK | {"tools": [{"type": "function"}]}),
}


def plain(text: str) -> str:
    """Without what differs from run to run; pieces that came together or apart are one."""
    for pattern, put in ((r'"(id|fingerprint|system_fingerprint)":"[^"]*"', r'"\1":"…"'), (r'"(created|seconds)":[0-9.e-]+', r'"\1":0'),
                         (r'("(?:logprob|score|weight|entropy|token_logprobs)":)(-?[0-9.e-]+)', lambda m: m[1] + f"{float(m[2]):.3f}")):  # fmt: skip
        text = re.sub(pattern, put, text)  # type: ignore[arg-type]
    return text.replace("-0.000", "0.000")


@pytest.mark.parametrize("name", CASES)
def test_transcripts(served: Served, name: str) -> None:
    path, body = CASES[name]
    answer = served.post(path, body)
    kind = answer.headers["content-type"].partition(";")[0]
    text = plain(f"{answer.status_code} {kind}\n{answer.text.rstrip()}\n")
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("TRUEPLEX_WRITE_GOLDEN"):
        file.write_text(text)
    golden = file.read_text()
    if "streamed" in name or "live" in name:  # how many tokens come in one event depends on the machine
        assert joined(text) == joined(golden)
    else:
        assert text == golden


def joined(text: str) -> str:
    """The texts of a stream, and its other lines."""
    pieces = re.findall(r'"(?:content|reasoning|text)":"((?:[^"\\]|\\.)*)"', text)
    rest = [line for line in text.splitlines() if line and '"delta":{"' not in line and '"event":"tokens"' not in line]
    return "".join(sorted("".join(pieces))) + "\n".join(rest)
