"""The Python API, as the README shows it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trueplex
from trueplex.errors import OptionError
from trueplex.models.load import load
from trueplex.solving.loop import Solved

PROBLEM = "Ann has 3 apples. Ann buys 4 more. How many apples are there now?"


def test_solve_and_stream() -> None:
    import trueplex.solving.loop  # the function must stay reachable whatever was imported

    model = trueplex.load("reference")
    solution = trueplex.solve(model, PROBLEM, paths=8, prune="half:32")
    assert solution.answer == "7" and 0 < solution.agreement <= 1 and len(solution.traces) == 8
    assert solution.traces[0].steps.ids.shape[1] == 3
    again = trueplex.solve(model, trueplex.Problem(PROBLEM), paths=8, prune="half:32")
    assert [t.text for t in again.traces] == [t.text for t in solution.traces]
    settings = trueplex.Settings(paths=2, thinking=trueplex.Thinking("discrete"), verifier="none")
    names = [type(event).__name__ for event in trueplex.stream(model, [trueplex.Problem(PROBLEM)], settings)]
    assert names.count("Stopped") == 2 and names[-1] == "Solved" and "Advanced" in names


def test_wrong_options_are_refused_before_any_token() -> None:
    with pytest.raises(OptionError, match="Try:"):
        trueplex.solve("reference", PROBLEM, prune="quarter:3")
    with pytest.raises(ValueError, match="needs scores"):
        trueplex.solve("reference", PROBLEM, prune="half:3", verifier="none")
    with pytest.raises(AttributeError, match="nothing"):
        trueplex.nothing  # noqa: B018


def test_many_problems_are_solved_in_one_call_and_in_their_order() -> None:
    model = load("reference", device="cpu")
    texts = [PROBLEM, "Ann has 3 apples. How many apples are there now?", PROBLEM]
    solutions = trueplex.solve(model, texts, paths=4, seed=2)
    assert [s.problem.text for s in solutions] == texts
    for text, solution in zip(texts, solutions, strict=True):
        alone = trueplex.solve(model, text, paths=4, seed=2)
        assert [t.text for t in alone.traces] == [t.text for t in solution.traces] and alone.answer == solution.answer
    with pytest.raises(trueplex.TrueplexError, match="no problem to solve"):
        trueplex.solve(model, [])


def test_unknown_options_are_answered_with_a_suggestion() -> None:
    with pytest.raises(OptionError, match="did you mean 'temperature'"):
        trueplex.solve("reference", PROBLEM, temprature=0.5)
    with pytest.raises(OptionError, match="one of paths"):
        trueplex.solve("reference", PROBLEM, xyz=1)


def test_everything_that_is_promised_is_there() -> None:
    assert set(trueplex.__all__) == set(trueplex._HOMES) <= set(dir(trueplex))
    assert all(getattr(trueplex, name) is not None for name in trueplex.__all__)


def test_importing_the_package_needs_no_torch() -> None:
    code = "import sys, trueplex, trueplex.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_without_a_scorer_says_so() -> None:
    """Law 10: the reported configuration is what happened."""
    backbone = load("reference", device="cpu")
    events = trueplex.stream(
        backbone, [trueplex.Problem("Ann has 3 apples. How many apples are there now?")], trueplex.Settings(paths=2)
    )
    (solution,) = [e.solution for e in events if isinstance(e, Solved)]
    assert (solution.config["verifier"], solution.config["select"]) == ("none", "majority")


def test_a_thinking_may_be_given_whole() -> None:
    backbone = load("reference", device="cpu")
    thinking = trueplex.Thinking("stochastic-soft", sampling=trueplex.Sampling(0.7), noise="gumbel", strength=0.5)
    solution = trueplex.solve(
        backbone, "Ann has 3 apples. How many apples are there now?", paths=2, thinking=thinking, verifier="none"
    )
    assert (solution.config["thinking"], solution.config["strength"]) == ("stochastic-soft", 0.5)
    with pytest.raises(trueplex.TrueplexError, match="has its own"):
        trueplex.solve(backbone, "2 + 2", thinking=thinking, width=3)
