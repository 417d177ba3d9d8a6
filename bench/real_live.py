"""Accuracy against seconds on a real model: whole runs, a problem at a time; `make real-live`, on an idle machine.

    python bench/real_live.py --model ./my-model --verifier ./my-verifier --suite gsm8k --n 20 --paths 8 16 32 --runs runs/real/live --out FILE

Majorities over each number of paths, and over the largest the weighted vote and pruning policies; probes, scheduling and votes
are counted. Each is held against a plain majority that is given the same seconds, between two numbers of paths on a straight
line. An interrupted run is resumed by the same command.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.data.suites import problems_of
from trueplex.decide import pruning
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.evals.budget import Spent, at_budget
from trueplex.evals.metrics import figure, paired
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.grading.answers import grade
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Solved, stream
from trueplex.solving.settings import Settings
from trueplex.types import Problem
from trueplex.verify.open import open_scorer

POLICIES = ("none", "half:16/4", "half:32/4", "keep-top:8@64", "auto", "half:32/4+auto")
EVERY = 16  # tokens between scores, where no policy asks for others


def methods(paths: Sequence[int]) -> dict[str, Settings]:
    """Runs by name, those without a verifier first."""
    plain = {f"majority of {n}": Settings(paths=n, verifier="none", select="majority") for n in paths}
    most = max(paths)
    return plain | {
        f"weighted of {most}, {policy}": Settings(paths=most, prune=policy, probe_every=pruning.parse(policy).stride or EVERY)
        for policy in POLICIES
    }  # fmt: skip


def solve(backbone: Backbone, problem: Problem, settings: Settings, verifier: str) -> dict[str, Any]:
    """Seconds, tokens with probes, and whether the answer is right."""
    scorer = None if settings.verifier == "none" else open_scorer(backbone, verifier, settings.probe_every)
    started = time.perf_counter()
    (solution,) = [e.solution for e in stream(backbone, [problem], settings, scorer) if isinstance(e, Solved)]
    seconds = time.perf_counter() - started
    right = solution.answer is not None and grade(solution.answer, problem.answers or ()).correct is True
    tokens = sum(t.tokens + t.probe_tokens for t in solution.traces)
    return {"seconds": round(seconds, 3), "tokens": tokens, "right": float(right)}


def compared(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of each method its means, and its difference to a majority that takes as long."""
    spent = {name: Spent(*(np.array([r[key] for r in of]) for key in ("right", "seconds"))) for name, of in rows.items()}  # fmt: skip
    plain = [s for name, s in spent.items() if name.startswith("majority")]
    out = {}
    for name, own in spent.items():
        same = at_budget(plain, own.tokens.mean())
        out[name] = {
            "right": figure(own.right.tolist()), "seconds": figure(own.tokens.tolist()),
            "tokens": figure([float(r["tokens"]) for r in rows[name]]),
            "minus majority of the same seconds": None if same is None or name.startswith("majority") else paired(own.right.tolist(), same.tolist()),
        }  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", default="", help="the model's name, as its users know it")
    parser.add_argument("--verifier", required=True)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--paths", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--runs", type=Path, required=True, help="folder where what is done is kept")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    backbone = load(given.model)
    thinking = Thinking("discrete", sampling=Sampling(given.temperature), ending=Ending(given.max_tokens))
    problems = problems_of(given.suite, None, given.n, 0)
    given.runs.mkdir(parents=True, exist_ok=True)
    log = given.runs / "records.jsonl"
    done = (
        {(r["method"], r["problem"]): r for r in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    )
    asked = {name: replace(s, thinking=thinking, rows=max(given.paths)) for name, s in methods(given.paths).items()}
    solve(backbone, problems[0], replace(asked[next(iter(asked))], thinking=replace(thinking, ending=Ending(8))), "")
    for number, problem in enumerate(problems):
        for name, settings in asked.items():
            if (name, problem.text) not in done:
                row = {"method": name, "problem": problem.text, **solve(backbone, problem, settings, given.verifier)}
                done[name, problem.text] = row
                with log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        print(f"{number + 1} of {len(problems)} problems", flush=True)
    rows = {name: [done[name, p.text] for p in problems] for name in asked}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, {"model": given.name, "machine": machine(), "suite": Path(given.suite).stem, "problems": len(problems),
                           "methods": compared(rows)}, indent=1)  # fmt: skip


if __name__ == "__main__":
    main()
