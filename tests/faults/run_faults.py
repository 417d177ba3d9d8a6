"""The fault run: kills, full disks, read-only folders, second runs, damaged files, wrong command lines. About 40 idle minutes.

    python tests/faults/run_faults.py --out results/faults.json

Nothing of it is allowed: a traceback, a command that hangs, a result that is silently another, a whole record that is
lost. A hang is more than `world.HANG` seconds of the processor for a wrong command line, `world.LONG` for a whole command,
or `world.IDLE` seconds without using it: other work on the machine makes none. ``--out`` is written after every step, and a step that it holds at the same size, without a fault,
is not taken again: an interrupted run goes on, and one whose faults were mended repeats what had them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import damage
import fuzz
import kills
import world

PARTS = ("kills", "disks", "folders", "locks", "damage", "fuzz")
BLOCK = 250  # command lines of a step
SHORT: dict[str, Any] = {
    "kills": 2,
    "flips": 20,
    "cuts": 12,
    "lines": 60,
    "fills": 1,
    "problems": 4,
    "commands": ["solve", "rollout", "eval"],
}
Step = tuple[str, dict[str, int], Callable[[], dict[str, Any]]]  # its name, how much is asked of it, what does it


def main() -> None:
    options = asked()
    world.warm()
    from trueplex.evals.run import machine
    from trueplex.files import read_json, write_json

    work = Path(tempfile.mkdtemp(prefix="faults-"))
    work.chmod(0o755)
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")  # the digests of this run alone
    base = options.base or work / "base"
    if not (base / "made").exists():
        print("making the world:", world.build(base, options.commands, options.problems), flush=True)
    found: dict[str, Any] = read_json(options.out, dict[str, Any]) if options.out and options.out.exists() else {}
    for part in options.part or PARTS:
        for name, size, act in steps(part, options, base, work):
            done = found.setdefault(part, {}).get(name)
            if done and done["asked"] == size and not done["faults"]:
                continue
            began, load = time.monotonic(), os.getloadavg()[0]
            taken = {"asked": size, **act(), "seconds": round(time.monotonic() - began), "load": round(load, 1)}
            found[part][name] = taken
            print(part, name, json.dumps(taken), flush=True)
            found |= {"machine": machine(), "total": total(found)}
            if options.out:
                write_json(options.out, found, indent=1)
    shutil.rmtree(work)
    print(json.dumps(total(found)))
    sys.exit(total(found)["faults"] > 0)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--kills", type=int, default=15, help="of each command")
    parser.add_argument("--fills", type=int, default=4, help="full disks of each command")
    parser.add_argument("--flips", type=int, default=300, help="of each kind of file")
    parser.add_argument("--cuts", type=int, default=200, help="of each kind of file")
    parser.add_argument("--lines", type=int, default=5000, help="command lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="the world of an earlier run, or where to make it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--problems", type=int, default=20, help="of stored traces")
    parser.add_argument("--commands", nargs="+", default=list(world.commands(Path(), Path())))
    parser.add_argument("--kinds", nargs="+", help="of files")
    parser.add_argument("--short", action="store_true", help="the short form, a minute or two")
    options = parser.parse_args()
    if options.short:
        vars(options).update(SHORT)
    return options


def steps(part: str, options: argparse.Namespace, base: Path, work: Path) -> Iterator[Step]:
    """The steps of a part."""
    if part == "damage":
        from trueplex.models.load import load

        size = {"flips": options.flips, "cuts": options.cuts}
        for name, kind in damage.kinds(base, load()).items():
            if name in (options.kinds or [name]):
                act = partial(
                    damage.damaged_in, base, work / part, name, kind, options.flips, options.cuts, options.seed
                )
                yield name, size, act
    elif part == "fuzz":
        for first in range(0, options.lines, BLOCK):
            lines = min(BLOCK, options.lines - first)
            yield (
                f"lines from {first}",
                {"lines": lines},
                partial(fuzz.fuzz, base, work / part, lines, f"{options.seed} {first}"),
            )
    else:
        ways: dict[str, tuple[dict[str, int], Callable[[str], dict[str, Any]]]] = {
            "kills": ({"kills": options.kills}, lambda name: kills.kill(base, work / part, name, options.kills, min(5, options.kills), options.seed)),
            "disks": ({"fills": options.fills}, lambda name: kills.fill(base, work / part, name, options.fills, options.seed)),
            "folders": ({}, lambda name: kills.forbid(base, work / part, name)),
            "locks": ({}, lambda name: kills.hold(base, work / part, name)),
        }  # fmt: skip
        for name in options.commands:
            yield name, ways[part][0], partial(ways[part][1], name)


def total(found: dict[str, Any]) -> dict[str, int]:
    """How much was done of everything, and the faults."""
    steps = [step for part in PARTS for step in found.get(part, {}).values()]
    return {
        "kills": sum(step["counts"].get("killed", 0) for step in found.get("kills", {}).values()),
        **{what: sum(step["asked"].get(what, 0) for step in steps) for what in ("flips", "cuts", "lines")},
        "faults": sum(len(step["faults"]) for step in steps),
    }


if __name__ == "__main__":
    main()
