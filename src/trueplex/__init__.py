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
    from trueplex.engine.sampling import Sampling
    from trueplex.engine.thinking import Thinking
    from trueplex.errors import TrueplexError
    from trueplex.models.backbone import Backbone
    from trueplex.models.load import load
    from trueplex.solving.api import solve
    from trueplex.solving.loop import stream
    from trueplex.solving.settings import Settings
    from trueplex.types import Problem, Solution, Trace

__version__ = "0.2.0"

_HOMES = {
    "Backbone": "models.backbone", "Budget": "decide.budget", "load": "models.load", "Sampling": "engine.sampling",
    "Thinking": "engine.thinking", "TrueplexError": "errors", "Settings": "solving.settings", "solve": "solving.api",
    "stream": "solving.loop", "Problem": "types", "Solution": "types", "Trace": "types",
}  # fmt: skip
__all__ = ["Backbone", "Budget", "Problem", "Sampling", "Settings", "Solution", "Thinking", "Trace", "TrueplexError", "load",
           "solve", "stream"]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use: `import trueplex` and `trueplex --help` need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trueplex' has no attribute {name!r}")
    return getattr(import_module(f"trueplex.{_HOMES[name]}"), name)
