"""A user's own function, named as MODULE:FUNCTION: an alarm, a reward."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from trueplex.errors import reason


def imported(name: str) -> Callable[..., Any]:
    """The function ``MODULE:FUNCTION``, looked up in the working folder too.

    Raises:
        ValueError: there is no such module or function, or the module fails or exits while it is imported.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"{name!r} names no MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (Exception, SystemExit) as error:  # the module is anyone's code
        raise ValueError(f"{module!r} cannot be imported: {type(error).__name__}: {reason(error)}") from error  # type: ignore[arg-type]
    if not callable(found):
        raise ValueError(f"{module} has no function {function!r}")
    return found
