"""Kills at any moment, disks that are full and folders that are read-only: no whole record is lost, and a repeated command
ends as one that was never disturbed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from world import HELD, UNHELD, commands, hushed, prepare, run

NOBODY = 65534
NUMBERS = ("weights", "logps", "entropy", "confidence", "scores")
VARYING = ("machine", "seconds", "milliseconds", "rollout_tokens_a_second", "checksum", "train_runtime")


def stored(out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Finished traces in all stores of a folder, by name."""
    from trueplex.data.traces import read

    with hushed():
        for store in sorted([*out.rglob("*.arrow"), *out.rglob("t.jsonl")]):
            if store.name.startswith("step-") or not store.stat().st_size:
                continue  # of a policy's last steps: forgotten as it goes on
            for row in read(store):
                if row["status"] != "running":
                    yield f"{store.relative_to(out)} {row['problem']} {row['seed']} {row['index']}", row


def records(out: Path) -> dict[str, str]:
    """Whole records in all stores of a folder: finished traces and values, by name, each with a hash of all of it."""
    from trueplex.train.values import read_values

    found = {name: _hash(row) for name, row in stored(out)}
    with hushed():
        for store in out.rglob("values.jsonl"):
            found |= {f"value {name}": str(values) for name, values in read_values(store.parent).items()}
    return found


def drawn_traces(out: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Finished traces by name: a hash of what was drawn, and the numbers beside it.

    In another batch, as after a kill, these differ in their last bits.
    """
    return {
        name: (
            _hash({n: v for n, v in row.items() if n not in NUMBERS}),
            np.concatenate([np.ravel(row[n]) for n in NUMBERS]),
        )
        for name, row in stored(out)
    }


def _hash(row: dict[str, Any]) -> str:
    plain = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}
    return hashlib.blake2b(repr(sorted(plain.items())).encode()).hexdigest()


def alike(one: Any, other: Any) -> bool:
    """Whether two entries of `final` are the same."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return one[0] == other[0] and np.allclose(one[1], other[1], atol=1e-4, equal_nan=True)
    return type(one) is type(other) and one == other


def final(out: Path) -> dict[str, Any]:
    """What a command has made, without what differs from run to run: all files that count, by name."""
    from safetensors.torch import load_file

    from trueplex.models.fingerprint import fingerprint_of

    found: dict[str, Any] = {n: v for n, v in records(out).items() if n.startswith("value ")} | drawn_traces(out)
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if not file.is_file() or {"checkpoints", "tensorboard", "rollouts"} & set(file.parts):
            continue
        if file.name in ("adapter_model.safetensors", "model.safetensors"):
            found[name] = fingerprint_of(load_file(file))
        elif file.name in (
            "results.json",
            "calibration.json",
            "verifier.json",
            "reward.json",
            "combined.json",
            "validation.jsonl",
            "metrics.jsonl",
        ):
            found[name] = [_steady(json.loads(line)) for line in (file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()])]  # fmt: skip
        elif file.suffix in (".html", ".md") and file.name.startswith("page"):
            found[name] = hashlib.blake2b(file.read_bytes()).hexdigest()
    return found


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not k.startswith(VARYING)}
    return [_steady(v) for v in value] if isinstance(value, list) else value


class Series:
    """One command, disturbed again and again in one folder, and then repeated until it ends by itself."""

    def __init__(self, base: Path, work: Path, name: str) -> None:
        self.base, self.out, self.name = base, work / "out", name
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        shutil.rmtree(work, ignore_errors=True)
        prepare(base, self.out, name)
        self.arguments = commands(base, self.out)[name]
        self.known = records(self.out)

    def disturbed(self, kill_after: float | None = None, before: Callable[[], Any] = lambda: None) -> None:
        ended = run(self.arguments, kill_after, before)
        self.counts["killed" if ended.signal == signal.SIGKILL else f"exit code {ended.code}"] += 1
        self._note(ended.fault)
        self._note_losses()

    def finish(self, expected: dict[str, Any]) -> None:
        ended = run(self.arguments)
        self._note(ended.fault or (f"does not go on: {ended.err[-300:]}" if ended.code not in (0, 1) else None))
        self._note_losses()
        made = final(self.out)
        wrong = sorted(n for n in {*made, *expected} if not alike(made.get(n), expected.get(n)))
        if wrong:
            self._note(f"ends otherwise than an undisturbed one: {wrong[:3]} of {len(wrong)}")

    def _note(self, fault: str | None) -> None:
        if fault:
            self.faults.append(f"{self.name}: {fault}")

    def _note_losses(self) -> None:
        try:
            now = records(self.out)
        except Exception as error:
            self._note(f"its records cannot be read: {error!r}")
            return
        lost = [name for name, record in self.known.items() if now.get(name) != record]
        if lost:
            self._note(f"{len(lost)} of {len(self.known)} whole records lost or changed")
        self.known = now


def undisturbed(base: Path, work: Path, name: str) -> tuple[dict[str, Any], float]:
    """What a command makes when nothing happens to it, and the seconds that it takes."""
    series = Series(base, work, name)
    ended = run(series.arguments)
    assert ended.code in (0, 1), (name, ended.err)
    return final(series.out), ended.seconds


def kill(base: Path, work: Path, name: str, kills: int, each: int, seed: int) -> dict[str, Any]:
    """Kill a command so often, ``each`` times in one folder before it may end."""
    drawn, (expected, seconds) = random.Random(f"{seed} {name}"), undisturbed(base, work, name)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    tries = 0
    while counts["killed"] < kills and tries < 4 * kills:
        series = Series(base, work, name)
        for _ in range(each):
            series.disturbed(kill_after=drawn.uniform(0, seconds))
            tries += 1
        series.finish(expected)
        counts += series.counts
        faults += series.faults
    return {"counts": dict(counts), "faults": faults}


def fill(base: Path, work: Path, name: str, times: int, seed: int) -> dict[str, Any]:
    """Give a command a disk on which no file may grow beyond some size, so often, and then one that has room."""
    drawn, (expected, _) = random.Random(f"{seed} {name}"), undisturbed(base, work, name)
    sizes = [file.stat().st_size for file in (work / "out").rglob("*") if file.is_file()]
    series = Series(base, work, name)

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    for _ in range(times):
        size = drawn.randrange(max(1, int(0.9 * drawn.choice(sizes))))
        series.disturbed(before=small)
    series.finish(expected)
    return {"counts": dict(series.counts), "faults": series.faults}


def forbid(base: Path, work: Path, name: str) -> dict[str, Any]:
    """Give a command, as a user without rights, a folder that is read-only, and then one that it may not even read."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    for place, of_folder, of_file in (("read-only", 0o555, 0o444), ("unreadable", 0o000, 0o000)):
        series = Series(base, work, name)
        paths = [series.out, *series.out.rglob("*")]
        for path in paths:
            path.chmod(of_folder if path.is_dir() else of_file)
        ended = run(series.arguments, before=lambda: os.seteuid(NOBODY) if os.geteuid() == 0 else None)
        for path in paths:
            path.chmod(0o755)
        counts[f"{place}: exit code {ended.code}"] += 1
        if wrong := ended.fault or (None if ended.code == 2 else f"exit code {ended.code}"):
            faults.append(f"{name}: a folder that is {place}: {wrong}")
    return {"counts": dict(counts), "faults": faults}


def hold(base: Path, work: Path, name: str) -> dict[str, Any]:
    """Run a command where another run is at work: it says so, and changes nothing."""
    from trueplex.locks import lock

    series = Series(base, work, name)
    if name in UNHELD:
        return {"counts": {}, "faults": []}
    place, side = HELD.get(name, ("out", None))
    before = final(series.out)
    with lock(series.out / place, place == "out", side or ".lock"):
        ended = run(series.arguments)
    series.counts[f"exit code {ended.code}"] += 1
    series._note(
        ended.fault or (None if "is in use by process" in ended.err else f"two runs in one place: {ended.err[-300:]}")
    )
    if final(series.out).keys() != before.keys():
        series._note("changed what another run holds")
    return {"counts": dict(series.counts), "faults": series.faults}
