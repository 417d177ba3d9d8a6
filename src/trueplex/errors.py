"""What can go wrong, named. Every error says what, why and how to fix it.

Each leaf is also the builtin that callers would catch without knowing trueplex, so
``except ValueError`` keeps working.

Messages are written with the options of the command line, ``--select majority``. Who calls from Python reads arguments
there, ``select="majority"``; the command line asks for its own by `in_flags`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

ARGUMENTS = {  # options whose arguments have other names
    "max_batch_size": "rows",
    "template_arg": "template_arguments",
    "alarm": "alarms",
    "served_model": "model",
    "endpoint_timeout": "timeout",
}
# An option and its value; a word that goes on with the sentence is none.
OPTION = re.compile(
    r"--([a-z]+(?:-[a-z]+)*)(?: (?!(?:and|or|is|of|to|in|do|has|needs|with|where|which|folder)\b)([^\s,;)]*[^\s,;).]))?"
)
_flags = False


@contextmanager
def in_flags() -> Iterator[None]:
    """Within this, errors name options as the command line spells them."""
    global _flags
    before, _flags = _flags, True
    try:
        yield
    finally:
        _flags = before


def spelled(message: str) -> str:
    """A message with options as whoever reads it spells them; what stands in backquotes is a command, and stays as it is."""
    return message if _flags else in_python(message)


def in_python(message: str) -> str:
    """The same with arguments in place of options."""
    return "".join(
        part if n % 2 else OPTION.sub(_argument, part) for n, part in enumerate(re.split("(`[^`]*`)", message))
    )


def _argument(option: re.Match[str]) -> str:
    name, value = option[1].replace("-", "_"), option[2]
    name = ARGUMENTS.get(name, name)
    if value is None:
        return name
    plain = value.isupper() or re.fullmatch(r"-?[0-9.]+", value)
    return f"{name}={value}" if plain else f'{name}="{value}"'


def reason(error: Exception, most: int = 300) -> str:
    """What an error says, as part of a line: its first line without advice, or else its kind, cut to so many characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". Try: ")[0][:most]


class TrueplexError(Exception):
    """Root of every error that trueplex raises on purpose; the command line prints it as one line."""

    def __str__(self) -> str:
        return spelled(super().__str__())


class OptionError(TrueplexError, ValueError):
    """An option is unknown, out of range, contradictory, or could not act in the chosen mode."""


class InputError(TrueplexError, ValueError):
    """A problem, file or line that the user gave cannot be used."""


class ModelError(TrueplexError, ValueError):
    """A model cannot be found, read, or trusted to give right results here."""


class VerifierError(TrueplexError, ValueError):
    """A verifier cannot be read or was trained for another base model."""


class StoreError(TrueplexError, OSError):
    """Traces or results cannot be written or read."""


class MissingExtra(TrueplexError, ImportError):
    """An optional dependency is absent; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Try: pip install 'trueplex[{extra}]'")
