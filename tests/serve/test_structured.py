"""Answers within a schema: every path's answer is one, thinking is free, and what is remembered replays."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np

import trueplex
from served import PROBLEM, Served
from trueplex.engine.limits import Ending
from trueplex.engine.replay import replay
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.serve.structured import JSON, Grammars
from trueplex.serve.wire import ResponseFormat
from trueplex.solving.events import Solved
from trueplex.solving.request import Request
from trueplex.solving.scheduler import Scheduler
from trueplex.solving.settings import Settings
from trueplex.types import Problem

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


def test_every_answer_is_of_the_schema_and_equal_values_vote_together(served: Served) -> None:
    asked = {"messages": [{"role": "user", "content": PROBLEM}], "response_format": FORMAT, "max_tokens": 90}
    whole = served.post("/v1/chat/completions", asked | {"trueplex": {"paths": 3}}).json()
    answers = [p["answer"] for p in whole["trueplex"]["paths"] if p["status"] == "finished"]
    assert answers
    for answer in (*answers, whole["choices"][0]["message"]["content"]):
        jsonschema.validate(json.loads(answer), SCHEMA)
    assert whole["choices"][0]["message"]["reasoning"]
    assert sum(v["paths"] for v in whole["trueplex"]["votes"]) == len(answers)


def test_thinking_is_free_and_stored_logprobs_replay(reference: Backbone) -> None:
    """Law 3 within a constraint; other requests in the batch are not touched."""
    thinking, problem = Thinking("multiplex", ending=Ending(70, think_tokens=40)), Problem(PROBLEM)
    settings = Settings(paths=2, verifier="none", thinking=thinking)
    constraint = Grammars(reference).of(ResponseFormat.model_validate(FORMAT))
    scheduler = Scheduler(reference)
    scheduler.submit(Request(problem, replace(settings, answer=JSON), constraint=constraint))
    scheduler.submit(Request(problem, settings))
    solved = {e.request: e.solution for e in scheduler.events() if isinstance(e, Solved)}
    free = trueplex.solve(reference, problem, paths=2, verifier="none", thinking=thinking)
    assert [t.text for t in solved[1].traces] == [t.text for t in free.traces]
    ids = make_prompt(problem, reference).ids
    for bound, own in zip(solved[0].traces, free.traces, strict=True):
        assert bound.thinking_tokens == own.thinking_tokens
        assert np.array_equal(bound.steps.ids[: own.thinking_tokens], own.steps.ids[: own.thinking_tokens])
        assert np.allclose(replay(reference, ids, bound.steps).numpy(), bound.steps.logps, atol=1e-3)
    assert not scheduler.batch._sample.constraints._of
