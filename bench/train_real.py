"""Both trainers on a real model, each in a process of its own: seconds and peak memory.

    python bench/train_real.py --model ./my-model --data gsm8k-train.jsonl --out runs/train-real --results results/training-real.json

A policy learns by LoRA for a few steps from its own rollouts, and a verifier from stored traces: those of ``--rollouts``,
or traces that are rolled out here. `make train-real MODEL=…` is the same. An interrupted run is resumed by the same command;
its figures are then those of the part that ended it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import timed
from trueplex.errors import InputError
from trueplex.evals.run import machine
from trueplex.files import write_json


def run(*arguments: str) -> dict[str, Any]:
    """What a command of trueplex took; the seconds of the CPU do not count pauses. Raises InputError where it fails."""
    code, took = timed.run(*arguments)
    if code:
        raise InputError(f"trueplex {' '.join(arguments[:2])} ended with code {code}. Try: its message above")
    return took


def policy(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """LoRA, GRPO: the base in the checkpoint's precision, the adapters in float32."""
    figures = run(
        "train", "policy", "--model", given.model, "--data", given.data, "--validation", given.data, "--thinking", "discrete",
        "--problems", "200", "--val-problems", "2", "--val-samples", "1", "--steps", str(given.steps), "--prompts", "4",
        "--samples", "4", "--max-tokens", "200", "--rank", "16", "--lr", "1e-5", "--micro-tokens", "1024",
        "--every", str(given.steps), "--out", str(out / "policy"),
    )  # fmt: skip
    rows = [json.loads(line) for line in (out / "policy" / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "reward", "tokens", "truncated", "loss", "gradient", "drift", "silent", "seconds")
    return {**figures, "steps": [{name: row[name] for name in kept} for row in rows]}


def verifier(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The recipe's defaults, in small batches, under a memory budget."""
    rollouts = given.rollouts or str(out / "rollouts")
    if not given.rollouts:
        run("rollout", "--model", given.model, "--data", given.data, "--n", "40", "--samples", "8", "--thinking", "discrete",
            "--temperature", "0.6", "--max-tokens", "400", "--out", rollouts)  # fmt: skip
    figures = run(
        "train", "verifier", "--model", given.model, "--data", rollouts, "--traces", str(given.traces), "--batch", "8",
        "--memory", str(given.memory), "--every", "1000", "--out", str(out / "verifier"),
    )  # fmt: skip
    card = json.loads((out / "verifier" / "verifier.json").read_text())
    return {**figures, "traces": card["traces"], "memory_gib": given.memory, "validation": card["validation"]}


PARTS = {"policy": policy, "verifier": verifier}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--data", default="gsm8k-train", help="problems with answers, as `trueplex train policy --data` takes"
    )
    parser.add_argument(
        "--rollouts", help="a folder of `trueplex rollout` of the same model; else 40 problems are rolled out"
    )
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--traces", type=int, default=200)
    parser.add_argument("--memory", type=float, default=2.0, help="GiB that a pass of the verifier's training may take")
    parser.add_argument("--only", choices=PARTS, help="one part alone; the other's figures stay as they are")
    parser.add_argument("--out", type=Path, default=Path("runs/train-real"))
    parser.add_argument("--results", type=Path, default=Path("results/training-real.json"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = json.loads(given.results.read_text()) if given.results.exists() else {}
    found |= {"machine": machine(), "model": Path(given.model).name}
    for name in [given.only] if given.only else PARTS:
        found[name] = PARTS[name](given, given.out)
        write_json(given.results, found, indent=1)
    print(json.dumps({name: [found[name][key] for key in ("seconds", "peak_gib")] for name in PARTS if name in found}))
