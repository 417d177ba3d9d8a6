"""Options as frozen dataclasses.

A command is a function of a few dataclasses. `command` gives it one option for every field, whose type and help stand
in the field's annotation, and calls it with the instances that the options fill; Typer itself knows parameters only.
The groups of options that commands share are in `groups.py`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from rich.markup import escape

from trueplex.errors import OptionError

Command = TypeVar("Command", bound=Callable[..., Any])

LARGEST = 2**31 - 1  # of every number that has no bounds of its own


@dataclass(frozen=True)
class Within:
    """Bounds of a whole number, both included: stands in the annotation of its field."""

    low: int = -LARGEST
    high: int = LARGEST

    def check(self, flag: str, value: int) -> None:
        """Raise OptionError when `value` is outside."""
        if not self.low <= value <= self.high:
            bounds = f"from {self.low} to" if self.low > -LARGEST else "of at most"
            raise OptionError(f"{flag} is {shortened(str(value))}. Try: a whole number {bounds} {self.high}")


def shortened(text: str, most: int = 40) -> str:
    """A text that a user gave, short enough to stand in a message."""
    return text if len(text) <= most else f"{text[:most]}…"


def command(app: typer.Typer, example: str, name: str | None = None, panel: str | None = None) -> Callable[[Command], Command]:  # fmt: skip
    """Make a function a command of `app`, in a panel of its help, with `example` at the end of the command's own."""

    def register(function: Command) -> Command:
        app.command(name, epilog=f"Example:  [bold]{escape(example)}[/bold]", rich_help_panel=panel)(spread(function))
        return function

    return register


def spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with every dataclass among its parameters replaced by that dataclass's fields, for Typer to read."""
    own = inspect.signature(function, eval_str=True).parameters
    groups: dict[str, Any] = {name: p.annotation for name, p in own.items() if is_dataclass(p.annotation)}
    options = [o for name, p in own.items() for o in (_options(groups[name]) if name in groups else [p])]
    names = [option.name for option in options]
    assert len(set(names)) == len(names), f"two options of {function.__name__} have one name: {sorted(names)}"

    @functools.wraps(function)
    def filled(**values: Any) -> Any:
        for option in options:
            _check(option, values[option.name])
        made = {name: group(**{f.name: values.pop(f.name) for f in fields(group)}) for name, group in groups.items()}
        return function(**values, **made)

    # Keyword-only, so that options with and without defaults may stand in any order.
    keyword = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]
    filled.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    filled.__annotations__ = {option.name: option.annotation for option in keyword}
    return filled


def _options(group: Any) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters, in the help panel that it names unless they name another."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        kind, given, *others = get_args(hints[field.name])
        option = copy(given)
        option.rich_help_panel = given.rich_help_panel or group.PANEL
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        found.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default,
                                       annotation=Annotated[(kind, option, *others)]))  # type: ignore[misc]  # fmt: skip
    return found


def _check(option: inspect.Parameter, value: Any) -> None:
    """Raise OptionError for a whole number outside its bounds, and for one with a fraction that is not finite."""
    flag = flag_of(option)
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int) and not isinstance(one, bool):
            bounds = (extra for extra in get_args(option.annotation) if isinstance(extra, Within))
            next(bounds, Within()).check(flag, one)
        if isinstance(one, float) and not math.isfinite(one):
            raise OptionError(f"{flag} is {one}. Try: a finite number")


def flag_of(option: inspect.Parameter) -> str:
    """How an option is written."""
    return f"--{option.name.replace('_', '-')}"


def listed(flag: str, text: str | None) -> tuple[str, ...]:
    """Names separated by commas; none where the option was not given.

    Raises:
        OptionError: a name is empty, or stands there twice.
    """
    names = tuple(name.strip() for name in text.split(",")) if text is not None else ()
    if not all(names) or len(set(names)) < len(names):
        raise OptionError(f"{flag} is {shortened(text or '')!r}. Try: names separated by commas, each once")
    return names


def check_count(flag: str, text: str) -> None:
    """Raise OptionError for a number given as text that is not of plain digits, or too large; other texts pass."""
    if text.isdigit():
        if not text.isascii():
            raise OptionError(f"{flag} is {shortened(text)!r}. Try: the digits 0 to 9")
        if len(text) > len(str(LARGEST)) or int(text) > LARGEST:
            raise OptionError(f"{flag} is {shortened(text)}. Try: a number of at most {LARGEST}")
