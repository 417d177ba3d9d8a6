"""Worker processes that compare answers with math-verify, and can be killed when they are late.

math-verify's own timeouts need signals on the main thread; a process that is killed needs nothing and
costs at most its timeout. Nothing else of the project talks to `worker`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from trueplex.errors import MissingExtra, TrueplexError


class Reply(NamedTuple):
    """What was found: equal, different or untold; in a few words why; and which of the others it equals."""

    verdict: bool | None
    why: str
    match: int | None = None


# By path and with this process's sys.path, not by `-m`: it finds what we find whatever the working directory. A
# parent whose __main__ is a notebook or standard input is no obstacle.
_WORKER = str(Path(__file__).with_name("worker.py"))
_LAUNCH = "import sys; f, *sys.path[:] = sys.argv[1:]; import runpy; runpy.run_path(f, run_name='__main__')"


def _exchange(process: subprocess.Popen[str], line: str, timeout: float) -> tuple[str, bool]:
    """Write a line, read one: the reply ("" if the process ended), and whether it was killed for lateness."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    assert process.stdin and process.stdout
    timer = threading.Timer(timeout, kill)
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(line)
        process.stdin.flush()
        reply = process.stdout.readline()
    except OSError:
        reply = ""
    finally:
        timer.cancel()
        timer.join()  # or it might yet kill the answer to the next question
    return reply, late.is_set()


REMEMBERED = 4096  # questions that were too slow once: a hanging answer of many traces costs its timeout once


class Workers:
    """At most ``size`` worker processes, started when first needed; safe from threads, forks and Ctrl-C.

    ``timeouts`` counts those killed for being late, ``crashes`` those that died by themselves.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.timeouts = self.crashes = 0
        self._given_up: dict[str, None] = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: the processes and their pipes are its parent's."""
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[str]] = set()
        self._idle: queue.LifoQueue[subprocess.Popen[str] | None] = queue.LifoQueue()  # the warmest first
        for _ in range(self.size):
            self._idle.put(None)

    def ask(self, answer: str, others: Sequence[str], timeout: float, library: bool = False) -> Reply:
        """What `worker.judge` says of normalised answers, None if it is late or dies of them.

        ``library`` asks math-verify by itself instead, as others use it.

        Raises:
            MissingExtra: math-verify is not installed. TrueplexError: the worker does not start.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise MissingExtra("math-verify", "math")
        asked = {"answer": answer, "others": others, "timeout": timeout, "library": library}
        request = json.dumps(asked) + "\n"
        if request in self._given_up:
            return Reply(None, "timed out")
        process = self._idle.get()
        try:
            for _ in range(2):  # a death may have another cause, such as the machine's memory: ask once more
                process = process or self._start()
                reply, late = _exchange(process, request, timeout)
                if reply.endswith("\n") and not late:
                    return Reply(**json.loads(reply))
                self._stop(process)
                process = None
                with self._lock:
                    self.timeouts += late
                    self.crashes += not late
                    if late:
                        self._given_up[request] = None
                        if len(self._given_up) > REMEMBERED:
                            del self._given_up[next(iter(self._given_up))]
                if late:
                    return Reply(None, "timed out")
            return Reply(None, "could not compare: the worker died")
        except BaseException:  # Ctrl-C in mid-question: the reply still to come must not answer the next one
            if process:
                self._stop(process)
            process = None
            raise
        finally:
            self._idle.put(process)

    def _start(self) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-c", _LAUNCH, _WORKER, *sys.path], subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self._live.add(process)
        if not _exchange(process, "", 120)[0]:
            self._stop(process)
            raise TrueplexError(f"the grader does not start; to see why: {sys.executable} {_WORKER}")
        return process

    def _stop(self, process: subprocess.Popen[str]) -> None:
        self._live.discard(process)
        with contextlib.suppress(OSError), process:  # closes its pipes and waits
            process.kill()

    def close(self) -> None:
        """End all workers; the next question starts new ones."""
        for process in list(self._live):
            process.kill()
            process.wait()


workers = Workers(max(1, min(4, os.cpu_count() or 1)))
atexit.register(workers.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=workers.forget)
