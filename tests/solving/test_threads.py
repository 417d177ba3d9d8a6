"""One model, many callers: threads, event loops and streams take turns, and each gets what it would get alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import trueplex
from trueplex.errors import OptionError
from trueplex.types import Solution, Trace, Vote

TEXTS = [f"Ann has {n} apples. Ann buys {n + 3} more. How many apples are there now?" for n in range(2, 6)]
OPTIONS = {"paths": 2, "max_tokens": 40}


@pytest.fixture(scope="module")
def model() -> trueplex.Backbone:
    return trueplex.load("reference", device="cpu")


@pytest.fixture(scope="module")
def alone(model: trueplex.Backbone) -> list[list[str]]:
    return [texts(trueplex.solve(model, text, seed=1, **OPTIONS)) for text in TEXTS]


def texts(solution: Solution) -> list[str]:
    return [t.text for t in solution.traces]


def test_threads_get_what_each_gets_alone(model: trueplex.Backbone, alone: list[list[str]]) -> None:
    """In 0.2, 6 of 12 concurrent calls died of a bare AssertionError."""

    async def together() -> list[Solution]:
        calls = (asyncio.to_thread(trueplex.solve, model, text, seed=1, **OPTIONS) for text in TEXTS * 4)
        return await asyncio.gather(*calls)

    assert [texts(s) for s in asyncio.run(together())] == alone * 4


def test_awaited_and_streamed_solutions_are_those_of_solve(model: trueplex.Backbone, alone: list[list[str]]) -> None:
    async def run() -> tuple[Solution, list[Solution], list[str]]:
        one, many = await asyncio.gather(
            trueplex.asolve(model, TEXTS[0], seed=1, **OPTIONS), trueplex.asolve(model, TEXTS[1:3], seed=1, **OPTIONS)
        )
        names = [type(event).__name__ async for event in trueplex.astream(model, TEXTS[0], seed=1, **OPTIONS)]
        return one, many, names

    one, many, names = asyncio.run(run())
    assert [texts(one), *map(texts, many)] == alone[:3]
    assert names.count("Stopped") == 2 and names[-1] == "Solved"


def test_two_streams_of_one_model_do_not_meet(model: trueplex.Backbone, alone: list[list[str]]) -> None:
    settings = trueplex.Settings(
        paths=2, seed=1, thinking=trueplex.Thinking("auto", ending=trueplex.Ending(40)), verifier="none"
    )
    streams = [trueplex.stream(model, [trueplex.Problem(text)], settings) for text in TEXTS[:2]]
    found: list[list[str]] = [[], []]
    while streams:
        for number, events in enumerate(list(streams)):
            event = next(events, None)
            if isinstance(event, trueplex.Solved):
                found[TEXTS.index(event.solution.problem.text)] = texts(event.solution)
            if event is None:
                streams.pop(number)
                break
    assert found == alone[:2]


def test_functions_score_prune_and_choose(model: trueplex.Backbone) -> None:
    seen: list[int] = []

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        assert all("apples" in prompt for prompt in prompts)
        return [min(1.0, len(text) / 1000) for text in completions]

    def prune(live: Sequence[Trace]) -> list[Trace]:
        seen.append(len(live))
        return sorted(live, key=lambda t: t.score or 0.0)[:1] if len(live) > 3 else []

    solution = trueplex.solve(
        model, TEXTS[0], paths=5, verifier=score, prune=prune, select=lambda traces: traces[-1].answer, probe_every=8
    )
    pruned = [t for t in solution.traces if t.status is trueplex.Status.PRUNED]
    assert len(pruned) == 2 and seen[0] == 5 and all("prune" in t.reason for t in pruned)
    assert solution.answer == [t for t in solution.traces if t.answer][-1].answer
    assert solution.config["verifier"].endswith("score") and solution.confidence is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"verifier": lambda prompts, texts: [2.0] * len(texts)}, "a number from 0 to 1"),
        ({"verifier": lambda prompts, texts: [0.5]}, "1 scores for"),
        ({"verifier": lambda prompts, texts: 1 / 0}, "ZeroDivisionError"),
        ({"prune": lambda live: ["no trace"]}, "other than|something else"),
        ({"select": lambda traces: [1]}, "something else than votes"),
    ],
)  # fmt: skip
def test_what_a_function_does_wrong_is_said(model: trueplex.Backbone, options: dict, why: str) -> None:
    with pytest.raises(OptionError, match=why):
        trueplex.solve(model, TEXTS[0], paths=3, probe_every=8, **options)


def test_answers_of_ones_own_kind_are_voted_on_by_it(model: trueplex.Backbone) -> None:
    last = trueplex.AnswerKind(
        "parity", find=lambda text: text.rstrip("}")[-1:] or None, same=lambda a, b: int(a) % 2 == int(b) % 2
    )
    solution = trueplex.solve(model, trueplex.Problem(TEXTS[1], answers=("9",)), paths=4, answer=last, verifier="none")
    assert len(solution.votes) <= 2 and solution.config["answer"] == "parity"
    assert {t.correct for t in solution.traces} <= {True, False} and {t.found for t in solution.traces if t.answer} == {
        "parity"
    }


def test_short_in_a_shell_and_a_table_in_a_notebook(model: trueplex.Backbone) -> None:
    solution = trueplex.solve(model, TEXTS[0], paths=3)
    assert len(repr(solution)) < 200 and len(repr(solution.traces[0])) < 200 and "paths agree" in repr(solution)
    page = solution._repr_html_()
    assert page.startswith("<div>") and page.count("<table>") == 2 and TEXTS[0] in page
    assert (
        "&lt;b&gt;"
        in Solution(
            trueplex.Problem("<b>"), None, None, 0.0, [Vote("<b>", 1, 1)], [], trueplex.Usage(), 0, {}
        )._repr_html_()
    )
