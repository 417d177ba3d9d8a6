"""What the program tells people beside its results: one line a message on standard error, each told once, and how it ends.

rich's own handler is not used: it wraps messages to 80 columns where standard error is a pipe, fills lines up with spaces,
and has no way to write one line a message, which is what logs and scripts read.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trueplex.errors import InputError, TrueplexError, in_flags
from trueplex.files import HINTS, failure

INTERRUPTED = 130
# transformers imports torchao wherever that is installed, which then tells of GPU kernels that it lacks, and torch of torchao's types.
TALKATIVE = "torchao", "torch.utils._pytree"


class OneLine(logging.Handler):
    """Writes `trueplex: MESSAGE`. A message that was told already is not repeated: many lines may have one fault."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if message not in self._told:
            self._told.add(message)
            say(message)


def say(message: str) -> None:
    """Write one line to standard error; where that is closed or full, nowhere, and never among the results."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"trueplex: {message}", file=sys.stderr, flush=True)


def listen() -> None:
    """Let the package's loggers be heard; of several processes, the first one speaks for all.

    What transformers, peft and torchao warn those of who call them is no message for a user, unless PYTHONWARNINGS asks for it.
    """
    logger = logging.getLogger("trueplex")
    logger.handlers = [OneLine()]
    logger.propagate = False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(transformers|peft)\.")
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)


def exit_code(work: Callable[[], Any]) -> int:
    """Run a command, and how it ended: what ``work`` returns, 2 with one line where something is refused, 130 when interrupted.

    What the system refuses of a path is one line, too. Every other error is the program's own fault, and is raised.
    """
    listen()
    with in_flags(), _threads_in_one_line():
        try:
            _check(sys.argv[1:])
            code = int(work() or 0)
        except TrueplexError as error:
            code = complain(str(error))
        except KeyboardInterrupt:
            code = INTERRUPTED
        except OSError as error:
            if error.filename is None or error.errno not in (*HINTS, errno.ENOENT):
                raise
            code = complain(str(failure("use", error.filename, error)))
    if code == INTERRUPTED:
        say("interrupted; what was finished is kept")
    return code


def complain(message: str) -> int:
    """Say in one line what was refused; the exit code of that."""
    say(" ".join(message.split()))
    return 2


def _check(arguments: Sequence[str]) -> None:
    """Raise InputError for an argument that is not valid Unicode: no page, store or tokenizer could hold it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            shown = argument.encode(errors="backslashreplace").decode()[:60]
            raise InputError(
                f"{shown} is not valid Unicode. Try: give UTF-8, and rename a file whose name is not"
            ) from error


@contextlib.contextmanager
def _threads_in_one_line() -> Iterator[None]:
    """Within, a library's thread that the system lets write no more (TensorBoard's has its own) says so in one line.

    Whoever waits for that thread is told by the library.
    """
    before = threading.excepthook

    def ended(how: threading.ExceptHookArgs) -> None:
        error = how.exc_value
        if isinstance(error, OSError) and error.errno in HINTS:
            say(str(failure("write", error.filename or "a file", error)))
        else:
            before(how)

    threading.excepthook = ended
    try:
        yield
    finally:
        threading.excepthook = before
