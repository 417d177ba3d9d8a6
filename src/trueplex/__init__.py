"""Problem → Prompt → batch (engine) → scores (verify) → prune (decide) → Trace… → Solution (vote).

>>> import trueplex
>>> model = trueplex.load("reference")
>>> trueplex.solve(model, "Ann has 3 apples. Ann buys 4 more. How many apples are there now?").answer  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueplex.decide.budget import Budget
    from trueplex.decide.rules import Prune
    from trueplex.decide.voting import Choose
    from trueplex.engine.limits import Ending
    from trueplex.engine.sampling import Sampling
    from trueplex.engine.thinking import Thinking
    from trueplex.errors import TrueplexError
    from trueplex.grading.kinds import AnswerKind, Found, answer_kind
    from trueplex.models.backbone import Backbone
    from trueplex.models.load import load
    from trueplex.models.prompt import PromptOptions, prompt_by
    from trueplex.solving.api import solve
    from trueplex.solving.asynchronous import asolve, astream
    from trueplex.solving.events import Advanced, AlarmRaised, Event, Solved, Stopped
    from trueplex.solving.loop import stream
    from trueplex.solving.request import Account, Request
    from trueplex.solving.scheduler import Scheduler
    from trueplex.solving.settings import Settings
    from trueplex.types import Problem, Solution, Status, Steps, Trace, Usage, Vote
    from trueplex.verify.own import ScoreFunction
    from trueplex.verify.scorer import Scorer

__version__ = "0.3.0"

_HOMES = {
    "Account": "solving.request", "Advanced": "solving.events", "AlarmRaised": "solving.events",
    "AnswerKind": "grading.kinds", "Backbone": "models.backbone", "Budget": "decide.budget",
    "Choose": "decide.voting", "Ending": "engine.limits", "Event": "solving.events", "Found": "grading.kinds",
    "Problem": "types", "PromptOptions": "models.prompt", "Prune": "decide.rules", "Request": "solving.request",
    "Sampling": "engine.sampling", "Scheduler": "solving.scheduler", "ScoreFunction": "verify.own",
    "Scorer": "verify.scorer", "Settings": "solving.settings", "Solution": "types", "Solved": "solving.events",
    "Status": "types", "Steps": "types", "Stopped": "solving.events", "Thinking": "engine.thinking",
    "Trace": "types", "TrueplexError": "errors", "Usage": "types", "Vote": "types", "answer_kind": "grading.kinds",
    "asolve": "solving.asynchronous", "astream": "solving.asynchronous", "load": "models.load",
    "prompt_by": "models.prompt", "solve": "solving.api", "stream": "solving.loop",
}  # fmt: skip
__all__ = [
    "Account", "Advanced", "AlarmRaised", "AnswerKind", "Backbone", "Budget", "Choose", "Ending", "Event", "Found",
    "Problem", "PromptOptions", "Prune", "Request", "Sampling", "Scheduler", "ScoreFunction", "Scorer", "Settings",
    "Solution", "Solved", "Status", "Steps", "Stopped", "Thinking", "Trace", "TrueplexError", "Usage", "Vote",
    "answer_kind", "asolve", "astream", "load", "prompt_by", "solve", "stream",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use: `import trueplex` and `trueplex --help` need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trueplex' has no attribute {name!r}")
    return getattr(import_module(f"trueplex.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
