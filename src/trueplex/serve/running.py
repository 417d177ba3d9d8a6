"""A listening server that finishes running requests when it is stopped."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

import uvicorn
from fastapi import FastAPI

from trueplex.errors import OptionError

Result = TypeVar("Result")


def aside(function: Callable[[], Result]) -> Result:
    """What a function gives, run by a thread that ends with it: load the model so, as another thread is to run it.

    PyTorch's threads on a CPU belong to the thread that first needs them. With those of a second one beside them there are more than
    cores, and GNU's OpenMP then sleeps at every operation where it would have spun: a quarter of two cores lay idle.
    """
    result: Future[Result] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="trueplex-load", daemon=True)  # Ctrl-C does not wait for it
    thread.start()
    found = result.result()
    thread.join()
    return found


class Draining(uvicorn.Server):
    """Refuses new requests at the first signal, and tells which one it was."""

    stopped_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or sig
        self.config.app.state.service.draining = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OptionError where nobody can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, ValueError) as error:  # ValueError: a text that can be the name of no host
        told = getattr(error, "strerror", None) or str(error)
        raise OptionError(f"cannot listen on {host[:60]}:{port} ({told}). Try: another --port or --host") from error


def run(app: FastAPI, listener: socket.socket, drain_seconds: float) -> int | None:
    """Serve until SIGTERM or SIGINT; running requests then have so many seconds to end. Returns the signal that stopped it."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=max(1, round(drain_seconds))
    )
    server = Draining(config)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn hands the signal on once it has stopped
        if server.stopped_by is None:
            raise
    return server.stopped_by


def log_requests(quiet: bool) -> None:
    """Write the access log to standard error, one JSON object a line; if ``quiet``, failures of the server alone."""
    logger = logging.getLogger("trueplex.access")
    logger.handlers, logger.propagate = [logging.StreamHandler(sys.stderr)], False
    logger.setLevel(logging.ERROR if quiet else logging.INFO)


INTERRUPTED = signal.SIGINT
