"""Options that were renamed, and what was probably meant by an option, command or value that there is not."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from trueplex.cli.options import shortened

RENAMED = {
    "--rows": "--max-batch-size",
    "--held": "--val-problems",
    "--validated": "--val-samples",
    "--kept": "--keep-rollouts",
    "--targets": "--target-modules",
    "--checkpointing": "--gradient-checkpointing",
}


def no_such_option(option: str, arguments: Sequence[str], known: Sequence[str], command: str) -> str:
    """One line about an option that `command` does not have.

    `arguments` are all that the user wrote: of ``-paths`` the parser names only ``-p``.
    """
    whole = () if option.startswith("--") else (a.partition("=")[0] for a in arguments if a.startswith(option))
    written = next(iter(whole), option)
    if (new := RENAMED.get(written)) is not None:
        where = "" if new in known else f", which {command!r} does not have"
        return f"{written} was renamed to {new}{where}. Try: {new if not where else f'see {command} --help'}"
    if not written.startswith("--") and not written[1:2].isalpha():
        return f"No such option: {option}. Try: put -- before a problem that begins with a dash"
    wanted, names = written.strip("-").lower(), [name.removeprefix("--") for name in known]
    close = [name for name in names if len(wanted) > 2 and name.startswith(wanted)] or get_close_matches(
        wanted, names, 1, 0.7
    )
    if close:
        several = " or ".join(f"--{name}" for name in close[:3])
        return f"No such option: {written}. Try: {several} (see '{command} --help')"
    return f"No such option: {written}. Try: see '{command} --help'"


def no_such_command(name: str, known: Sequence[str], command: str) -> str:
    """One line about a command that does not exist; a whole sentence was meant to be solved."""
    if any(sign.isspace() for sign in name.strip()):
        return 'the first argument must be a command, and this is a problem. Try: trueplex solve "PROBLEM"'
    close = get_close_matches(name, known, n=1)
    return f"No such command: {name}. Try: " + (f"{command} {close[0]}" if close else f"one of {', '.join(known)}")


def bad_value(option: Any, arguments: Sequence[str]) -> str | None:
    """One line about a number option whose value is no number; None where the framework's own line has to do."""
    taken: Any = getattr(getattr(option, "type_descriptor", None), "annotation", None)
    kind = {int: "a whole number", float: "a number"}.get(taken)
    for flag in getattr(option, "opts", ()):
        after = [b for a, b in pairwise(arguments) if a == flag]
        after += [a.partition("=")[2] for a in arguments if a.startswith(f"{flag}=")]
        if kind and after:
            return f"{flag} is {shortened(after[-1])!r}. Try: {kind}"
    return None
