"""One results file of a study on a real model, from those that its commands wrote.

    python bench/real_bundle.py --model ./my-model --name my-model --under runs/real --out results/real/main.json PART=FILE …

Folders of runs and the model's place on the disk are left out of all names, and of evaluations what no page shows. A part
whose file is not there yet is named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from trueplex.evals.run import machine, readable
from trueplex.files import write_text

HEAVY = ("budget", "auroc_within_entropy", "best_minus_pass1")  # of an evaluation
CURVES = ("trajectories", "reliability", "along")
HELD_AGAINST = ("majority", "weighted", "weighted:entropy")


def shortened(value: Any, names: dict[str, str]) -> Any:
    """The same value with each of these texts replaced, in keys too."""
    if isinstance(value, dict):
        return {shortened(key, names): shortened(inner, names) for key, inner in value.items() if key != "checksum"}
    if isinstance(value, list):
        return [shortened(inner, names) for inner in value]
    if isinstance(value, str):
        for text, short in names.items():
            value = value.replace(text, short)
    return value


def slim(result: Any) -> Any:
    """An evaluation without what no page shows; anything else as it is."""
    for figures in result.get("suites", {}).values():
        for name in HEAVY:
            figures.pop(name, None)
        if "curves" in figures:
            figures["curves"] = {name: figures["curves"][name] for name in CURVES if name in figures["curves"]}
        if "pairs" in figures:
            figures["pairs"] = [p for p in figures["pairs"] if {p["one"], p["other"]} & set(HELD_AGAINST)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True, help="the model's name, as its users know it")
    parser.add_argument("--under", required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("parts", nargs="+", metavar="PART=FILE")
    given = parser.parse_args()
    names = {f"{given.under}/": "", given.model: given.name}
    parts = {}
    for part, _, file in (p.partition("=") for p in given.parts):
        if Path(file).exists():
            parts[part] = shortened(slim(json.loads(Path(file).read_text())), names)
        else:
            print(f"{part}: no {file} yet", file=sys.stderr)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(given.out, readable({"model": given.name, "machine": machine(), "parts": parts}) + "\n")


if __name__ == "__main__":
    main()
