"""A world for the fault run: commands in forked children of one warm process, and one folder of every kind that they write.

A child costs milliseconds, where a process of its own would import torch first. It may be killed, be given a small disk
or little time; what it leaves behind is looked at by its parent.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# By the environment: a number that torch itself was told is set again in every thread of a forked child, which has no pool.
os.environ["OMP_NUM_THREADS"] = "1"
import torch

# Hangs are counted in seconds of the processor, so that other work on the machine makes none.
HANG = 10  # of a wrong command line
LONG = 60  # of a whole command that is killed or given a full disk: training takes its time
IDLE = 60  # seconds of any kind in which the processor is not used at all: what waits for ever uses none
HANGS = {
    signal.SIGPROF: f"over {HANG} s of the processor",
    signal.SIGXCPU: f"over {LONG} s of the processor",
    signal.SIGALRM: f"{IDLE} s without using the processor",
}
TRACED = 70  # exit code of a command that ended with a traceback


@dataclass(frozen=True)
class Ended:
    """How a command ended. ``signal`` is 0 if by itself; ``seconds`` are those of the processor."""

    code: int
    signal: int
    out: str
    err: str
    seconds: float

    @property
    def fault(self) -> str | None:
        """What is wrong with how it ended, killed or not; None for an answer or one line of refusal."""
        if self.code == TRACED or "Traceback" in self.err:
            return "traceback: " + (self.err.strip().splitlines() or [""])[-1]
        if self.signal in HANGS:
            return f"hang: {HANGS[self.signal]}"
        if self.signal not in (0, signal.SIGKILL):
            return f"signal {self.signal}"
        if self.signal == 0 and self.code not in (0, 1, 2, 130):
            return f"exit code {self.code}"
        if self.signal == 0 and self.code == 2 and not refusal(self.err):
            return f"exit code 2 without one line that says what to try: {self.err.strip()[-300:]!r}"
        return None


def refusal(err: str) -> bool:
    """Whether the last line of standard error says what is wrong and what to try."""
    last = (err.strip().splitlines() or [""])[-1]
    return (last.startswith("trueplex: ") and "Try: " in last) or not err.strip() or "Usage:" in err


def warm() -> None:
    """Import all of the package, and load the embedded models once for all children."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    import trueplex
    from trueplex.errors import MissingExtra
    from trueplex.models import load as loading

    for module in pkgutil.walk_packages(trueplex.__path__, "trueplex."):
        if not module.name.endswith(("__main__", "worker")):
            with contextlib.suppress(MissingExtra):
                importlib.import_module(module.name)
    for name in (
        "sklearn.linear_model",
        "torch.utils.tensorboard",
        "pyarrow.parquet",
        "matplotlib.pyplot",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    real, known = loading.load, {}

    def load(name: str = "reference", *how: Any, **named: Any) -> Any:
        if name not in loading.SHIPPED:
            return real(name, *how, **named)
        key = tuple(str(one) for one in (name, *how, *named.items()) if one is not None)
        if key not in known:
            known[key] = real(name, *how, **named)
        return known[key]

    loading.load = load  # type: ignore[assignment]
    for dtype in (None, torch.float32):
        load("reference", None, dtype)


def in_process(arguments: Sequence[str]) -> int:
    """Run a command here: its exit code, TRACED for a traceback, which is then on standard error."""
    from trueplex.cli import main as cli

    sys.argv = ["trueplex", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return TRACED
    return 0


def run(arguments: Sequence[str], kill_after: float | None = None, before: Callable[[], Any] = lambda: None) -> Ended:
    """Run a command in a child, which calls ``before`` first; killed after so many seconds of the processor, if it has not ended."""
    pipes = [os.pipe(), os.pipe()]  # no files: a full disk would cut off what is said of it
    pid = os.fork()
    if pid == 0:
        code = TRACED
        try:
            for number, (_, end) in enumerate(pipes, 1):
                os.dup2(end, number)
            os.closerange(3, 256)
            sys.stdout, sys.stderr = (io.TextIOWrapper(open(n, "wb", closefd=False)) for n in (1, 2))  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_CPU, (LONG, LONG))
            before()
            code = in_process(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    for _, end in pipes:
        os.close(end)
    with ThreadPoolExecutor(2) as readers:
        texts = [readers.submit(_all, begin) for begin, _ in pipes]
        status, seconds = _waited(pid, kill_after)
    return Ended(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else -1,
                 os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, *(text.result() for text in texts), seconds)  # fmt: skip


def _all(pipe: int) -> str:
    with open(pipe, "rb") as file:
        return file.read().decode(errors="replace")


def _waited(pid: int, kill_after: float | None) -> tuple[int, float]:
    """How a child ended, and the seconds of the processor that it used; killed after so many, or if it uses none any more."""
    process, used, since = psutil.Process(pid), 0.0, time.monotonic()
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage.ru_utime + usage.ru_stime
        now = sum(process.cpu_times()[:2])
        if kill_after is not None and now >= kill_after:
            os.kill(pid, signal.SIGKILL)
        if time.monotonic() > since + IDLE:
            if now <= used:
                os.kill(pid, signal.SIGALRM)
            used, since = now, time.monotonic()
        time.sleep(0.005)


def in_child(work: Callable[[], Any]) -> Any:
    """What a function gives, as JSON, run in a child: whatever it changes here is forgotten. Raises RuntimeError if it fails."""
    with tempfile.TemporaryFile() as found:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                found.write(json.dumps(work()).encode())
                found.flush()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        found.seek(0)
        if status:
            raise RuntimeError(f"a child ended with {status}")
        return json.loads(found.read())


@contextlib.contextmanager
def hushed() -> Iterator[list[str]]:
    """What the package's loggers say, one text a message, and nowhere else."""
    import logging

    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("trueplex")
    logger.handlers, before, logger.propagate = [handler], logger.handlers, False
    yield told
    logger.handlers = before


# -- commands ---------------------------------------------------------------------------------------------------------

PROBLEMS = "".join(
    json.dumps({"problem": f"Ann has {a} apples. Ann buys {b} more. How many apples are there now?", "answer": str(a + b)}) + "\n"
    for a, b in ((3, 4), (5, 6), (12, 9))
)  # fmt: skip
SHORT = ("--max-tokens", "32")


def commands(base: Path, out: Path) -> dict[str, list[str]]:
    """Every command that writes, small: what it reads lies in ``base``, what it writes in ``out``."""
    rolled, there = str(base / "rolled"), str(out / "out")
    few = str(base / "few")
    learn = ("--data", few, "--validation", few, "--out", there, "--epochs", "1", "--every", "1", "--batch", "8")
    return {
        "solve": ["solve", f"@{base / 'problems.jsonl'}", "--paths", "4", *SHORT, "--quiet", "--json", "--save", str(out / "t.jsonl"), "--resume"],
        "rollout": ["rollout", "--data", "chain-easy", "--n", "6", "--samples", "4", "--verifier", "auto", "--probe-every", "16", "--max-batch-size", "8", *SHORT, "--quiet", "--out", there],
        "eval": ["eval", "--suite", "chain-easy", "--n", "4", "--samples", "4", "--max-batch-size", "4", *SHORT, "--quiet", "--out", there],
        "eval-verifier": ["eval-verifier", rolled, "--n", "4", "--scorers", "auto,logprob", "--quiet", "--out", there],
        "train verifier": ["train", "verifier", *learn, "--rank", "2", "--target-modules", "q_proj", "--positions", "4", "--patience", "5"],
        "train reward": ["train", "reward", "--kind", "outcome", *learn, "--rank", "2"],
        "train values": ["train", "values", "--data", there, "--n", "3", "--traces", "2", "--prefixes", "1", "--samples", "2", "--quiet"],
        "train policy": ["train", "policy", "--data", "chain-easy", "--problems", "8", "--val-problems", "2", "--val-samples", "1", "--steps", "3", "--prompts", "2", "--samples", "2",
                         "--every", "1", "--rank", "2", "--target-modules", "q_proj", "--lr", "1e-3", "--thinking", "discrete", *SHORT, "--quiet", "--out", there],
        "train verifier --problems": ["train", "verifier", "--problems", "countdown-easy", "--n", "8", "--samples", "4", "--out", there, "--epochs", "1", "--every", "1", "--batch", "8",
                                      "--rank", "2", "--target-modules", "q_proj", "--positions", "4", "--thinking", "discrete", "--quiet"],
        "train combined": ["train", "combined", "--data", rolled, "--verifier", "none", "--out", there],
        "calibrate": ["calibrate", rolled, "--verifier", str(out / "verifier"), "--paths", "4", "--error", "0.4", "--out", there],
        "score": ["score", rolled, "--verifier", str(base / "verifier"), "--probe-every", "8", "--quiet", "--out", there],
        "report": ["report", str(base / "eval"), "--out", str(out / "page.html"), "--markdown", str(out / "page.md")],
        "show": ["show", rolled, "--html", str(out / "page.html")],
        "models": ["models", "qwen3", "--markdown", str(out / "page.md")],
    }  # fmt: skip


NEEDS = {
    "train values": ("rolled", "out"),
    "calibrate": ("verifier", "verifier"),
}  # what must lie in `out` before: from, to


def prepare(base: Path, out: Path, name: str) -> None:
    """The folder that a command starts with."""
    import shutil

    out.mkdir(parents=True)
    if name in NEEDS:
        source, target = NEEDS[name]
        shutil.copytree(base / source, out / target)


# What another run holds when it is at work in the same place: a path in `out`, and the side file in a folder.
HELD = {"solve": ("t.jsonl", None), "train values": ("out/values.jsonl", None), "train combined": ("out/combined.json", None), "report": ("page.md", None),
        "train verifier --problems": ("out", ".problems.lock")}  # fmt: skip
UNHELD = ("show", "models")  # what they write takes no time


def build(base: Path, names: Sequence[str], problems: int) -> dict[str, float]:
    """Make ``base``: a folder of every kind; the seconds that these commands took. Stored traces are of so many problems."""
    import shutil

    from trueplex.models.load import SHIPPED, reference_path

    base.mkdir(parents=True, exist_ok=True)
    (base / "problems.jsonl").write_text(PROBLEMS)
    for name, folder in SHIPPED.items():
        shutil.copytree(reference_path(name), base / "shipped" / folder)
    shutil.copytree(reference_path() / "verifier", base / "verifier")
    seconds = {}
    for folder, suite, n in (("rolled", "countdown-easy", str(problems)), ("few", "countdown-easy", "6")):
        rolls = [
            "rollout",
            "--data",
            suite,
            "--split",
            "validation",
            "--n",
            n,
            "--samples",
            "4",
            "--verifier",
            "auto",
            "--probe-every",
            "16",
            "--quiet",
        ]
        expect(run([*rolls, "--out", str(base / folder)]))
    places = {
        "eval": "eval",
        "train verifier": "trained",
        "train reward": "reward",
        "train policy": "policy",
        "train combined": "combined",
    }
    for name in names:
        out = base / "made" / name.replace(" ", "-")
        prepare(base, out, name)
        ended = run(commands(base, out)[name])
        expect(ended)
        seconds[name] = ended.seconds
        if name in places:
            shutil.copytree(out / "out", base / places[name])
    return seconds


def expect(ended: Ended) -> None:
    assert ended.signal == 0 and ended.code in (0, 1), (ended.code, ended.err[-2000:])
