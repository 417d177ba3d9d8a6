"""Functions of the user's own, as they are or by the name of their module: rewards, answer kinds, scorers, policies, selectors."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trueplex.errors import OptionError, TrueplexError, reason


def spelled(function: Any) -> str:
    """How a function of the user's own is called in results: ``call:MODULE:FUNCTION``."""
    kind = type(function)
    return f"call:{getattr(function, '__module__', kind.__module__)}:{getattr(function, '__qualname__', kind.__qualname__)}"


def called(given: Any, what: str) -> Callable[..., Any] | None:
    """A function that was given as it is or as ``call:MODULE:FUNCTION``; None for any other text. Raises OptionError as `named`."""
    if callable(given):
        return given
    kind, _, rest = str(given).partition(":")
    if kind != "call":
        return None
    module, colon, function = rest.partition(":")
    if not (module and colon and function):
        raise OptionError(f"cannot read the {what} {given!r}. Try: call:MODULE:FUNCTION")
    return named(module, function, what)


def careful(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """The function; whatever it raises is an OptionError that says whose code failed."""

    @functools.wraps(function, updated=())
    def checked(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except TrueplexError:
            raise
        except Exception as error:
            raise OptionError(
                f"the {what} {spelled(function)!r} failed ({type(error).__name__}: {reason(error, 200)}). Try: its code"
            ) from error

    return checked


def named(module: str, function: str, what: str) -> Callable[..., Any]:
    """The function of a module, which is looked up in the working folder too; ``what`` it is for stands in the errors.

    Raises:
        OptionError: there is no such module or function.
    """
    name, here = f"{module}:{function}", str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (Exception, SystemExit) as error:  # the module is anyone's code
        raise OptionError(
            f"cannot import the {what} {name!r} ({error!r}). Try: check the module's name and path, and its code"
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not callable(found):
        raise OptionError(f"{module} has no function {function!r}. Try: check its name")
    return found
