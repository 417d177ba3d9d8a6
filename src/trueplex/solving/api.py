"""The short way from Python: one call, one solution. The long way is `pipeline.stream`."""

from __future__ import annotations

from collections.abc import Sequence

from trueplex.decide.alarms import Look
from trueplex.decide.budget import Budget
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Solved, stream
from trueplex.solving.scorers import choose_calibration, choose_scorer
from trueplex.solving.settings import DEFAULT_STRIDE, Settings
from trueplex.types import Problem, Solution


def solve(
    model: Backbone | str, problem: Problem | str, *, paths: int | str = 16, thinking: str | Thinking = "multiplex",
    width: int | None = None, merge: str | None = None, temperature: float = 1.0, top_p: float = 1.0,
    max_tokens: int | None = None, verifier: str = "auto", probe_every: int = DEFAULT_STRIDE, prune: str = "none", select: str | None = None,
    alarms: Sequence[str | Look] = (), budget: Budget | None = None, abstain_below: float | None = None,
    max_error: float | None = None, seed: int = 0,
) -> Solution:  # fmt: skip
    """Solve one problem and return its `Solution`: answer, confidence, votes, traces, usage.

    ``thinking`` is a mode, with the four options behind it, or a `Thinking`, which has all there are. Where there is no
    verifier for the model, a warning says that the vote is a plain majority.

    >>> import trueplex
    >>> solution = trueplex.solve(trueplex.load("reference"), "Ann has 3 apples. Ann buys 4 more. How many apples are there now?")

    Raises:
        TrueplexError: an option, the problem, the model or the verifier cannot be used; the message says which.
    """
    if not isinstance(thinking, Thinking):
        thinking = Thinking(thinking, width, merge, Sampling(temperature, top_p), ending=Ending(max_tokens))
    elif (width, merge, temperature, top_p, max_tokens) != (None, None, 1.0, 1.0, None):
        raise OptionError("a Thinking has its own width, merge, sampling and limit. Try: set them there")
    settings = Settings(
        paths=paths, verifier=verifier, prune=prune, select=select, seed=seed, alarms=tuple(alarms),
        budget=budget or Budget(), abstain_below=abstain_below, max_error=max_error,
        probe_every=probe_every, thinking=thinking,
    )  # fmt: skip
    backbone = load(model) if isinstance(model, str) else model
    scorer, settings = choose_scorer(backbone, settings)
    asked = Problem(problem) if isinstance(problem, str) else problem
    calibration = choose_calibration(backbone, scorer, settings)
    for event in stream(backbone, [asked], settings, scorer, calibration=calibration):
        if isinstance(event, Solved):
            return event.solution
    raise AssertionError("a stream ends with its solutions")
