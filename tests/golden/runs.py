"""What version 0.2 made of fixed commands, as plain figures: the embedded model must go on making the same.

    python tests/golden/runs.py OUT.json     # the figures of the trueplex that is installed

Each run is a command line of `RUNS`; its figures are every path's end, score and draws, and every vote.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

EASY, HARD, COUNT = "chain-easy", "remainder-hard", "countdown-easy"
SOLVE = {
    "default": (EASY, "--paths 8"),
    "pruned": (HARD, "--paths 16 --prune half:32"),
    "discrete-auto": (COUNT, "--paths auto:16 --thinking discrete --max-tokens 200"),
    "soft": (EASY, "--paths 3 --thinking soft --answer-temperature 0.7"),
    "gumbel": (EASY, "--paths 4 --thinking stochastic-soft --width 5 --strength 0.5"),
    "dirichlet": (HARD, "--paths 4 --thinking stochastic-soft --noise dirichlet --top-k 12"),
    "mean": (HARD, "--paths 6 --width 2 --merge mean --without-replacement --top-p 0.9 --answer-temperature 0.5"),
    "limits": (COUNT, "--paths 6 --think-tokens 60 --max-tokens 90 --cold-entropy 0.01 --cold-steps 12 --stop . --min-p 0.01"),
    "deepconf": (EASY, "--paths 12 --verifier deepconf:lowest@16 --prune deepconf:low@32/4 --probe-every 16"),
    "alarms": (HARD, "--paths 8 --alarm under:0.6@48 --alarm fall:0.3@32=problem --probe-every 16 --select best"),
    "budget": (COUNT, "--paths 8 --budget-tokens 1500 --select weighted:2"),
    "floor": (COUNT, "--paths 12 --prune floor:0.3+keep:0.5@40/3 --probe-every 8 --max-tokens 160"),
    "consensus": (EASY, "--paths 16 --prune consensus:0.6+drop:2@24/4 --probe-every 12 --select top:0.5"),
    "learned": (EASY, "--paths 6 --model reference-multiplex --seed 5 --abstain-below 0.9"),
}  # fmt: skip


def _run(arguments: list[str], given: str = "") -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "trueplex", *arguments], input=given, capture_output=True, text=True, env=environment
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def draws(path: Path) -> dict[str, str]:
    """Problem and trace index → a name for its ids and its weights rounded, as a store holds them."""
    found = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        content = json.dumps([row["ids"], [round(w, 3) for w in row["weights"]]])
        found[f"{row['id']} {row['index']}"] = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
    return dict(sorted(found.items()))


def solved(name: str, run: Any = _run) -> dict[str, Any]:
    """The figures of one `trueplex solve`."""
    suite, options = SOLVE[name]
    with tempfile.TemporaryDirectory() as folder:
        problems = run(["problems", suite, "--split", "validation", "--n", "2"])
        file, store = Path(folder, "problems.jsonl"), Path(folder, "traces.jsonl")
        file.write_text(problems)
        out = run(["solve", f"@{file}", *options.split(), "--json", "--quiet", "--save", str(store)])
        solutions = [json.loads(line) for line in out.splitlines()]
        return {"problems": [_figures(s) for s in solutions], "draws": draws(store)}


def _figures(solution: dict[str, Any]) -> dict[str, Any]:
    paths = [
        [
            p["index"],
            p["status"],
            p["reason"],
            p["tokens"],
            None if p["score"] is None else round(p["score"], 3),
            p["answer"],
        ]
        for p in solution["paths"]
    ]
    votes = [[v["answer"], round(v["weight"], 2), v["paths"]] for v in solution["votes"]]
    return {"answer": solution["answer"], "votes": votes, "usage": solution["usage"], "paths": paths}


def evaluated(run: Any = _run) -> dict[str, Any]:
    """The figures of a small `trueplex eval`: everything in results.json but versions, seconds and machines."""
    with tempfile.TemporaryDirectory() as folder:
        run(["eval", "--suite", EASY, "--n", "4", "--samples", "8", "--quiet", "--out", folder,
             "--methods", "majority,weighted,best,weighted~half:32"])  # fmt: skip
        return json.loads(Path(folder, "results.json").read_text())["suites"]


if __name__ == "__main__":
    figures = {"solve": {name: solved(name) for name in SOLVE}, "eval": evaluated()}
    Path(sys.argv[1]).write_text(json.dumps(figures, indent=0))
