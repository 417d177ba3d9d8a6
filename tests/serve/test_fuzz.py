"""Bodies that nobody meant: always a 4xx of the right shape, or an answer; never a 500, and never another client's text."""

from __future__ import annotations

import json
import random
from typing import Any

from served import PROBLEM, Served
from trueplex.serve.wire import ChatBody, CompletionBody, DetokenizeBody, GradeBody, SolveBody, TokenizeBody

PATHS = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody, "/v1/solve": SolveBody, "/v1/grade": GradeBody,
         "/tokenize": TokenizeBody, "/detokenize": DetokenizeBody}  # fmt: skip
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": PROBLEM}],
        "max_tokens": 2,
        "trueplex": {"paths": 1, "verifier": "none"},
    },
    "/v1/completions": {"prompt": "3+4=", "max_tokens": 2, "trueplex": {"paths": 1, "verifier": "none"}},
    "/v1/solve": {"problem": PROBLEM, "max_tokens": 2, "paths": 1, "verifier": "none"},
    "/v1/grade": {"prediction": "\\boxed{7}", "answers": ["7"]},
    "/tokenize": {"prompt": "3+4="},
    "/detokenize": {"tokens": [5, 6]},
}
VALUES = [None, True, False, 0, 1, -1, 2, 0.5, 1e308, -0.0, 2**63, 10**30, "", "none", "auto", "x" * 3000, "\u0000", "\ufffd\u202e", [], [1], ["a"], [None],
          {}, {"a": 1}, [[1, 2]], [{}], "multiplex", "half:8", "discrete", "1", [5, 10**9], {"type": "json_object"}, {"include_usage": True}]  # fmt: skip


def fuzzed(rng: random.Random, path: str) -> dict[str, Any]:
    body = json.loads(json.dumps(GOOD[path]))
    for _ in range(rng.randint(1, 3)):
        fields = [*PATHS[path].model_fields, "unknown"]
        field = rng.choice(fields)
        where = (
            body["trueplex"]
            if "trueplex" in body and isinstance(body["trueplex"], dict) and rng.random() < 0.3
            else body
        )
        if where is not body:
            field = rng.choice([*SolveBody.model_fields, "stream_paths"])
        if rng.random() < 0.1:
            where.pop(field, None)
        elif field not in ("max_tokens", "max_completion_tokens"):
            where[field] = rng.choice(VALUES)
    return body


def test_fuzzed_bodies(served: Served) -> None:
    """A few; `make load` sends 5,000 that follow each endpoint's schema."""
    count, rng = 120, random.Random(120)
    statuses = set()
    for _ in range(count):
        path = rng.choice(list(PATHS))
        body = fuzzed(rng, path)
        answer = served.post(path, body)
        statuses.add(answer.status_code)
        assert answer.status_code in (200, 400, 404), (path, body, answer.text)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"} and error["message"], (path, body)
        else:
            assert '"code":"failed"' not in answer.text, (path, body, answer.text)
    assert {200, 400} <= statuses
    assert served.post("/v1/solve", GOOD["/v1/solve"]).status_code == 200
