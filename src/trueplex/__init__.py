"""Problem → Prompt → LiveBatch (engine) → scores (verify) → retire (policy) → Trace… → Solution (vote).

>>> import trueplex
>>> model = trueplex.load("reference")
>>> trueplex.solve(model, "Ann has 3 apples. Ann buys 4 more. How many apples are there now?").answer  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueplex.api import solve
    from trueplex.backbone import Backbone
    from trueplex.budget import Budget
    from trueplex.engine.sampling import Sampling
    from trueplex.engine.thinking import Thinking
    from trueplex.errors import TrueplexError
    from trueplex.loading import load
    from trueplex.pipeline import stream
    from trueplex.settings import Settings
    from trueplex.types import Problem, Solution, Trace

__version__ = "0.2.0"

_HOMES = {
    "Backbone": "backbone", "Budget": "budget", "load": "loading", "Sampling": "engine.sampling", "Thinking": "engine.thinking",
    "TrueplexError": "errors", "Settings": "settings", "solve": "api", "stream": "pipeline",
    "Problem": "types", "Solution": "types", "Trace": "types",
}  # fmt: skip
__all__ = ["Backbone", "Budget", "Problem", "Sampling", "Settings", "Solution", "Thinking", "Trace", "TrueplexError", "load",
           "solve", "stream"]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import on first use: `import trueplex` and `trueplex --help` need no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'trueplex' has no attribute {name!r}")
    return getattr(import_module(f"trueplex.{_HOMES[name]}"), name)
