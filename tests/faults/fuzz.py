"""Command lines made of real options and values that people and scripts get wrong: each is an answer or one line."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from world import HANG, IDLE, Ended, in_process

TOGETHER = 25  # command lines in one child
TICK = 1.0  # seconds of the processor between two looks at what a command line has printed
MEMORY = 12 << 30  # bytes of address space beyond which a child gets no more
NUMBERS = ["0", "1", "-1", "2", "3", "7", "²", "٣", "1e3", "0.5", "-0.0", "nan", "inf", "-inf", "1e999", "1e-320", "", " ", "x", "0x10", "1_000", "+5",
           "2147483647", "2147483648", "9223372036854775808", "18446744073709551616", "1" + "0" * 20, "9" * 5000]  # fmt: skip
TEXTS = ["", " ", "auto", "none", "reference", "half:32", "half:0", "half:9999999999999999999999", "keep:0.5@64", "drop:2@16", "stop:1", "floor:nan", "deepconf:low@64/8",
         "consensus:2", "auto:99999999999999999999", "auto:²", "half:8+half:8", "majority", "weighted", "weighted:odds", "weighted:1e999", "top:0", "best", "best,best", ",", "a,,b",
         "fall:0.4@64", "under:nan@8", "call:os:_exit", "call:sys:exit", "call:nothing:f", "call:json:__doc__", "call:trueplex:", "orm:", "prm:x:y", "genrm:reference@²", "genrm:reference@0",
         "deepconf:tail@99999999999999999999", "deepconf:tail@0", "logprob", "entropy", "logprob,logprob", "cuda:9", "mps", "cpu", "float32", "bfloat16", "float8", "int8", "weighted~half:8/4",
         "majority~auto", "correct", "os:getcwd", "this:x", "tensorboard", "wandb", "lines", "mse", "ramp", "monte-carlo", "outcome", "process", "generative", "all", "OWNER/NAME", "a/b/c",
         "FILE.gguf", "o/n:x.gguf", "\udcff", "\x00", "é" * 200, "x" * 5000, "-", "--", "@", "@/dev/null", "@nothing.jsonl", "@/", "/dev/null", "/dev/full", "/proc/self/mem", ".", "..", "/",
         "/root/no/where", "key=value", "key", "=", "enable_thinking=false", "k={", "multiplex", "discrete", "soft", "stochastic-soft", "gumbel", "dirichlet", "mean", "test", "train",
         "chain-easy", "countdown-hard", "math500", "svg", "png", "<think>", "</think>", "What is 1 + 1?", "{\"a\": [", "[]", "null"]  # fmt: skip
COMMANDS = ["solve", "show", "problems", "grade", "eval", "eval-verifier", "report", "rollout", "calibrate", "serve", "models", "doctor", "bench", "push", "verifier info", "verifier list",
            "train verifier", "train reward", "train values", "train policy", "train combined"]  # fmt: skip
SLOW = ("train", "doctor", "bench", "models")
# So that a line that is right ends soon; a fuzzed option of the same name comes later and counts.
SMALL = {"solve": ["--paths", "2", "--max-tokens", "6"], "rollout": ["--n", "1", "--samples", "2", "--max-tokens", "6"], "problems": ["--n", "2"],
         "eval": ["--n", "1", "--samples", "2", "--max-tokens", "6"], "train policy": ["--steps", "1", "--prompts", "1", "--samples", "2", "--problems", "2", "--val-problems", "1", "--max-tokens", "6"],
         "train verifier": ["--epochs", "0.01"], "train reward": ["--epochs", "0.01", "--kind", "outcome"], "train values": ["--n", "1", "--samples", "1"],
         "serve": ["--port", "0"], "bench": ["sample", "--tokens", "4", "--repeats", "1", "--batch-size", "2", "--vocabulary", "64"], "push": ["--dry-run"], "models": ["qwen3"]}  # fmt: skip
SAFE = [
    "",
    ".",
    "/dev/null",
    "/dev/full",
    "/proc/nowhere/x",
    "log/below",
    "x" * 5000,
    "é" * 200,
    "a/b/c",
    "\udcff",
    "--",
    "-",
]
FOLDERS = ("--out", "--save", "--html", "--markdown", "--figures")


def options() -> dict[str, list[Any]]:
    """The options and arguments of every command."""
    import typer.main

    from trueplex.cli.main import app

    root: Any = typer.main.get_command(app)
    found = {}
    for name in COMMANDS:
        command = root
        for part in name.split():
            command = command.commands[part]
        found[name] = command.params
    return found


def line(drawn: random.Random, known: dict[str, list[Any]], base: Path) -> list[str]:
    """A command line: a command, what it needs, and some options with values that are mostly wrong."""
    name = drawn.choices(COMMANDS, [1 if c.startswith(SLOW) else 3 for c in COMMANDS])[0]
    inputs = [
        str(base / file)
        for file in ("few", "problems.jsonl", "eval", "trained", "verifier", "made/solve/t.jsonl", "nothing", "")
    ]
    words = [*name.split(), *SMALL.get(name, ())]
    needed = {
        "solve": "What is 1 + 1?",
        "show": inputs[0],
        "problems": "chain-easy",
        "grade": inputs[1],
        "eval": None,
        "eval-verifier": inputs[0],
        "report": inputs[2],
        "calibrate": inputs[0],
        "push": inputs[4],
        "verifier info": inputs[4],
        "verifier list": str(base),
    }
    if (first := needed.get(name)) is not None and drawn.random() < 0.9:
        words.append(first if drawn.random() < 0.7 else drawn.choice([*TEXTS, *inputs]))
    if name == "push":
        words.append("OWNER/NAME" if drawn.random() < 0.7 else drawn.choice(TEXTS))
    for option in known[name]:
        flag = next((o for o in option.opts if o.startswith("--")), None)
        if flag is None or not (option.required or drawn.random() < 1.2 / len(known[name])):
            continue
        taken = getattr(getattr(option, "type_descriptor", None), "annotation", None)
        if taken is bool or getattr(option, "is_flag", False):
            words.append(flag)
            continue
        pool = NUMBERS if taken in (int, float) and drawn.random() < 0.9 else [*TEXTS, *NUMBERS, *inputs]
        value = drawn.choice(pool)
        if flag in FOLDERS:  # nothing outside the folder that a line runs in
            value = (
                drawn.choice(SAFE)
                if drawn.random() < 0.4
                else f"out-{drawn.randrange(3)}{drawn.choice(['', '.jsonl', '.arrow', '.html'])}"
            )
        if flag in ("--data", "--suite") and drawn.random() < 0.5:
            value = drawn.choice([inputs[0], inputs[1], "chain-easy"])
        words += [flag, value] if drawn.random() < 0.8 else [f"{flag}={value}"]
    if drawn.random() < 0.1:
        words.insert(
            drawn.randrange(len(words)), drawn.choice([*TEXTS, "--pathz", "-x", "--rows", "--help", "-h", "--version"])
        )
    return [word for word in words if "\x00" not in word]  # no shell can pass it on


def ended(words: Sequence[str]) -> Ended:
    """How a command line ends in this process, which may use `HANG` seconds of the processor, and wait for `IDLE`.

    What goes on printing after these (two thousand million problems) is no hang, and is interrupted as a user would.
    """
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="surrogateescape", write_through=True) for _ in range(2)
    )
    sign, used = 0, time.process_time()
    seconds, silent, printed = 0.0, 0.0, 0  # of the processor; those without a new character; characters

    def busy(number: int, frame: Any) -> None:
        nonlocal seconds, silent, printed
        printed, before = out.buffer.tell(), printed
        seconds, silent = seconds + TICK, silent + TICK if printed == before else 0
        if silent >= HANG:
            silent = 0
            late(number, frame)
        if seconds >= HANG and not silent:
            raise KeyboardInterrupt

    def late(number: int, frame: Any) -> None:
        nonlocal sign, used
        used, before = time.process_time(), used
        if number == signal.SIGALRM and used > before + 0.05:  # less is what this clock itself takes
            return
        sign = number
        raise TimeoutError("".join(traceback.format_stack(frame)[-3:]))

    for clock, number, act, every in (
        (signal.ITIMER_PROF, signal.SIGPROF, busy, TICK),
        (signal.ITIMER_REAL, signal.SIGALRM, late, IDLE),
    ):
        signal.signal(number, act)
        signal.setitimer(clock, every, every)
    with redirect_stdout(out), redirect_stderr(err):
        code = in_process(words)
    for clock in (signal.ITIMER_PROF, signal.ITIMER_REAL):
        signal.setitimer(clock, 0)
    texts = [stream.buffer.getvalue().decode(errors="replace") for stream in (out, err)]  # type: ignore[attr-defined]
    return Ended(code, sign, *texts, 0.0)


def _some(lines: Sequence[list[str]], folder: Path, shipped: Path) -> int:
    """Run command lines one by one, and note how each ended before the next: the child may not live to the end."""
    from trueplex.models import load
    from trueplex.serve import running

    load.reference_path = lambda name=load.REFERENCE: shipped / load.SHIPPED[name]  # some commands write there
    running.run = lambda *server: None  # which would serve for ever
    os.chdir(folder)
    allowed = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = MEMORY if allowed == resource.RLIM_INFINITY else min(MEMORY, allowed)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.stdin = open(os.devnull)  # noqa: SIM115
    with (folder / "log").open("w") as log:
        for words in lines:
            found = ended(words)
            log.write(json.dumps([found.code, found.fault, found.err[-300:]]) + "\n")
            log.flush()
    return 0


def _shown(words: Sequence[str]) -> str:
    """A command line as a report can hold it: what is not UTF-8 is escaped."""
    return " ".join(word[:60] for word in words).encode(errors="backslashreplace").decode()


def fuzz(base: Path, work: Path, count: int, seed: str) -> dict[str, Any]:
    """So many command lines, in children that run some each: the number of each way to end, and the faults."""
    from world import in_child

    drawn, known = random.Random(f"{seed} fuzz"), options()
    shutil.rmtree(work, ignore_errors=True)
    base = Path(shutil.copytree(base, work, ignore=shutil.ignore_patterns("checkpoints")))  # some commands write here
    left = [line(drawn, known, base) for _ in range(count)]
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    while left:
        with tempfile.TemporaryDirectory() as folder:
            some = left[:TOGETHER]
            died: str | None = None
            try:
                in_child(lambda some=some, folder=folder: _some(some, Path(folder), base / "shipped"))  # type: ignore[misc]
            except RuntimeError as error:
                died = str(error)
            noted: list[Any] = []
            with suppress(FileNotFoundError):
                noted = [json.loads(text) for text in (Path(folder) / "log").read_text().splitlines()]
        for words, (code, fault, err) in zip(some, noted, strict=False):
            outcomes[f"exit code {code}"] += 1
            if fault:
                faults.append(f"{_shown(words)}: {fault} | {err[-200:]}")
        done = len(noted)
        if died and done < len(some):
            faults.append(f"{_shown(some[done])}: {died}")
            outcomes["died"] += 1
            done += 1
        left = left[done:]
    return {"outcomes": dict(outcomes), "faults": faults}
