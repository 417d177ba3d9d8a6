"""OpenAI's own client against the server: what it reads must be what the paths say."""

from __future__ import annotations

import json

import numpy as np
import openai
import pytest

import trueplex
from served import PROBLEM, Served
from trueplex.engine.replay import replay
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.serve.telling import chosen
from trueplex.solving.settings import Settings
from trueplex.types import Problem

ASK = [{"role": "user", "content": PROBLEM}]
SINGLE = {"trueplex": {"paths": 1}}


def chat(served: Served, **options):
    return served.client.chat.completions.create(**{"model": "reference", "messages": ASK} | options)


def test_law_14_an_answer_equals_solve_of_the_same_request_and_seed(served: Served, reference: Backbone) -> None:
    for options in ({"paths": 3}, {"paths": 3, "thinking": "discrete", "prune": "half:8", "probe_every": 8}):
        own = trueplex.solve(reference, PROBLEM, seed=5, max_tokens=120, **options)
        answered = chat(served, seed=5, max_tokens=120, extra_body={"trueplex": options})
        told = answered.trueplex
        assert (told["answer"], told["agreement"]) == (own.answer, round(own.agreement, 6))
        assert [(v["answer"], v["paths"]) for v in told["votes"]] == [(v.answer, v.paths) for v in own.votes]
        for path, trace in zip(told["paths"], own.traces, strict=True):
            assert (path["tokens"], path["status"], path["answer"]) == (trace.tokens, trace.status.value, trace.answer)
            assert path["score"] == pytest.approx(trace.score, abs=1e-4)
        chosen = own.traces[told["path"]]
        assert answered.choices[0].message.content in chosen.text and chosen.answer == own.answer
        assert chosen.score == max(t.score for t in own.traces if t.answer == own.answer)
        usage = answered.usage
        assert usage.completion_tokens == sum(t.tokens for t in own.traces)
        assert usage.completion_tokens_details.reasoning_tokens == sum(t.thinking_tokens for t in own.traces)
        solved = served.post("/v1/solve", {"problem": PROBLEM, "seed": 5, "max_tokens": 120, **options}).json()
        assert [p["text"] for p in solved["paths"]] == [t.text for t in own.traces]


def test_thinking_and_answer_are_apart_without_tags_and_ends(served: Served, reference: Backbone) -> None:
    own = trueplex.solve(reference, PROBLEM, paths=1).traces[0]
    message = chat(served, extra_body=SINGLE).choices[0].message
    thought, _, answer = own.text.partition("</think>")
    assert message.reasoning == message.reasoning_content == thought.strip()
    assert message.content == answer.replace(reference.tokenizer.eos_token, "").strip()


@pytest.mark.parametrize("options", [{}, {"extra_body": SINGLE}, {"n": 3, "extra_body": SINGLE}, {"extra_body": {"trueplex": {"stream_paths": "live"}}},
                                     {"stop": ["boxed"], "extra_body": SINGLE}, {"max_tokens": 12, "extra_body": SINGLE}])  # fmt: skip
def test_what_is_streamed_adds_up_to_the_whole(served: Served, options: dict) -> None:
    live = "stream_paths" in options.get("extra_body", {}).get("trueplex", {})
    whole = chat(served, **({} if live else options))
    content, thought, finish = {}, {}, {}
    usage = told = None
    for chunk in chat(served, stream=True, stream_options={"include_usage": True}, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            told = getattr(chunk, "trueplex", None) or told
            content[choice.index] = content.get(choice.index, "") + (choice.delta.content or "")
            if not (told and told.get("event") == "status"):
                thought[choice.index] = thought.get(choice.index, "") + (getattr(choice.delta, "reasoning", None) or "")
            finish[choice.index] = choice.finish_reason or finish.get(choice.index)
            told = None if choice.finish_reason is None else told
    assert len(whole.choices) == len(content) == options.get("n", 1)
    for choice in whole.choices:
        assert content[choice.index] == (choice.message.content or "") and finish[choice.index] == choice.finish_reason
        if "extra_body" in options:
            assert thought[choice.index].endswith(choice.message.reasoning or "")
    assert usage == whole.usage
    if "stop" in options:
        assert "boxed" not in content[0] and "Answer" in content[0]


def test_of_equal_paths_the_first_speaks_for_the_vote(reference: Backbone) -> None:
    """Under load the last digits of a score differ, and with them it was now one and now the other."""
    solution = trueplex.solve(
        reference, "Ann has 10 apples. Ann buys 11 more. How many apples are there now?", paths=4, seed=1
    )
    first, last = solution.traces[0], solution.traces[3]
    assert first.text == last.text and first.score is not None
    for nudge in (1e-7, -1e-7):
        last.scores[-1] = (last.tokens, first.score + nudge)
        best = chosen(solution, Settings().kind.group)
        assert best is not None and best.index == first.index


def test_several_choices_are_the_paths_of_one_request(served: Served, reference: Backbone) -> None:
    own = trueplex.solve(reference, PROBLEM, paths=3, verifier="none")
    choices = chat(served, n=3, extra_body=SINGLE).choices
    assert [c.index for c in choices] == [0, 1, 2]
    for choice, trace in zip(choices, own.traces, strict=True):
        assert choice.message.content and choice.message.content in trace.text
    with pytest.raises(openai.BadRequestError) as refused:
        chat(served, n=2, extra_body={"trueplex": {"paths": 4}})
    assert refused.value.param == "n"


def test_logprobs_are_those_of_the_chosen_path(served: Served, reference: Backbone) -> None:
    answered = chat(served, logprobs=True, top_logprobs=3)
    own = trueplex.solve(reference, PROBLEM, paths=4)
    trace = own.traces[answered.trueplex["path"]]
    again = replay(reference, make_prompt(Problem(PROBLEM), reference).ids, trace.steps)[:, 0].numpy()
    entries = answered.choices[0].logprobs.content
    at = range(trace.thinking_tokens, trace.tokens - 1)  # the last token ends the sequence
    assert [e.token for e in entries] == [reference.decode([int(trace.steps.ids[i, 0])]) for i in at]
    assert np.allclose([e.logprob for e in entries], again[list(at)], atol=1e-4)
    for entry in entries:
        assert len(entry.top_logprobs) == 3 and bytes(entry.bytes).decode() == entry.token
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        drawn = [top.logprob for top in entry.top_logprobs if top.token == entry.token]
        assert not drawn or drawn[0] == pytest.approx(entry.logprob, abs=1e-4)
    streamed = [
        e
        for chunk in chat(served, logprobs=True, stream=True, extra_body=SINGLE)
        for c in chunk.choices
        if c.logprobs
        for e in c.logprobs.content
    ]
    assert "".join(e.token for e in streamed).strip() == chat(served, extra_body=SINGLE).choices[0].message.content


def test_text_completions(served: Served) -> None:
    client = served.client
    prompts = ["3+4=", "7-4="]
    answered = client.completions.create(
        model="reference", prompt=prompts, max_tokens=5, n=2, logprobs=2, extra_body=SINGLE
    )
    assert [c.index for c in answered.choices] == [0, 1, 2, 3]
    first = answered.choices[0]
    assert "".join(first.logprobs.tokens) == first.text and len(first.logprobs.top_logprobs[0]) == 2
    streamed = client.completions.create(
        model="reference", prompt=prompts[0], max_tokens=5, stream=True, extra_body=SINGLE
    )
    assert "".join(c.choices[0].text for c in streamed) == first.text
    ids = served.post("/tokenize", {"prompt": prompts[0], "add_special_tokens": False}).json()["tokens"]
    assert served.post("/detokenize", {"tokens": ids}).json()["prompt"] == prompts[0]
    by_ids = client.completions.create(model="reference", prompt=ids, max_tokens=5, extra_body=SINGLE)
    assert by_ids.choices[0].text == first.text


def test_an_abstention_is_a_refusal(served: Served) -> None:
    answered = chat(
        served,
        extra_body={"trueplex": {"paths": 3, "abstain_below": 0.99, "select": "majority"}},
        seed=0,
        temperature=1.5,
    )
    told = answered.trueplex
    assert told["state"] == "uncertain" and told["answer"] is None
    assert answered.choices[0].message.content is None and "below" in answered.choices[0].message.refusal


REFUSED = {
    "model": ({"model": "gpt-5"}, 404), "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400),
    "seed": ({"seed": -1}, 400), "temperature": ({"temperature": 1e9}, 400), "logit_bias": ({"logit_bias": {"5": 1}}, 400),
    "top_logprobs": ({"top_logprobs": 3}, 400), "max_tokens": ({"max_tokens": 10**6}, 400), "stop": ({"stop": ["x"] * 17}, 400),
    "response_format": ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "blah"}}}}, 400),
    "chat_template_kwargs": ({"extra_body": {"chat_template_kwargs": {"zap": 1}}}, 400), "reasoning_effort": ({"reasoning_effort": "low"}, 400),
    "trueplex.prune": ({"extra_body": {"trueplex": {"prune": "quarter:3"}}}, 400),
    "trueplex.verifier": ({"extra_body": {"trueplex": {"verifier": "/etc/passwd"}}}, 400),
    "trueplex.paths": ({"extra_body": {"trueplex": {"paths": 65}}}, 400), "trueplex.patsh": ({"extra_body": {"trueplex": {"patsh": 5}}}, 400),
    "trueplex.answer": ({"extra_body": {"trueplex": {"answer": "call:os:abort"}}}, 400),
    "trueplex": ({"extra_body": {"trueplex": {"alarms": ["call:os:abort"]}}}, 400), "stream_options": ({"stream_options": {"include_usage": True}}, 400),
    "trueplex.stream_paths": ({"extra_body": {"trueplex": {"stream_paths": "live"}}}, 400),
    "trueplex.candidates": ({"stream": True, "extra_body": {"trueplex": {"candidates": True}}}, 400),
    "trueplex.max_error": ({"extra_body": {"trueplex": {"max_error": 0.1}}}, 400),
    "thinking_token_budget": ({"extra_body": {"thinking_token_budget": 9, "trueplex": {"think_tokens": 8}}}, 400),
    "messages[1].role": ({"messages": [*ASK, {"role": "assistant", "content": "7"}]}, 400), "frequency_penalty": ({"frequency_penalty": 0.5}, 400),
}  # fmt: skip


@pytest.mark.parametrize("param", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(served: Served, param: str) -> None:
    options, status = REFUSED[param]
    with pytest.raises(openai.APIStatusError) as refused:
        chat(served, **options)
    error = refused.value.body
    assert (refused.value.status_code, error["param"]) == (status, param), error
    assert set(error) == {"message", "type", "param", "code"} and "Try: " in error["message"]


@pytest.mark.parametrize("more", [{"trueplex": {"paths": 3}}, {"trueplex": {"paths": 1}, "n": 2}])
def test_a_budget_that_lets_no_path_begin_is_an_empty_answer(served: Served, more: dict) -> None:
    """It was a status 500: the best path of none."""
    body = {"max_tokens": 9, **more, "trueplex": {**more["trueplex"], "budget_seconds": 1e-9}}
    for path, asked in (("/v1/chat/completions", {"messages": ASK}), ("/v1/completions", {"prompt": "3+4="})):
        whole = served.post(path, {**asked, **body})
        assert whole.status_code == 200, whole.text
        choices = whole.json()["choices"]
        assert [c["finish_reason"] for c in choices] == ["length"] * more.get("n", 1)
        assert not any(c["message"]["content"] if "message" in c else c["text"] for c in choices)
        lines = served.post(path, {**asked, **body, "stream": True}).text.splitlines()
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        ends = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"] == "length"]
        assert sorted(ends) == list(range(more.get("n", 1))) and "data: [DONE]" in lines, chunks


def test_fields_that_ask_for_nothing_are_taken(served: Served) -> None:
    harmless = {"frequency_penalty": 0, "presence_penalty": 0.0, "tools": [], "tool_choice": "auto", "user": "me", "top_p": 1.0, "top_k": -1,
                "response_format": {"type": "text"}, "logit_bias": {}, "store": False, "stop": None, "seed": 1}  # fmt: skip
    assert served.post("/v1/chat/completions", {"messages": ASK, **harmless}).status_code == 200


def test_what_counts_as_an_answer_is_a_request_s_own(served: Served, reference: Backbone) -> None:
    own = trueplex.solve(reference, PROBLEM, paths=2, answer="last-line")
    for path, body in (("/v1/solve", {"problem": PROBLEM, "paths": 2, "answer": "last-line"}),
                       ("/v1/chat/completions", {"messages": ASK, "trueplex": {"paths": 2, "answer": "last-line"}})):  # fmt: skip
        told = served.post(path, body).json()
        assert (
            (told.get("trueplex") or told)["answer"] == own.answer != trueplex.solve(reference, PROBLEM, paths=2).answer
        )
    for name in ("regex:(a+)+$", "json:/etc/passwd"):
        refused = served.post("/v1/solve", {"problem": PROBLEM, "answer": name})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "not_allowed"
    both = {"messages": ASK, "response_format": {"type": "json_object"}, "trueplex": {"answer": "number"}}
    assert served.post("/v1/chat/completions", both).json()["error"]["param"] == "trueplex.answer"


def test_an_earlier_answer_comes_back_with_its_reasoning(served: Served) -> None:
    message = chat(served).choices[0].message.model_dump()
    again = served.post(
        "/v1/chat/completions", {"messages": [*ASK, message, {"role": "user", "content": PROBLEM}], "max_tokens": 20}
    )
    assert again.status_code == 200, again.text


def test_live_paths_tell_everything(served: Served) -> None:
    events = [
        json.loads(line[6:])
        for line in served.post("/v1/solve", {"problem": PROBLEM, "paths": 4, "stream": True, "candidates": True, "prune": "half:8", "probe_every": 8}).text.splitlines()
        if line.startswith("data: {")
    ]  # fmt: skip
    kinds = [e["event"] for e in events]
    assert (kinds[0], kinds[-1]) == ("started", "solution") and {"tokens", "score", "stopped", "votes"} <= set(kinds)
    solution = events[-1]
    for path in solution["paths"]:
        own = [e for e in events if e.get("path") == path["index"]]
        steps = [s for e in own if e["event"] == "tokens" for s in e.get("steps", ())]
        assert "".join(s["text"] for s in steps) == path["text"] and len(steps) == path["tokens"]
        assert all(abs(sum(w for _, w in s["candidates"]) - 1) < 1e-3 for s in steps)
        (stopped,) = [e for e in own if e["event"] == "stopped"]
        assert (stopped["status"], stopped["tokens"], stopped["answer"]) == (
            path["status"],
            path["tokens"],
            path["answer"],
        )
        assert [e["score"] for e in own if e["event"] == "score"][-1] == path["score"]
    assert any(p["status"] == "pruned" for p in solution["paths"])
    (last,) = [e for e in events if e["event"] == "votes"][-1:]
    assert last["votes"] == solution["votes"]


def test_the_rest_of_the_endpoints(served: Served) -> None:
    client = served.client
    assert [m.id for m in client.models.list()] == ["reference"] and client.models.retrieve(
        "reference"
    ).id == "reference"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    graded = served.post("/v1/grade", {"prediction": "so \\boxed{1/2}", "answers": ["0.5"]}).json()
    assert graded["correct"] is True and graded["extracted"] == "1/2"
    paths = served.http.get("/openapi.json").json()["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/solve",
        "/v1/grade",
        "/tokenize",
        "/detokenize",
        "/health",
        "/metrics",
    } <= set(paths)
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "messages" in body["properties"]
