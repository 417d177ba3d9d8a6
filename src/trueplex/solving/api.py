"""The short way from Python: one call, one solution. The long way is `trueplex.stream`, or a `Scheduler` of one's own."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import overload

from typing_extensions import TypedDict, Unpack

from trueplex.decide.alarms import Look
from trueplex.decide.budget import Budget
from trueplex.decide.rules import Prune
from trueplex.decide.voting import Choose
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, OptionError
from trueplex.grading.kinds import AnswerKind
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Solved, Stream, stream
from trueplex.solving.scorers import choose_calibration, choose_scorer
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Solution
from trueplex.verify.own import ScoreFunction
from trueplex.verify.scorer import Scorer


class Options(TypedDict, total=False):
    """What `solve` may be asked for; each has the default of `Settings`, `Thinking` and `Sampling`.

    ``thinking`` is a mode, with the width, merge, temperature, top_p and max_tokens beside it, or a `Thinking`, which has
    all that there is. ``verifier`` may be a name, a `Scorer` or a function of texts (`verify.own.ScoreFunction`); ``prune`` a policy
    or a function of the live traces (`decide.rules.Prune`); ``select`` a selector or a function of the stopped ones
    (`decide.voting.Choose`); ``alarms`` take functions of a trace (`decide.alarms.Look`); ``answer`` a name, or an
    `grading.kinds.AnswerKind`.
    """

    paths: int | str
    thinking: str | Thinking
    width: int | None
    merge: str | None
    temperature: float
    top_p: float
    max_tokens: int | None
    verifier: str | Scorer | ScoreFunction
    probe_every: int
    prune: str | Prune
    select: str | Choose | None
    answer: str | AnswerKind
    alarms: Sequence[str | Look]
    budget: Budget | None
    abstain_below: float | None
    max_error: float | None
    seed: int


OF_THINKING = ("width", "merge", "temperature", "top_p", "max_tokens")


@overload
def solve(model: Backbone | str, problem: Problem | str, **options: Unpack[Options]) -> Solution: ...  # type: ignore[overload-overlap]  # a text is a sequence of texts
@overload
def solve(model: Backbone | str, problem: Sequence[Problem | str], **options: Unpack[Options]) -> list[Solution]: ...
def solve(
    model: Backbone | str, problem: Problem | str | Sequence[Problem | str], **options: Unpack[Options]
) -> Solution | list[Solution]:
    """Solve a problem and return its `Solution`: answer, confidence, votes, traces, usage. Of several problems, a list.

    Several problems share every forward pass, and each gets what it would get alone. Where there is no verifier for the
    model, a warning is logged that the vote is a plain majority.

    >>> import trueplex
    >>> solution = trueplex.solve(trueplex.load("reference"), "Ann has 3 apples. Ann buys 4 more. How many apples are there now?")

    Raises:
        TrueplexError: an option, a problem, the model or the verifier cannot be used; the message says which.
    """
    asked = [problem] if isinstance(problem, str | Problem) else list(problem)
    solved = {event.request: event.solution for event in events_of(model, asked, options) if isinstance(event, Solved)}
    solutions = [solved[number] for number in range(len(asked))]
    return solutions[0] if isinstance(problem, str | Problem) else solutions


def events_of(model: Backbone | str, asked: Sequence[Problem | str], options: Options) -> Stream:
    """What happens while the problems are solved; scorer and calibration are found as by `solve`. Raises as that."""
    settings = settings_of(options)
    if not asked:
        raise InputError("there is no problem to solve. Try: give a text, a Problem, or a list of them")
    problems = [Problem(one) if isinstance(one, str) else one for one in asked]
    backbone = load(model) if isinstance(model, str) else model
    scorer, settings = choose_scorer(backbone, settings)
    return stream(backbone, problems, settings, scorer, calibration=choose_calibration(backbone, scorer, settings))


def settings_of(options: Options) -> Settings:
    """The settings that these options come to. Raises OptionError for an unknown one, or one that has no effect."""
    for name in options:
        if name not in Options.__annotations__:
            near = difflib.get_close_matches(name, Options.__annotations__, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(Options.__annotations__)}"
            raise OptionError(f"solve has no option {name!r}. Try: {hint}")
    merges = any(options.get(name) is not None for name in ("width", "merge"))
    thinking = options.get("thinking", "multiplex" if merges else "auto")
    given = {name: options[name] for name in OF_THINKING if name in options}  # type: ignore[literal-required]
    if not isinstance(thinking, Thinking):
        sampling = Sampling(**{name: given.pop(name) for name in ("temperature", "top_p") if name in given})
        ending = Ending(given.pop("max_tokens", None))
        thinking = Thinking(thinking, sampling=sampling, ending=ending, **given)
    elif given:
        raise OptionError(
            f"a Thinking has its own {', '.join(given)}. Try: set {'it' if len(given) == 1 else 'them'} there"
        )
    own = {
        name: value for name, value in options.items() if name not in ("thinking", *OF_THINKING) and value is not None
    }
    return Settings(**own | {"thinking": thinking, "alarms": tuple(options.get("alarms") or ())})  # type: ignore[arg-type]
