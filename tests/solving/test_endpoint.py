"""Paths from another server: the same votes, pruning and figures as of paths that were grown here."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.load import load
from trueplex.models.prompt import PromptOptions
from trueplex.solving.endpoint import Endpoint, EndpointError, Server
from trueplex.solving.events import Solved, Stopped
from trueplex.solving.loop import stream
from trueplex.solving.settings import Settings
from trueplex.solving.upstream import Upstream, chosen
from trueplex.types import Problem, Solution

for needed in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(needed)

from solving.scripted import Script, create_server, serving  # noqa: E402

PROBLEM = Problem("What is 2 + 2?", answers=("4",))
PLAIN = Thinking("discrete")


def tokens(text: str, logprob: float = -0.1) -> list[tuple[str, float]]:
    """A text cut into tokens of two characters."""
    return [(text[at : at + 2], logprob) for at in range(0, len(text), 2)]


def boxed(answer: str, logprob: float = -0.1, length: int = 20) -> list[tuple[str, float]]:
    return tokens("so " * length + f"\\boxed{{{answer}}}", logprob)


@pytest.fixture
def script() -> Script:
    return Script({0: boxed("4"), 1: boxed("5"), 2: boxed("4.0"), 3: boxed("4")})


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    with serving(create_server(script)) as address:
        yield address


def solved(url: str, settings: Settings, problems: tuple[Problem, ...] = (PROBLEM,), **how: Any) -> list[Solution]:
    events = Upstream(Server(Endpoint(url, **how)), problems, chosen(settings))
    return [event.solution for event in events if isinstance(event, Solved)]


# -- what a solution holds ------------------------------------------------------------------------------


def test_paths_of_a_server_are_voted_on_and_graded(script: Script, url: str) -> None:
    (solution,) = solved(url, Settings(paths=4, thinking=PLAIN, verifier="none"))
    assert (solution.answer, solution.agreement, solution.state, solution.confidence) == ("4", 0.75, "answered", None)
    assert [(v.answer, v.weight, v.paths) for v in solution.votes] == [("4", 3.0, 3), ("5", 1.0, 1)]
    assert [t.correct for t in solution.traces] == [True, False, True, True]
    assert [t.index for t in solution.traces] == [0, 1, 2, 3] and {t.reason for t in solution.traces} == {
        "end of sequence"
    }
    assert solution.usage.answer_tokens == sum(len(said) for said in script.says.values())
    assert solution.usage.prompt_tokens == 28 and solution.config["model"] == "tiny"
    assert sorted(body["seed"] for body in script.asked) == [0, 1, 2, 3]
    assert all(b["stream"] and "logprobs" not in b and "trueplex" not in b for b in script.asked)


def test_the_request_says_what_was_asked(script: Script, url: str, trueplex: Callable[..., Any]) -> None:
    code, out, _ = trueplex(
        "solve", "What is 2 + 2?", "--endpoint", url, "--paths", "1", "--temperature", "0.6", "--top-p", "0.9", "--top-k", "20",
        "--min-p", "0.05", "--max-tokens", "99", "--stop", "END", "--seed", "0", "--system", "Be brief.", "--instruction", "Box it.",
        "--template-arg", "enable_thinking=false", "--verifier", "deepconf", "--json",
    )  # fmt: skip
    assert code == 0 and json.loads(out)["answer"] == "4"
    body = script.asked[0]
    wanted = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "max_tokens": 99, "stop": ["END"], "seed": 0,
              "chat_template_kwargs": {"enable_thinking": False}, "logprobs": True, "top_logprobs": 20, "model": "tiny"}  # fmt: skip
    assert wanted.items() <= body.items()
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?\nBox it."},
    ]  # fmt: skip


def test_deepconf_reads_the_log_probabilities(script: Script, url: str) -> None:
    script.says |= {0: boxed("5", -2.0), 1: boxed("5", -2.0), 2: boxed("4", -0.05)}
    (solution,) = solved(url, Settings(paths=3, thinking=PLAIN, verifier="logprob", probe_every=16))
    assert [t.score for t in solution.traces] == pytest.approx([math.exp(-2.0)] * 2 + [math.exp(-0.05)])
    assert (solution.answer, solution.votes[0].paths) == ("4", 1), "two unsure paths weigh less than one that is sure"
    assert [at for at, _ in solution.traces[0].scores] == [16, 32, solution.traces[0].tokens]
    (deep,) = solved(url, Settings(paths=1, thinking=PLAIN, verifier="deepconf:mean"))
    assert deep.traces[0].score == pytest.approx(2.05)  # minus the mean of −2 and −2.1


@pytest.mark.parametrize("apart", [True, False], ids=["reasoning apart", "tags in the content"])
def test_an_answer_stands_behind_the_thinking(script: Script, url: str, apart: bool) -> None:
    thought, said = tokens("\\boxed{9} or so"), tokens("It is \\boxed{4}")
    script.says = {0: [*thought, *said]} if apart else {0: [("<think>", -0.1), *thought, ("</think>", -0.1), *said]}
    script.thinks = len(thought) if apart else 0
    (solution,) = solved(url, Settings(paths=1, thinking=PLAIN, verifier="none"))
    (trace,) = solution.traces
    assert trace.answer == "4" and "</think>" in trace.text
    assert (trace.thinking_tokens, trace.closing) == (len(thought) + 2 * (not apart), "model")


@pytest.mark.parametrize(
    "says", [[("<think>", -0.1), *tokens("\\boxed{9}")], tokens("nothing at all")], ids=["open", "none"]
)
def test_thinking_that_never_closed_has_no_answer(script: Script, url: str, says: list[tuple[str, float]]) -> None:
    script.says = {0: says}
    (solution,) = solved(url, Settings(paths=1, thinking=PLAIN, verifier="none", answer="boxed"))
    assert (solution.state, solution.answer, solution.traces[0].correct) == ("none", None, False)


def test_a_path_that_was_cut_off_has_no_vote(script: Script, url: str) -> None:
    script.ends = "length"
    (solution,) = solved(url, Settings(paths=2, thinking=PLAIN, verifier="none"))
    assert [t.status.value for t in solution.traces] == ["truncated"] * 2 and not solution.votes


# -- what is stopped early ----------------------------------------------------------------------------------


def test_deepconf_closes_the_streams_of_weak_paths(script: Script, url: str) -> None:
    """The first two set the bar; the others are below it from their first look on, and are never read to their end."""
    weak = boxed("5", -3.0, length=400)
    script.says = {0: boxed("4"), 1: boxed("4"), **dict.fromkeys(range(2, 6), weak)}
    script.pause = dict.fromkeys(range(2, 6), 0.001)
    (solution,) = solved(
        url, Settings(paths=6, thinking=PLAIN, verifier="deepconf:tail@16", probe_every=16, prune="deepconf:high@16/2")
    )
    assert [t.status.value for t in solution.traces] == ["finished"] * 2 + ["pruned"] * 4
    assert all(t.tokens < len(weak) / 2 and t.reason == "deepconf:high@16/2" for t in solution.traces[2:])
    assert (solution.answer, solution.agreement) == ("4", pytest.approx(1 / 3))
    assert [body["seed"] for body in script.asked[:2]] in ([0, 1], [1, 0]), "the others start when the bar stands"
    late = time.monotonic() + 5
    while len(script.left) < 4 and time.monotonic() < late:
        time.sleep(0.01)
    assert sorted(script.left) == [2, 3, 4, 5], "their streams are closed"


def test_a_consensus_stops_what_cannot_change_it(script: Script, url: str) -> None:
    script.says = {**dict.fromkeys(range(4), boxed("4")), 4: boxed("5", length=2000)}
    script.pause = {4: 0.002}
    (solution,) = solved(url, Settings(paths=5, thinking=PLAIN, verifier="none", prune="consensus:0.7"))
    assert [t.status.value for t in solution.traces] == ["finished"] * 4 + ["pruned"] and solution.answer == "4"


def test_adaptive_sampling_asks_for_more_only_while_the_vote_is_open(script: Script, url: str) -> None:
    script.says = {0: boxed("4")}
    (sure,) = solved(url, Settings(paths="auto:16", thinking=PLAIN, verifier="none"))
    assert len(sure.traces) == 8
    script.says = {seed: boxed(str(seed % 2)) for seed in range(16)}
    (open_,) = solved(url, Settings(paths="auto:16", thinking=PLAIN, verifier="none"))
    assert len(open_.traces) == 16


def test_seconds_of_a_path_are_held(script: Script, url: str) -> None:
    script.pause = {1: 0.05}
    (solution,) = solved(
        url, Settings(paths=2, verifier="none", thinking=Thinking("discrete", ending=Ending(max_seconds=0.3)))
    )
    assert [(t.status.value, t.reason) for t in solution.traces] == [
        ("finished", "end of sequence"),
        ("truncated", "time limit"),
    ]


def test_many_problems_at_once_keep_their_own_paths(script: Script, url: str) -> None:
    problems = tuple(Problem(f"What is {n} + {n}?") for n in range(6))
    solutions = solved(url, Settings(paths=2, thinking=PLAIN, verifier="none"), problems, most=3)
    assert sorted(s.problem.text for s in solutions) == [p.text for p in problems]
    assert all({t.problem for t in s.traces} == {s.problem} and len(s.traces) == 2 for s in solutions)


# -- what may go wrong, each in one line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "how", "said"),
    [
        ({"key": "right"}, {"key": "wrong"}, "rejected the API key (invalid api key). Try: set OPENAI_API_KEY"),
        ({"models": ("a", "b")}, {}, "serves 2 models (a, b). Try: model=NAME"),
        ({}, {"model": "other"}, "has no model 'other'. Try: one of tiny"),
        ({"refusal": (400, "top_k is unknown.")}, {}, "says 400: top_k is unknown. Try: other options"),
        ({"logprobs": False}, {}, "returns no token log-probabilities, which verifier=\"deepconf\" needs. Try: verifier=\"none\""),
        ({"pause": {0: 5.0}}, {"timeout": 0.3}, "sent nothing for 0.3 seconds. Try: a longer timeout"),
    ],
    ids=["key", "several models", "no such model", "refusal", "no log-probabilities", "silence"],
)  # fmt: skip
def test_what_the_server_lacks_is_said_in_a_line(
    script: Script, url: str, change: dict[str, Any], how: dict[str, Any], said: str
) -> None:
    for name, value in change.items():
        setattr(script, name, value)
    with pytest.raises(EndpointError) as failed:
        solved(url, Settings(paths=1, thinking=PLAIN, verifier="deepconf"), **how)
    assert said in str(failed.value) and "\n" not in str(failed.value)


def test_a_server_that_is_not_there(trueplex: Callable[..., Any]) -> None:
    code, out, told = trueplex("solve", "What is 2 + 2?", "--endpoint", "http://127.0.0.1:9", "--json")
    assert (code, out) == (2, "") and "cannot reach http://127.0.0.1:9/v1" in told and "Traceback" not in told


def test_a_connection_that_breaks_costs_its_own_path_alone(
    script: Script, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    script.ends = None
    (solution,) = solved(url, Settings(paths=2, thinking=PLAIN, verifier="none"))
    assert [(t.status.value, t.reason) for t in solution.traces] == [("truncated", "broken off")] * 2
    assert all(t.tokens == len(script.says[t.index]) for t in solution.traces)


def test_the_key_comes_from_the_environment_or_a_file(
    script: Script, url: str, trueplex: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script.key = "right"
    asked = ("solve", "What is 2 + 2?", "--endpoint", url, "--paths", "1", "--json")
    assert trueplex(*asked)[0] == 2
    (tmp_path / "key").write_text("right\n")
    assert trueplex(*asked, "--endpoint-key-file", str(tmp_path / "key"))[0] == 0
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert trueplex(*asked)[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--served-model", "x"], "--served-model has no effect without --endpoint"),
        (["--endpoint", "URL", "--device", "cpu"], "--device has no effect beside --endpoint"),
        (["--endpoint", "URL", "--model", "other"], "--model has no effect beside --endpoint"),
        (["--endpoint", "URL", "--thinking", "multiplex"], "--thinking multiplex is not possible over an endpoint"),
        (["--endpoint", "URL", "--think-tokens", "9", "--max-tokens", "20"], "--think-tokens has no effect over an endpoint"),
        (["--endpoint", "URL", "--alarm", "under:0.1@96", "--verifier", "deepconf"], "--alarm has no effect"),
        (["--endpoint", "URL", "--budget-tokens", "9"], "a budget has no effect"),
        (["--endpoint", "URL", "--prune", "half:32", "--verifier", "logprob"], "'half:32' compares paths at the same token"),
        (["--endpoint", "URL", "--select", "best"], "an endpoint has no verifier of its own"),
        (["--endpoint", "URL", "--verifier", "prm:qwen:x"], "cannot read an endpoint's paths"),
        (["--endpoint", "URL", "--save", "x.jsonl"], "--save stores token ids"),
        (["--endpoint", "ftp://x"], "the endpoint is 'ftp://x'"),
    ],
)  # fmt: skip
def test_options_that_cannot_act_are_refused(
    url: str, trueplex: Callable[..., Any], options: list[str], said: str
) -> None:
    code, out, told = trueplex("solve", "What is 2 + 2?", *(url if o == "URL" else o for o in options))
    assert (code, out) == (2, "") and said in (last := told.strip().splitlines()[-1]) and ". Try: " in last


# -- evaluation, and this project's own server --------------------------------------------------------------------


def test_an_endpoint_is_evaluated_and_a_run_that_was_cut_short_goes_on(
    script: Script, url: str, trueplex: Callable[..., Any], tmp_path: Path
) -> None:
    data = tmp_path / "sums.jsonl"
    data.write_text('{"problem": "What is 2 + 2?", "answer": "4"}\n{"problem": "What is 1 + 4?", "answer": "5"}\n')
    asked = (
        "eval",
        "--endpoint",
        url,
        "--suite",
        str(data),
        "--samples",
        "4",
        "--verifier",
        "logprob",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    )
    assert trueplex(*asked)[0] == 0
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    (figures,) = result["suites"].values()
    assert figures["pass"]["1"]["mean"] == 0.5 and figures["methods"]["majority"]["4"]["mean"] == 0.5
    assert result["config"]["endpoint"] == f"{url}/v1" and "weighted" in figures["methods"]
    before = len(script.asked)
    assert before == 8 and trueplex(*asked)[0] == 0 and len(script.asked) == before, "what is stored is not asked again"
    code, _, told = trueplex(*asked, "--temperature", "0.5")
    assert code == 2 and "other options" in told
    assert result["config"]["answer"] == "auto" and trueplex(*asked, "--answer", "number")[0] == 2
    report = ("report", str(tmp_path / "out"), "--out", str(tmp_path / "page.html"))
    assert trueplex(*report)[0] == 0 and f"{url}/v1" in (tmp_path / "page.html").read_text()
    script.logprobs = False
    plain = trueplex(
        "eval", "--endpoint", url, "--suite", str(data), "--samples", "2", "--out", str(tmp_path / "plain"), "--quiet"
    )
    assert (
        plain[0] == 0
        and "entropy" not in json.loads((tmp_path / "plain" / "results.json").read_text())["suites"]["sums"]
    )
    code, _, told = trueplex("report", str(tmp_path / "plain"), "--out", str(tmp_path / "page.html"))
    assert code == 2 and "told no alternatives of tokens" in told


@pytest.mark.slow
def test_this_projects_own_server_gives_the_paths_that_a_local_run_has() -> None:
    """One plain path a request, with the same seeds, comes to the same answers as of the model here."""
    app = pytest.importorskip("trueplex.serve.app")
    backbone, problem = load("reference"), Problem("Ann has 3 apples. Ann buys 4 more. How many apples are there now?")
    with serving(app.create_app(backbone)) as url:
        server = Server(Endpoint(url, prompting=PromptOptions(instruction="")))
        events = Upstream(server, [problem], chosen(Settings(paths=2, thinking=PLAIN, verifier="logprob", seed=5)))
        solution = next(e.solution for e in events if isinstance(e, Solved))
    for index, trace in enumerate(solution.traces):
        alone = Settings(paths=1, thinking=PLAIN, verifier="none", seed=5 + index)
        (own,) = (e.trace for e in stream(backbone, [problem], alone) if isinstance(e, Stopped))
        assert trace.answer == own.answer is not None and trace.tokens in (own.tokens, own.tokens - 1, own.tokens - 2)
