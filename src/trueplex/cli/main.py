"""The command line: its commands, and how errors end. Each command imports what it needs when it runs, so `--help` is quick.

Exit codes: 0 answered, 1 abstained or no answer, 2 bad usage or input, 130 interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer

from trueplex import __version__
from trueplex.cli import (
    bench,
    calibrate,
    doctor,
    evaluate,
    families,
    grade,
    problems,
    push,
    report,
    rollout,
    score,
    serve,
    show,
    solve,
    train,
)
from trueplex.cli.mistakes import bad_value, no_such_command, no_such_option
from trueplex.cli.options import command
from trueplex.cli.replicas import with_address
from trueplex.errors import StoreError
from trueplex.messages import INTERRUPTED, complain, exit_code

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FRAMEWORK = ("click", "typer")

app = typer.Typer(
    no_args_is_help=True, suggest_commands=False, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reason along many paths at once, and know which to trust.",
    epilog="Example:  [bold]trueplex problems reference --n 1 | trueplex solve @/dev/stdin[/bold]",
)  # fmt: skip
SOLVE, MEASURE, LEARN = "Solve", "Measure", "Learn"


def _version(asked: bool) -> None:
    if asked:
        print(f"trueplex {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")] = False,
) -> None:  # fmt: skip
    """Options of no command."""


command(app, solve.EXAMPLE, panel=SOLVE)(solve.solve)
command(app, serve.EXAMPLE, panel=SOLVE)(serve.serve)
command(app, show.EXAMPLE, panel=SOLVE)(show.show)
command(app, problems.EXAMPLE, panel=SOLVE)(problems.problems)
command(app, doctor.EXAMPLE, panel=SOLVE)(doctor.doctor)
command(app, families.EXAMPLE, "models", SOLVE)(families.families)
command(app, grade.EXAMPLE, panel=MEASURE)(grade.grade)
command(app, evaluate.EXAMPLE, "eval", MEASURE)(evaluate.evaluate)
command(app, evaluate.VERIFIER_EXAMPLE, "eval-verifier", MEASURE)(evaluate.evaluate_verifier)
command(app, score.EXAMPLE, panel=MEASURE)(score.score)
command(app, report.EXAMPLE, panel=MEASURE)(report.report)
command(app, bench.EXAMPLE, panel=MEASURE)(bench.bench)
command(app, rollout.EXAMPLE, panel=LEARN)(rollout.rollout)
app.add_typer(train.app, name="train", rich_help_panel=LEARN)
command(app, calibrate.EXAMPLE, panel=LEARN)(calibrate.calibrate)
app.add_typer(push.app, name="verifier", rich_help_panel=LEARN)
command(app, push.EXAMPLE, panel=LEARN)(push.push)


def main() -> None:
    """The console entry: errors become one line and exit code 2; an interrupt becomes 130."""
    signal.signal(signal.SIGTERM, _ended)
    _streams()
    sys.exit(exit_code(_run))


def _run() -> Any:
    """Run the command that was asked for, and return its exit code. Raises what `exit_code` tells."""
    try:
        if sys.stdout is None:
            raise StoreError("standard output is closed. Try: leave it open, or send it to /dev/null")
        code: Any = app(args=with_address(sys.argv[1:]), prog_name="trueplex", standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit) as stop:
        # rich turns a broken pipe into a bare exit; anything else that exits is not ours to change.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        code = _reader_gone()
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        _sink()
        code = complain(
            f"cannot write: {error.strerror}. Try: make room and run again (what --save or --out holds is kept)"
        )
    except Exception as error:
        if type(error).__module__.split(".")[0] not in FRAMEWORK:
            raise
        told = usage_message(error)
        code = complain(told) if told else 2  # without any message, the help was shown
    return code


def usage_message(error: Any) -> str:
    """What the framework says of wrong usage, as one of our lines; empty where it showed the help instead."""
    told = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", None) or " ".join(["trueplex", *_commands(sys.argv[1:])])
    if context is not None and type(error).__name__ == "NoSuchOption":
        known = [name for p in context.command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")]
        return no_such_option(error.option_name, sys.argv[1:], known, path)
    if context is not None and (wrong := re.match(r"No such command '(.*)'", told, re.DOTALL)):
        return no_such_command(wrong[1], list(context.command.commands), path)
    if (wrong_value := bad_value(getattr(error, "param", None), sys.argv[1:])) and type(
        error
    ).__name__ == "BadParameter":
        return wrong_value
    return f"{told.rstrip('.')}. Try: see '{path} --help'" if told else ""


def _commands(arguments: Sequence[str]) -> list[str]:
    """The command that the arguments name, and its group."""
    return list(arguments[: 2 if arguments[0] in ("train", "verifier") else 1])


def _ended(number: int, frame: FrameType | None) -> None:
    """A job that its scheduler ends keeps what it has, as after Ctrl-C."""
    raise KeyboardInterrupt


def _streams() -> None:
    """Make the standard streams safe to write to.

    The descriptor of a closed one is taken, so that no file of the run gets its number and, with it, what libraries write
    to standard error. What the encoding of standard output cannot express is escaped.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _reader_gone() -> int:
    """The exit code when standard output was closed: no one misses the rest of a help text."""
    _sink()
    if len(sys.argv) == 1 or {"-h", "--help"} & set(sys.argv[1:]):
        return 0
    return complain("standard output was closed before all was written. Try: read it to the end, or use --save")


def _sink() -> None:
    """Give Python somewhere to write what is left, or it would complain again on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
