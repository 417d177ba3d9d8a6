"""What the program tells people beside its results: one line a message on standard error, each told once.

rich's own handler is not used: it wraps messages to 80 columns where standard error is a pipe, fills lines up with spaces,
and has no way to write one line a message, which is what logs and scripts read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings


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

    What transformers and peft warn those of who call them is no message for a user, unless PYTHONWARNINGS asks for it.
    """
    logger = logging.getLogger("trueplex")
    logger.handlers = [OneLine()]
    logger.propagate = False
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(transformers|peft)\.")
