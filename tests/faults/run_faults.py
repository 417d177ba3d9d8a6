"""The fault run: kills, flipped bits, cut-off files, full disks, read-only folders, wrong command lines. About 30 minutes.

    python tests/faults/run_faults.py --out results/faults.json

Nothing of it is allowed: a traceback, more than ten seconds without an end, a result that is silently another, a whole
record that is lost. ``--part`` runs some of it, and adds to what the file holds of the others.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import damage
import fuzz
import kills
import world

PARTS = ("damage", "fuzz", "kills", "disks", "folders")
SHORT: dict[str, Any] = {
    "part": ["damage", "fuzz", "kills", "folders"],
    "kills": 2,
    "flips": 20,
    "cuts": 12,
    "lines": 60,
    "problems": 4,
    "commands": ["solve", "rollout", "eval"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--kills", type=int, default=20, help="of each command")
    parser.add_argument("--flips", type=int, default=300, help="of each kind of file")
    parser.add_argument("--cuts", type=int, default=200, help="of each kind of file")
    parser.add_argument("--lines", type=int, default=5000, help="command lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="the world of an earlier run, or where to make it")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--problems", type=int, default=20, help="of stored traces")
    parser.add_argument("--commands", nargs="+", default=list(world.commands(Path(), Path())))
    parser.add_argument("--short", action="store_true", help="what CI runs, in seconds")
    options = parser.parse_args()
    if options.short:
        vars(options).update(SHORT)
    world.warm()
    from trueplex.evals.run import machine
    from trueplex.files import read_json, write_json
    from trueplex.models.load import load

    work = Path(tempfile.mkdtemp(prefix="faults-"))
    work.chmod(0o755)
    base = options.base or work / "base"
    if not (base / "made").exists():
        print("making the world:", world.build(base, options.commands, options.problems), flush=True)
    found: dict[str, Any] = read_json(options.out, dict[str, Any]) if options.out and options.out.exists() else {}
    for part in options.part or PARTS:
        began = time.monotonic()
        found[part] = _part(part, options, base, work, load)
        found[part]["seconds"] = round(time.monotonic() - began)
        print(json.dumps({part: found[part]}, indent=1), flush=True)
        if options.out:
            write_json(options.out, {"machine": machine(), **found}, indent=1)
    shutil.rmtree(work)
    sys.exit(any(found[part]["faults"] for part in options.part or PARTS))


def _part(part: str, options: argparse.Namespace, base: Path, work: Path, load: Any) -> dict[str, Any]:
    if part == "damage":
        return damage.damage(base, work / "damage", load(), options.flips, options.cuts, options.seed)
    if part == "fuzz":
        return fuzz.fuzz(base, work / "fuzz", options.lines, options.seed)
    by_command, faults = {}, []
    for name in options.commands:
        if part == "kills":
            one = kills.kill(base, work / "kills", name, options.kills, min(5, options.kills), options.seed)
        elif part == "disks":
            one = kills.fill(base, work / "disks", name, 1 if options.short else 4, options.seed)
        else:
            one = kills.forbid(base, work / "folders", name)
        by_command[name] = one["counts"]
        faults += one["faults"]
        print(part, name, one, flush=True)
    return {"commands": by_command, "faults": faults}


if __name__ == "__main__":
    main()
