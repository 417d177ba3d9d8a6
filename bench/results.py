"""Measure every results file that the pages show, in order, and write the pages; `make results` calls this.

    python bench/results.py             what this version has not measured yet; run it again after an interruption
    python bench/results.py measure     the same, of the stages that are named
    python bench/results.py --list      what there is, which version measured it, and what is left to do
    python bench/results.py --adopt hybrid "make hybrid"    take in what this version measured by that command, outside `make results`

A stage is a target of the Makefile and the files that it writes. It is done when `results/manifests.json` says that this
version measured these very bytes. Targets are resumable
themselves, so a kill costs little; their traces are in `runs/VERSION`, apart from those of other versions. An entry of a manifest has:
version, command, date, seconds (null where it was adopted), `problems` (a hash of the texts that were asked) and `sha256` of the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cells import RESULTS, ROOT, made_by
from trueplex import __version__
from trueplex.files import write_json

MANIFESTS = RESULTS / "manifests.json"


@dataclass(frozen=True)
class Stage:
    """A target of the Makefile, what it writes, and the seconds that it takes on two idle cores, roughly."""

    target: str
    files: tuple[str, ...]
    seconds: float


STAGES = (
    Stage("bench", ("speed.json", "modes-speed.json", "probes.json", "learning-speed.json"), 1800),
    Stage("measure", ("reference-discrete.json", "reference-multiplex.json"), 3600),
    Stage("calibration", ("calibration.json",), 3600),
    Stage("deciding", ("deciding.json",), 600),
    Stage("deciding-live", ("deciding-live.json", "deciding-queue.json"), 1800),
    Stage("fresh", ("deciding-fresh.json",), 2400),
    Stage("scorers", ("scorers-discrete.json", "scorers-multiplex.json"), 14400),
    Stage("verifier-study", ("verifier-study.json",), 14400),
    Stage("thinking", ("study/*.json",), 3600),
    Stage("study-rl", ("learning/*.json", "learning/start/*.json"), 10800),
    Stage("policy-test", ("reference-multiplex-policy.json",), 300),
    Stage("hybrid", ("hybrid.json",), 2700),
)


def files(stage: Stage) -> list[Path]:
    return sorted(path for pattern in stage.files for path in RESULTS.glob(pattern))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def problems(value: Any) -> Iterator[str]:
    """The keys of the problems that a results file asked, in its order: hashes of their texts."""
    if isinstance(value, dict):
        ids = value.get("ids")
        if isinstance(ids, list):
            yield from (str(key) for entry in ids for key in (entry if isinstance(entry, list) else [entry]))
        for inner in value.values():
            yield from problems(inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from problems(inner)


def manifest(path: Path, command: str, seconds: float | None) -> dict[str, Any]:
    asked = list(problems(json.loads(path.read_text())))
    return {
        "version": __version__, "command": command, "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": None if seconds is None else round(seconds), "problems": hashlib.sha256("\n".join(asked).encode()).hexdigest() if asked else None,
        "sha256": digest(path),
    }  # fmt: skip


def known() -> dict[str, Any]:
    return json.loads(MANIFESTS.read_text()) if MANIFESTS.exists() else {}


def done(stage: Stage, manifests: dict[str, Any]) -> bool:
    """Whether this version measured all files of a stage, and they are as it left them."""
    found = files(stage)
    entries = [manifests.get(str(path.relative_to(RESULTS)), {}) for path in found]
    return bool(found) and all(
        e.get("version") == __version__ and e.get("sha256") == digest(p) for e, p in zip(entries, found, strict=True)
    )


def measure(stage: Stage) -> None:
    """Run a stage and write its manifests. Exits where the target fails."""
    command, began = ["make", stage.target, f"RUNS=runs/{__version__}"], time.monotonic()
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(f"make {stage.target} failed. Try: look at its messages; make results goes on from there")
    record(stage, " ".join(command), time.monotonic() - began)


def record(stage: Stage, command: str, seconds: float | None) -> None:
    write_json(
        MANIFESTS, known() | {str(path.relative_to(RESULTS)): manifest(path, command, seconds) for path in files(stage)}
    )


def adopt(stage: Stage, command: str) -> None:
    """Write the manifests of files that were measured by a command of one's own; each must say itself that this version did."""
    for path in files(stage):
        made = made_by(json.loads(path.read_text()))
        if made != __version__:
            sys.exit(f"{path.name} was measured by {made}, not by {__version__}. Try: make {stage.target}")
    record(stage, command, None)


def main(stages: tuple[Stage, ...] = STAGES) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="only these: " + ", ".join(s.target for s in stages))
    parser.add_argument("--adopt", nargs=2, metavar=("STAGE", "COMMAND"), help="what was measured by another command")
    given = parser.parse_args()
    if unknown := {*given.stages, *(given.adopt or ())[:1]} - {stage.target for stage in stages}:
        parser.error(f"there is no stage {min(unknown)!r}")
    if given.adopt:
        name, command = given.adopt
        adopt(next(stage for stage in stages if stage.target == name), command)
        return
    only, stages = given.list, tuple(s for s in stages if s.target in given.stages or not given.stages)
    left = [stage for stage in stages if not done(stage, known())]
    for stage in stages:
        print(f"{'to do' if stage in left else 'done':6} {stage.target:12} {', '.join(stage.files)}")
    for number, stage in enumerate(() if only else left):
        hours = sum(s.seconds for s in left[number:]) / 3600
        print(f"stage {number + 1} of {len(left)}: make {stage.target}; about {hours:.1f} hours left", flush=True)
        measure(stage)
    if not only:
        for page in ("tables.py", "learning.py --page"):
            if subprocess.run([sys.executable, *f"bench/{page}".split()], cwd=ROOT, check=False).returncode:
                sys.exit("the pages are as they were. Try: make results, when all stages of a table are measured")


if __name__ == "__main__":
    main()
