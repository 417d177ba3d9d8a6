"""Write docs/results.md, and the table in README.md, from the files under results/.

    python bench/tables.py            write them
    python bench/tables.py --check    exit 1 when they are not what the files say

No number in either page is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.evals.metrics import interval

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
BEGIN, END = "<!-- results: written by bench/tables.py -->", "<!-- end of results -->"
MODES = ("discrete", "multiplex")


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text())


def percent(figure: dict[str, float], interval: bool = True) -> str:
    text = f"{100 * figure['mean']:.1f}"
    return f"{text} [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]" if interval else text


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main_table(results: dict[str, Any]) -> str:
    """One line a suite and mode: one sample, the votes, what the probe adds."""
    head = ["suite", "thinking", "pass@1", "majority of 16", "weighted of 16", "best of 16", "AUROC within", "tokens"]
    rows = []
    for suite in results["discrete"]["suites"]:
        for mode in MODES:
            f = results[mode]["suites"][suite]
            rows.append([suite, mode, percent(f["pass"]["1"], False), percent(f["majority"]["16"], False),
                         percent(f["weighted"]["16"], False), percent(f["best"]["16"], False),
                         f"{f['auroc_within']['1.0']['mean']:.2f}", f"{f['tokens']['mean']:.0f}"])  # fmt: skip
    return table(head, rows)


def vote_table(suites: dict[str, Any]) -> str:
    n = str(next(iter(suites.values()))["samples"])
    head = [
        "suite", "pass@1", f"majority of {n}", f"pass@{n}", f"weighted − majority, of {n}", "best of 16 − pass@1",
        "tokens, mean (5–95 %, max)",
    ]  # fmt: skip
    rows = []
    for name, f in suites.items():
        t = f["tokens"]
        rows.append([name, percent(f["pass"]["1"]), percent(f["majority"][n]), percent(f["pass"][n]),
                     percent(f["weighted_minus_majority"][n]), percent(f["best_minus_pass1"]["16"]),
                     f"{t['mean']:.0f} ({t['p5']}–{t['p95']}, {t['max']})"])  # fmt: skip
    return table(head, rows)


def score_table(suites: dict[str, Any]) -> str:
    shares = ("0.25", "0.5", "0.75", "1.0")
    head = [
        "suite",
        *(f"within, at {float(s):.0%}" for s in shares),
        "over all traces, at 100%",
        "within, by mean entropy",
    ]
    rows = []
    for name, f in suites.items():
        cells = [f["auroc_within"][s] for s in shares]
        rows.append(
            [
                name,
                *(f"{c['mean']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells),
                f"{f['auroc_all']['1.0']:.2f}",
                f"{f['auroc_within_entropy']['mean']:.2f}",
            ]
        )
    return table(head, rows)


THINKING = {
    "discrete": "discrete", "soft": "soft, 10 words", "gumbel": "stochastic soft, Gumbel", "dirichlet":
    "stochastic soft, Dirichlet", "multiplex2": "multiplex, K = 2", "multiplex3": "multiplex, K = 3",
    "multiplex6": "multiplex, K = 6",
}  # fmt: skip


def mode_tables() -> str:
    """One table a suite: each way of thinking on the same problems, and its paired difference to discrete."""
    results = {name: read(f"modes/{name}.json") for name in THINKING}
    parts = []
    for suite in results["discrete"]["suites"]:
        plain, rows = results["discrete"]["suites"][suite], []
        for name, title in THINKING.items():
            f = results[name]["suites"][suite]
            gain = "–" if name == "discrete" else percent(paired(f, plain))
            explored = f"{100 * f['explored']['mean']:.0f}" if name.startswith("multiplex") else "–"
            rows.append([title, percent(f["pass"]["1"]), gain, percent(f["pass"]["8"]), f"{f['tokens']['mean']:.0f}",
                         f"{100 * f['truncated']:.1f}", f"{f['entropy']['mean']:.3f}", explored])  # fmt: skip
        head = [
            "thinking",
            "pass@1",
            "− discrete",
            "pass@8",
            "tokens",
            "truncated, %",
            "entropy, nats",
            "steps that explored, %",
        ]
        parts += [f"**{suite}**", table(head, rows)]
    return "\n\n".join(parts)


def paired(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The difference in pass@1 over the same problems, with its bootstrap interval."""
    gains = np.array(one["right"]) / one["samples"] - np.array(other["right"]) / other["samples"]
    low, high = interval(gains.tolist())
    return {"mean": float(gains.mean()), "low": low, "high": high}


def speed_tables(speed: dict[str, Any]) -> str:
    rates = [[name, f"{f['ratio']:.2f}", f"{f['lowest']:.2f}–{f['highest']:.2f}"] for name, f in speed["rates"].items()]
    saved = speed["half:32 of 32"]
    rates.append(["`half:32` of 32: share of time saved / share of tokens saved", f"{saved['ratio']:.2f}",
                  f"{saved['time_saved']:.0%} of time, {saved['tokens_saved']:.0%} of tokens"])  # fmt: skip
    memory = [[name, str(s["peak_mb"] - s["before_mb"]), str(s["cache_mb"])] for name, s in speed["memory"].items()]
    cold = [[name, str(seconds)] for name, seconds in speed["seconds from a cold start"].items()]
    return "\n\n".join([
        table(["tokens per second, as a ratio", "median", "range of the paired runs"], rates),
        "Peak memory above the loaded model, one 400-token problem, 64 tokens thought:",
        table(["traces", "MB", "of it KV cache, MB"], memory),
        table(["from a cold start", "seconds"], cold),
    ])  # fmt: skip


def scorer_tables(result: dict[str, Any]) -> str:
    """One table a suite: every scorer on the same traces."""
    parts = []
    for suite, judged in result["suites"].items():
        rows = []
        for name, f in judged["scorers"].items():
            votes, calibrated = f["votes"], f.get("calibration")
            rows.append([
                "**OTV**" if name == "auto" else f"`{name}`", interval_text(f["within"]["0.5"]), interval_text(f["within"]["1.0"]),
                interval_text(f["first_minus_this"]) if "first_minus_this" in f else "–", f"{f['over_all']['1.0']:.2f}",
                percent(votes["weighted"]), f"{votes['flipped_to_right']} / {votes['flipped_to_wrong']}",
                f"{calibrated['ece']['mean']:.3f}" if calibrated else "–",
                f"{calibrated['brier']['mean']:.3f}" if calibrated else "–",
            ])  # fmt: skip
        head = ["score", "within, at half", "within, at the end", "OTV − this", "over all", "weighted vote, %",
                "flips to right / wrong", "ECE", "Brier"]  # fmt: skip
        parts += [
            f"**{suite}**, majority {percent(next(iter(judged['scorers'].values()))['votes']['majority'])}",
            table(head, rows),
        ]
    return "\n\n".join(parts)


def interval_text(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def mode_speed_tables(speed: dict[str, Any]) -> str:
    parts = []
    for title, key in (("tokens per second, against discrete", "modes / discrete"),
                       (f"sampling steps per second, {speed['traces']} rows of {speed['vocabulary']:,} words, against what "
                        "`model.generate` does between logits and ids", "sampling / generate")):  # fmt: skip
        rows = [[name, f"{f['ratio']:.2f}", f"{f['lowest']:.2f}–{f['highest']:.2f}"] for name, f in speed[key].items()]
        parts.append(table([title, "median", "range of the paired runs"], rows))
    return "\n\n".join(parts)


def describe(result: dict[str, Any]) -> str:
    config, machine = result["config"], result["machine"]
    return (
        f"model `{config['model']}` ({config['fingerprint']}, {config['dtype']} on {config['device']}), temperature "
        f"{config['sampling']['temperature']}, seed {config['seed']}; torch {machine['torch']}, transformers "
        f"{machine['transformers']}, {machine['cores']} cores, {machine['threads']} thread"
    )


def pages() -> dict[Path, str]:
    results = {mode: read(f"reference-{mode}.json") for mode in MODES}
    speed = read("speed.json")
    n = next(iter(results["discrete"]["suites"].values()))
    parts = [
        "# Results\n\nWritten by `bench/tables.py` from the files under `results/`; `make measure` and `make bench` make those.",
        f"## The embedded model\n\n{n['problems']} test problems a suite; "
        f"{describe(results['discrete'])}. Percentages with 95 % bootstrap intervals over problems; differences are paired on "
        "the same traces.",
    ]
    for mode in MODES:
        suites = results[mode]["suites"]
        samples = next(iter(suites.values()))["samples"]
        parts += [
            f"### {mode}, {samples} traces a problem",
            vote_table(suites),
            "AUROC of the verifier's score:",
            score_table(suites),
        ]
    modes = read("modes/discrete.json")
    parts += [
        f"## Ways of thinking, none of them trained for\n\n{modes['suites']['chain-easy']['samples']} traces of "
        f"{n['problems']} test problems a suite; temperature 1, no filters (top-k 30 for Dirichlet). Percentages with 95 % "
        "intervals; the difference to discrete is paired on the same problems. Soft thinking draws nothing, so its traces of "
        "one problem differ after `</think>` alone.",
        mode_tables(),
    ]
    for mode in MODES:
        judged = read(f"scorers-{mode}.json")
        parts += [
            f"## Scores on the same traces, {mode}\n\n{judged['config']['problems']} problems a suite, all their traces. AUROC "
            "within problems; differences are paired by problem. DeepConf with groups of 32 tokens, as the published 2,048 "
            "are longer than these traces. Calibration where a score is a probability.",
            scorer_tables(judged),
        ]
    probes = read("probes.json")
    parts += [
        f"## Speed\n\n{speed['traces']} traces, one thread, medians of paired runs on an idle machine "
        f"(torch {speed['machine']['torch']}, {speed['machine']['cores']} cores).",
        speed_tables(speed),
        mode_speed_tables(read("modes-speed.json")),
        table([f"one-token verification, rank {probes['rank']}: time, as a ratio", "median", "range of the paired runs"],
              [[name, f"{f['ratio']:.3f}", f"{f['lowest']:.3f}–{f['highest']:.3f}"] for name, f in probes["ratios"].items()]),
    ]  # fmt: skip
    readme = (ROOT / "README.md").read_text()
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    caption = f"{n['problems']} test problems a suite, in %; votes are means over disjoint groups of 16 traces."
    return {
        ROOT / "docs" / "results.md": "\n\n".join(parts) + "\n",
        ROOT / "README.md": f"{before}{BEGIN}\n{main_table(results)}\n\n{caption}\n{END}{after}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path, text in pages().items():
        if check and path.read_text() != text:
            sys.exit(f"{path.name} is not what results/ says; mend: python bench/tables.py")
        if not check:
            path.write_text(text)


if __name__ == "__main__":
    main()
