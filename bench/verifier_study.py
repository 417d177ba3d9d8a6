"""Collect the verifiers of `make verifier-study`: what each single change of the recipe gains on validation.

    python bench/verifier_study.py --runs runs/verifier-study --out results/verifier-study.json

All verifiers learned from the same traces; the figures are those on their cards, for the same validation problems.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trueplex.evals.run import machine
from trueplex.files import write_json

PLAIN = "otv"  # one token, ramp, mean squared error, rank 16: what the others are held against


def read(runs: Path) -> dict[str, Any]:
    """Of every finished verifier: what its recipe changes, what it learned from, and its figures."""
    cards = {path.parent.name: json.loads(path.read_text()) for path in sorted(runs.glob("*/verifier.json"))}
    plain = cards.get(PLAIN, next(iter(cards.values())))["recipe"]
    return {
        name: {
            "changed": {k: v for k, v in card["recipe"].items() if v != plain.get(k)},
            "traces": card["traces"],
            "validation": {k: round(v, 4) for k, v in card["validation"].items()},
        }
        for name, card in cards.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the verifiers")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    options = parser.parse_args()
    found = read(options.runs)
    shown = ("within_auroc@0.25", "within_auroc@0.5", "within_auroc@0.75", "within_auroc@1.0", "ece@1.0", "brier@1.0")
    table = Table("verifier", "changed", *shown)
    for name, one in found.items():
        changed = ", ".join(f"{k} {v}" for k, v in one["changed"].items())
        table.add_row(name, changed, *(f"{one['validation'][k]:.3f}" for k in shown))
    Console(width=150).print(table)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"machine": machine(), "verifiers": found}, indent=1)


if __name__ == "__main__":
    main()
