"""Ways to think on a real model, after `make real-modes`: the best temperature of a mode, and one results file.

    python bench/real_modes.py --runs runs/real/modes --best multiplex3
    python bench/real_modes.py --runs runs/real/modes --name "Qwen2.5-Coder-0.5B-Instruct" --out results/real/modes.json

A folder of the runs is an evaluation, named MODE-TEMPERATURE. Modes are compared three ways, paired by problem: at each
temperature; each at its own best one, which is chosen on the problems of even places for those of odd places, and the other
way round, so that no problem is judged by a choice that it took part in; and at equal mean entropy of the steps, between the
temperatures on straight lines (`trueplex.evals.budget`). A limit on length is read off the stored traces: one that is longer
counts as wrong, as it would with that --max-tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.data.traces import read_traces
from trueplex.evals.budget import Spent, at_budget
from trueplex.evals.metrics import figure, paired
from trueplex.evals.run import machine
from trueplex.files import write_json

Figures = dict[str, Any]  # of one suite, as `trueplex eval` wrote them
ENTROPIES = (0.25, 0.5, 0.75)  # where modes are compared, as shares of the range of entropies that both cover
LIMITS = 8  # lengths at which accuracy is read
KEPT = ("problems", "samples", "pass", "tokens", "truncated", "entropy", "explored", "methods", "ids", "right")
MAIN, AGAINST = "multiplex3", "discrete"


def runs_of(folder: Path) -> dict[str, dict[str, Figures]]:
    """Figures by mode and temperature, each with its configuration and its folder of traces."""
    found: dict[str, dict[str, Figures]] = {}
    for path in sorted(folder.glob("*/results.json")):
        result = json.loads(path.read_text())
        (suite, figures), *_ = result["suites"].items()
        mode, _, temperature = path.parent.name.partition("-")
        found.setdefault(mode, {})[temperature] = figures | {
            "config": result["config"],
            "suite": suite,
            "traces": path.parent / suite,
        }
    return found


def per_problem(figures: Figures, metric: str) -> dict[str, float]:
    """By problem, how often one trace is right (``one``), or whether the vote of all is (``majority``)."""
    if metric == "majority":
        return dict(zip(figures["ids"], figures["votes"]["majority"], strict=True))
    return {key: right / figures["samples"] for key, right in zip(figures["ids"], figures["right"], strict=True)}


def best(by_temperature: Mapping[str, Figures]) -> str:
    """The temperature at which one trace is right most often."""
    return max(by_temperature, key=lambda t: np.mean(list(per_problem(by_temperature[t], "one").values())))


def own_best(by_temperature: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Values [P] of each problem at the temperature that is best on the problems of the other half, and both choices."""
    values = np.empty(len(next(iter(by_temperature.values()))))
    chosen = []
    for half in (0, 1):
        chosen.append(max(by_temperature, key=lambda t: by_temperature[t][1 - half :: 2].mean()))
        values[half::2] = by_temperature[chosen[-1]][half::2]
    return values, chosen


def compare(one: Mapping[str, Figures], other: Mapping[str, Figures], metric: str) -> dict[str, Any]:
    """One mode against another, on the problems that all their runs have."""
    runs = [*one.values(), *other.values()]
    shared = [key for key in runs[0]["ids"] if all(key in f["ids"] for f in runs)]
    sides = []
    for mode in (one, other):
        told = {t: per_problem(f, metric) for t, f in mode.items()}
        sides.append({t: np.array([values[key] for key in shared]) for t, values in told.items()})
    out: dict[str, Any] = {"problems": len(shared), "at": {
        t: paired(sides[0][t].tolist(), sides[1][t].tolist()) for t in one if t in other
    }}  # fmt: skip
    if len(shared) > 1:
        (left, left_at), (right, right_at) = map(own_best, sides)
        out["own best"] = {**paired(left.tolist(), right.tolist()), "at": [left_at, right_at]}
    spent = [
        [Spent(values, np.full(len(values), mode[t]["entropy"]["mean"])) for t, values in side.items()]
        for mode, side in zip((one, other), sides, strict=True)
    ]
    return out | {"entropy": _at_entropies(spent[0], spent[1])}


def _at_entropies(one: Sequence[Spent], other: Sequence[Spent]) -> list[dict[str, Any]]:
    """Differences at mean entropies that the temperatures of both modes enclose; none where they enclose no common ones."""
    ranges = [[s.tokens.mean() for s in side] for side in (one, other)]
    low, high = max(map(min, ranges)), min(map(max, ranges))
    if min(len(one), len(other)) < 2 or low >= high:
        return []
    out = []
    for share in ENTROPIES:
        entropy = low + share * (high - low)
        left, right = at_budget(one, entropy), at_budget(other, entropy)
        assert left is not None and right is not None
        out.append({"entropy": round(float(entropy), 4), **paired(left.tolist(), right.tolist())})
    return out


def limited(figures: Figures) -> list[dict[str, Any]]:
    """How often one trace is right within so many tokens."""
    traces = [t for t, _ in read_traces(figures["traces"])]
    most = figures["config"]["max_tokens"]
    out = []
    for limit in sorted({round(most * step / LIMITS) for step in range(1, LIMITS + 1)}):
        by_problem: dict[int, list[bool]] = {}
        for t in traces:
            by_problem.setdefault(t.problem.key, []).append(t.correct is True and t.tokens <= limit)
        out.append({"tokens": limit, **(figure([float(np.mean(right)) for right in by_problem.values()]) or {})})
    return out


def gather(folder: Path, name: str) -> dict[str, Any]:
    found = runs_of(folder)
    config = found[AGAINST][min(found[AGAINST])]["config"]
    runs = {
        f"{mode}-{t}" if t else mode: {
            "mode": mode, "temperature": f["config"]["sampling"]["temperature"],
            **{key: f[key] for key in KEPT}, "limits": limited(f),
        }
        for mode, by_temperature in found.items() for t, f in by_temperature.items()
    }  # fmt: skip
    kept = ("fingerprint", "device", "dtype", "max_tokens", "seed", "answer")
    suite = found[AGAINST][min(found[AGAINST])]["suite"]
    return {
        "model": name, "machine": machine(), "suite": suite, "config": {key: config[key] for key in kept}, "runs": runs,
        "against": AGAINST,
        "compared": {
            mode: {metric: compare(by_temperature, found[AGAINST], metric) for metric in ("one", "majority")}
            for mode, by_temperature in found.items() if mode != AGAINST
        },
        "width": {
            mode: {metric: compare(by_temperature, {t: found[MAIN][t] for t in by_temperature}, metric) for metric in ("one", "majority")}
            for mode, by_temperature in found.items() if MAIN in found and mode not in (AGAINST, MAIN) and set(by_temperature) <= set(found[MAIN])
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of evaluations, MODE-TEMPERATURE")
    parser.add_argument(
        "--best", metavar="MODE", help="only print the temperature at which this mode is right most often"
    )
    parser.add_argument("--name", default="", help="the model's name, as its users know it")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.best:
        found = runs_of(given.runs)
        if given.best not in found:
            sys.exit(f"{given.runs} holds no evaluation of {given.best}. Try: make real-modes")
        print(best(found[given.best]))
        return
    result = gather(given.runs, given.name)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.out, result, indent=1)
    for mode, compared in result["compared"].items():
        print(mode, "against", AGAINST, json.dumps(compared["one"]))


if __name__ == "__main__":
    main()
