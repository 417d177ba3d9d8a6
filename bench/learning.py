"""Gather a training run and its test into results/learning/NAME.json, and draw the page from those files.

    python bench/learning.py --run runs/learning/k3-0     after training, and after `trueplex eval` into its test folder
    python bench/learning.py --speed                      rollouts against pure decoding, into results/learning-speed.json; wants
                                                          an idle machine
    python bench/learning.py --page                       docs/learning.png and the tables in docs/learning.md
    python bench/learning.py --check                      exit 1 when the tables are not what the files say

No number on the page is typed by hand. The start of every run is the embedded model on the same test problems, by
`make start-k1 start-k3`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cells import ROOT, made_by, measured, read_all, table
from claims import same_problems
from trueplex.data.embedded import tasks
from trueplex.data.embedded.tasks import SUITES
from trueplex.engine import grow
from trueplex.engine.thinking import Thinking
from trueplex.evals.metrics import pass_at
from trueplex.evals.run import machine, write_results
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.train.grpo.sampling import sample

FOLDER = ROOT / "results" / "learning"
SPEED = ROOT / "results" / "learning-speed.json"
PAGE, PICTURE = ROOT / "docs" / "learning.md", ROOT / "docs" / "learning.png"
BEGIN, END = "<!-- results: written by bench/learning.py -->", "<!-- end of results -->"
CURVES = ("reward", "right", "tokens", "truncated", "entropy", "joint_entropy", "explored", "duplicates", "gradient")
JUDGED = ("right", "error", "tokens", "truncated", "entropy", "explored")
ENDS = 5  # steps averaged for the figures at a run's start and end
KS = (1, 4, 16, 64)
STARTS = {"discrete": "k1", "K = 3": "k3"}  # the ways of thinking whose start was tested
SMOOTH = 9  # steps
# Okabe and Ito's palette, which colour-blind readers can tell apart; each width also has a line style of its own.
STYLES = {
    "discrete": ("#0072B2", "-"), "K = 2": ("#CC79A7", "-."), "K = 3": ("#D55E00", "--"), "K = 6": ("#009E73", ":"),
    "K = 3, mean": ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
}  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def gather(run: Path, into: Path) -> None:
    """One run as a results file in the folder `into`; its test figures where it was tested."""
    recipe = json.loads((run / "recipe.json").read_text())
    steps, judged = lines(run / "metrics.jsonl"), lines(run / "validation.jsonl")
    test = run / "test" / "results.json"
    seconds = {part: float(np.median([s["seconds"].get(part, 0.0) for s in steps])) for part in steps[0]["seconds"]}
    result = {
        "run": recipe,
        "machine": machine(),
        "steps": len(steps),
        "rollouts": int(sum(s["traces"] for s in steps)),
        "tokens": int(sum(s["tokens"] * s["traces"] for s in steps)),
        "skipped": steps[-1]["skipped"],
        "silent": steps[-1]["silent"],
        "median seconds a step": {part: round(value, 2) for part, value in seconds.items()},
        "entropy_reduction": reduction([s["entropy"] for s in steps]),
        "curves": {name: [round(s[name], 5) for s in steps] for name in CURVES},
        "validation": {"step": [j["step"] for j in judged]} | {n: [round(j[n], 5) for j in judged] for n in JUDGED},
        "alarms": lines(run / "alarms.jsonl"),
        "test": json.loads(test.read_text()) if test.exists() else None,
    }
    write_results(result, into / run.name)
    (into / run.name / "results.json").replace(into / f"{run.name}.json")
    (into / run.name).rmdir()


def reduction(entropies: list[float]) -> float:
    """(H_start − H_end) / H_start, each the mean of a few steps."""
    start, end = float(np.mean(entropies[:ENDS])), float(np.mean(entropies[-ENDS:]))
    return round((start - end) / start, 4)


def way(result: dict[str, Any]) -> str:
    thinking = result["run"]["recipe"]["thinking"]
    if thinking["mode"] == "discrete":
        return "discrete"
    mean = ", mean" if thinking["merge"] == "mean" else ""
    return f"K = {thinking['width'] or 3}{mean}"


def over_suites(
    test: dict[str, Any], k: int, before: dict[str, Any] | None = None, draws: int = 2000
) -> dict[str, float]:
    """pass@k as the mean over suites, or what it has gained, with a bootstrap interval over the problems of each."""
    rng, means, drawn = np.random.default_rng(0), [], np.zeros(draws)
    for suite, figures in test["suites"].items():
        values = np.array([pass_at(figures["samples"], right, k) for right in figures["right"]])
        if before:
            first = before["suites"][suite]
            assert same_problems(first, figures), suite
            values -= [pass_at(first["samples"], right, k) for right in first["right"]]
        means.append(values.mean())
        drawn += values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    drawn /= len(means)
    return {
        "mean": float(np.mean(means)),
        "low": float(np.quantile(drawn, 0.025)),
        "high": float(np.quantile(drawn, 0.975)),
    }


def percent(figure: dict[str, float]) -> str:
    return f"{100 * figure['mean']:.1f} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def results() -> dict[str, dict[str, Any]]:
    order = list(STYLES)
    return dict(
        sorted(
            read_all("learning").items(), key=lambda item: (order.index(way(item[1])), item[1]["run"]["recipe"]["seed"])
        )
    )


def start(way: str) -> dict[str, Any] | None:
    """The embedded model on the same test problems, before any learning."""
    name = STARTS.get(way)
    return json.loads((FOLDER / "start" / f"{name}.json").read_text()) if name else None


def test_tables(found: dict[str, dict[str, Any]]) -> str:
    """pass@k over all suites, and pass@1 by suite, before and after."""
    tested = {name: r for name, r in found.items() if r["test"]}
    if not tested:
        return "No run has been tested yet."
    rows, suites = [], list(next(iter(tested.values()))["test"]["suites"])
    by_suite = []
    for kind in STARTS:
        test = start(kind)
        assert test is not None
        rows.append([f"before, {kind}", *(percent(over_suites(test, k)) for k in KS), "", tokens(test), entropy(test)])
        by_suite.append([f"before, {kind}", *(percent(test["suites"][s]["pass"]["1"]) for s in suites)])
    for r in tested.values():
        name = f"**{way(r)}**, seed {r['run']['recipe']['seed']}"
        first = start(way(r))
        alike = first and all(same_problems(first["suites"][s], f) for s, f in r["test"]["suites"].items())
        gained = percent(over_suites(r["test"], 1, first)) if alike else ""  # one may be regenerated before the other
        rows.append(
            [name, *(percent(over_suites(r["test"], k)) for k in KS), gained, tokens(r["test"]), entropy(r["test"])]
        )
        by_suite.append([name, *(percent(r["test"]["suites"][s]["pass"]["1"]) for s in suites)])
    return "\n\n".join([
        table(["test, mean over suites", *(f"pass@{k}" for k in KS), "gained at 1", "tokens", "entropy"], rows),
        table(["test, pass@1", *suites], by_suite),
    ])  # fmt: skip


def tokens(test: dict[str, Any]) -> str:
    return f"{np.mean([f['tokens']['mean'] for f in test['suites'].values()]):.0f}"


def entropy(test: dict[str, Any]) -> str:
    return f"{np.mean([f['entropy']['mean'] for f in test['suites'].values()]):.3f}"


def run_table(found: dict[str, dict[str, Any]]) -> str:
    """One line a run: its cost and its progress."""
    rows = []
    for r in found.values():
        judged, curves = r["validation"], r["curves"]
        first, last = ({n: judged[n][i] for n in JUDGED} for i in (0, -1))
        start, end = (
            {n: float(np.mean(part)) for n, part in ((n, curves[n][s]) for n in ("reward", "tokens", "entropy"))}
            for s in (slice(ENDS), slice(-ENDS, None))
        )
        rows.append([
            way(r), str(r["run"]["recipe"]["seed"]), f"{r['steps']}", f"{r['rollouts']:,}", f"{r['tokens'] / 1e6:.2f} M",
            f"{100 * first['right']:.1f} ± {100 * first['error']:.1f}", f"{100 * last['right']:.1f} ± {100 * last['error']:.1f}",
            f"{100 * (last['right'] - first['right']):+.1f}", f"{start['tokens']:.0f} → {end['tokens']:.0f}",
            f"{start['entropy']:.3f} → {end['entropy']:.3f}", f"{100 * r['entropy_reduction']:.1f} %",
        ])  # fmt: skip
    head = ["thinking", "seed", "steps", "rollouts", "tokens", "validation pass@1, start", "end", "rise", "tokens a rollout",
            "entropy", "entropy reduction"]  # fmt: skip
    return table(head, rows)


def smooth(values: list[float]) -> np.ndarray:
    """A centred running mean, shorter at the ends."""
    half = SMOOTH // 2
    return np.array([np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def draw(found: dict[str, dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (("validation", "pass@1 on validation, %"), ("reward", "reward of the rollouts"),
              ("tokens", "tokens a rollout"), ("entropy", "entropy while thinking, nats"))  # fmt: skip
    figure, axes = pyplot.subplots(2, 2, figsize=(9.6, 6.4), layout="constrained")
    for axis, (name, title) in zip(axes.flat, panels, strict=True):
        for r in found.values():
            colour, style = STYLES[way(r)]
            first = r["run"]["recipe"]["seed"] == 0
            look = {"color": colour, "linestyle": style, "linewidth": 1.8, "alpha": 1.0 if first else 0.55,
                    "label": way(r) if first else None}  # fmt: skip
            if name == "validation":
                judged = r["validation"]
                right, error = 100 * np.array(judged["right"]), 100 * np.array(judged["error"])
                axis.plot(judged["step"], right, marker="o", markersize=3, **look)
                axis.fill_between(judged["step"], right - error, right + error, color=colour, alpha=0.1, linewidth=0)
            else:
                axis.plot(np.arange(1, r["steps"] + 1), smooth(r["curves"][name]), **look)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("step")
    axes[0, 0].legend(frameon=False, fontsize=9)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


def tested(found: dict[str, dict[str, Any]]) -> str:
    """How many problems of a suite, and how many traces of each, everything was tested on."""
    tests = [r["test"] for r in found.values() if r["test"]]
    sizes = {(f["problems"], f["samples"]) for test in tests for f in test["suites"].values()}
    return "; ".join(f"{problems} problems a suite, {samples} traces each" for problems, samples in sorted(sizes))


def page(found: dict[str, dict[str, Any]]) -> str:
    one = next(iter(found.values()))
    recipe, m = one["run"]["recipe"], one["machine"]
    about = (
        f"{recipe['prompts']} problems a step of all six suites mixed, {recipe['samples']} rollouts each, learning rate "
        f"{recipe['lr']:g}, all weights, no divergence term; torch {m['torch']}, transformers {m['transformers']}, {m['cores']} "
        f"cores shared with other jobs, {m['threads']} thread a run. Validation: the same "
        f"problems and draws at every judgement, ± one standard error. Test: {tested(found)}, "
        "with 95 % bootstrap intervals over problems; what was gained is paired, problem by problem."
    )
    speeds = json.loads(SPEED.read_text()) if SPEED.exists() else None
    if speeds and made_by(speeds) == made_by(one):
        rates = speeds["tokens a second"]
        about += " Rollouts, to their stop and answer, run at " + ", ".join(
            f"{100 * f['share']:.0f} % ({name})" for name, f in rates.items()) + " of the speed of decoding with all rows alive."  # fmt: skip
    about += measured(*found.values(), *map(start, STARTS))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{about}\n\n{run_table(found)}\n\n{test_tables(found)}\n{END}{after}"


def speed(repeats: int = 5) -> dict[str, Any]:
    """Tokens a second of a step's rollouts, to their stop, text and answer, against those of rows that are all alive.

    16 problems × 8, as in the study; decoding alone is the first 32 tokens of the same traces, of which none ends so early.
    """
    torch.set_num_threads(1)
    backbone = load("reference", device="cpu")
    problems = [p for suite in SUITES for p in tasks.problems(suite, "train", 3)][:16]
    found = {}
    for name, thinking in {
        "discrete": Thinking("discrete"),
        "K = 3": Thinking(width=3),
        "K = 6": Thinking(width=6),
    }.items():
        rates: list[tuple[float, float]] = []
        for number in range(repeats + 1):  # the first warms up
            batch = grow.start(backbone, [make_prompt(p, backbone) for p in problems], 8, thinking, number, 128)
            batch.admit()
            started = time.perf_counter()
            batch.advance(32)
            pure = 128 * 32 / (time.perf_counter() - started)
            assert len(batch.traces) == 128, "a trace ended: the rows were not all alive"
            started = time.perf_counter()
            traces = sample(backbone, problems, 8, thinking, number, 128)
            rates.append((sum(t.tokens for t in traces) / (time.perf_counter() - started), pure))
        rollout, decoding = (float(np.median(column)) for column in zip(*rates[1:], strict=True))
        share = float(np.median([a / b for a, b in rates[1:]]))
        found[name] = {"rollout": round(rollout), "decoding": round(decoding), "share": round(share, 3)}
    return {"machine": machine(), "tokens a second": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder for the results file of --run")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.run:
        gather(options.run, options.into)
    if options.speed:
        SPEED.write_text(json.dumps(speed(), indent=1) + "\n")
        print(SPEED.read_text())
    if options.page:
        found = results()
        draw(found)
        PAGE.write_text(page(found))
    if options.check and PAGE.read_text() != page(results()):
        sys.exit("docs/learning.md is not what results/learning says. Try: python bench/learning.py --page")


if __name__ == "__main__":
    main()
