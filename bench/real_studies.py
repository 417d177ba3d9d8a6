"""The tables of the studies on a real model: ways to think, data and recipe of a verifier, learning."""

from __future__ import annotations

from typing import Any

from cells import measured, missing, percent, read, spread, table
from claims import points, short
from real_claims import learning_gain

ALONG = {
    "0.25": "a quarter",
    "0.5": "half",
    "0.75": "three quarters",
    "1.0": "the end",
}  # shares of a trace, where ranking is told


def study_parts() -> list[str]:
    return [
        *mode_parts("modes", "real-modes MODEL=…", "without thinking tags"),
        *mode_parts("modes-tagged", "real-modes-tagged MODEL=…", "with thinking tags"),
        *linear_parts(),
        *curve_parts(),
        *ablation_parts(),
        *learning_parts(),
    ]


def mode_parts(name: str, target: str, title: str) -> list[str]:
    """Every mode at every temperature, the comparisons, and accuracy by length."""
    found = read(f"real/{name}.json")
    if found is None:
        return [missing(f"real/{name}.json", target)]
    rows = []
    for f in found["runs"].values():
        n = str(f["samples"])
        vote = f["methods"]["majority"][n]
        rows.append([f["mode"], f"{f['temperature']:g}", str(f["problems"]), n, percent(f["pass"]["1"]), percent(vote) if n != "1" else "–",
                     percent(f["pass"][n]) if n != "1" else "–", f"{f['entropy']['mean']:.3f}", f"{f['tokens']['mean']:.0f}", f"{100 * f['truncated']:.1f}"])  # fmt: skip
    head = [
        "mode",
        "temperature",
        "problems",
        "samples",
        "one path, %",
        "majority, %",
        "any path, %",
        "entropy, nats",
        "tokens",
        "cut off, %",
    ]
    config = found["config"]
    parts = [
        f"## Ways to think, {title}: {found['model']}\n\n{found['suite']}, at most {config['max_tokens']} tokens, {config['dtype']} on {config['device']}, seed {config['seed']}; "
        "nothing was trained for merged thinking." + measured(found),
        table(head, rows),
        f"Against `{found['against']}`, paired by problem. At its own best temperature: chosen on one half of the problems for the other, and the other way round. At equal "
        "entropy: between the temperatures on straight lines, where both have such an entropy.",
        table(["mode", "one path, points", "majority, points"], comparison_rows(found)),
    ]  # fmt: skip
    limits = {run: f["limits"] for run, f in found["runs"].items() if f["mode"] in ("discrete", "multiplex3")}
    head = ["within so many tokens, one path right, %", *(str(cell["tokens"]) for cell in next(iter(limits.values())))]
    return [*parts, table(head, [[run, *(f"{100 * cell['mean']:.1f}" for cell in cells)] for run, cells in limits.items()])]  # fmt: skip


def comparison_rows(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for mode, by_metric in found["compared"].items():
        one, vote = by_metric["one"], by_metric["majority"]
        rows += [[f"{mode}, T = {t}", points(cell), points(vote["at"][t])] for t, cell in one["at"].items()]
        if "own best" in one and (len(one["at"]) > 1 or mode == "greedy"):
            chosen = " and ".join(dict.fromkeys(t or "0" for t in one["own best"]["at"][0]))
            rows.append([f"{mode}, each at its own best temperature ({chosen})", points(one["own best"]), points(vote["own best"]) if mode != "greedy" else "–"])  # fmt: skip
        rows += [[f"{mode}, at mean entropy {cell['entropy']:.3f}", points(cell), points(vote["entropy"][place])]
                 for place, cell in enumerate(one["entropy"])]  # fmt: skip
    return rows


def linear_parts() -> list[str]:
    """How well a linear verifier ranks by how much it learned from."""
    found = read("real/linear.json")
    if found is None:
        return [missing("real/linear.json", "real-linear MODEL=…")]
    cards = sorted(found["parts"].values(), key=lambda card: card["traces"])
    rows = [[str(card["traces"]), str(card["validation"]["problems, discrete, answered"]),
             *(f"{card['validation'][f'within_auroc@{share}']:.2f}" for share in ALONG)] for card in cards]  # fmt: skip
    return [
        f"## How much data a linear verifier needs: {found['model']}\n\nAUROC within problems, of problems that did not fit it (four folds of those learned from), at shares of "
        "a trace." + measured(found),
        table(["traces", "problems", *(f"at {title}" for title in ALONG.values())], rows),
    ]  # fmt: skip


def curve_parts() -> list[str]:
    """How good a verifier is by how much it learned from."""
    found = read("real/curve.json")
    if found is None:
        return [missing("real/curve.json", "real-curve MODEL=…")]
    (suite, judged), *_ = found["parts"]["judged"]["suites"].items()
    rows = []
    for name, f in judged["scorers"].items():
        label = short(name)
        card = found["parts"]["whole" if label == "verifier-m1" else label]
        took = found["parts"].get(f"{label}-time")
        rows.append([str(card["traces"]), spread(f["within"]["0.5"], 2), spread(f["within"]["1.0"], 2), percent(f["votes"]["weighted"]),
                     points(f["votes"]["weighted_minus_majority"]), f"{took['seconds'] / 3600:.1f}" if took else "–"])  # fmt: skip
    rows.sort(key=lambda row: int(row[0]))
    majority = percent(next(iter(judged["scorers"].values()))["votes"]["majority"])
    return [
        f"## How much data a verifier needs: {found['model']}\n\nOne recipe, by the number of traces of problems with right and wrong ones; judged on {judged['problems']} test problems of "
        f"{suite}, whose majority is {majority} % right." + measured(found),
        table(["traces", "AUROC within, at half", "at the end", "weighted vote, %", "− majority, points", "hours of training"], rows),
    ]  # fmt: skip


def ablation_parts() -> list[str]:
    """One change of the recipe at a time, on three kinds of traces; and changed texts."""
    found = read("real/ablations.json")
    if found is None:
        return [missing("real/ablations.json", "real-ablations MODEL=…")]
    titles = {
        "judged-test": "problems like those learned from",
        "judged-math": "other problems",
        "judged-multiplex": "multiplex traces",
    }
    rows: dict[str, list[str]] = {}
    for part in (part for part in titles if part in found["parts"]):
        for f in found["parts"][part]["suites"].values():
            for name, scored in f["scorers"].items():
                rows.setdefault(short(name), [short(name)]).extend((spread(scored["within"]["1.0"], 2), points(scored["votes"]["weighted_minus_majority"])))  # fmt: skip
    head = [
        "recipe",
        *(
            text
            for part, title in titles.items()
            if part in found["parts"]
            for text in (f"AUROC within, {title}", "vote − majority")
        ),
    ]
    parts = [
        f"## Ablations and transfer: {found['model']}\n\nEvery verifier learned from the same discrete rollouts; `verifier-m1` is the recipe, each other line changes one "
        "thing." + measured(found),
        table(head, list(rows.values())),
    ]  # fmt: skip
    if told := found["parts"].get("perturb"):
        lines = [[what, str(f["traces"]), f"{f['before']:.3f}", f"{f['after']:.3f}", f"{100 * f['fell']:.0f}", f"{f['change']['mean']:+.3f} [{f['change']['low']:+.3f}, {f['change']['high']:+.3f}]"]
                 for changes in told["suites"].values() for what, f in changes.items()]  # fmt: skip
        parts += ["Right traces, read again with one digit of the thought, one of the answer, or the problem's wording changed:",
                  table(["changed", "traces", "score before", "after", "fell, %", "change"], lines)]  # fmt: skip
    return parts


def learning_parts() -> list[str]:
    """Before and after GRPO, discrete and multiplex."""
    found = read("real/learning.json")
    if found is None:
        return [missing("real/learning.json", "real-learning MODEL=…")]
    rows = []
    for way, title in (("k1", "discrete"), ("k3", "multiplex, K = 3")):
        start, run = found["parts"].get(f"start-{way}"), found["parts"].get(way)
        if not (start and run and run["test"]):
            continue
        before, after = (next(iter(r["suites"].values())) for r in (start, run["test"]))
        took = found["parts"].get(f"{way}-time")
        gain = learning_gain(found["parts"], way, f"start-{way}")
        rows.append([title, str(run["steps"]), percent(before["pass"]["1"]), percent(after["pass"]["1"]), points(gain) if gain else "–",
                     f"{before['tokens']['mean']:.0f} → {after['tokens']['mean']:.0f}", f"{100 * run['entropy_reduction']:.0f}", f"{took['seconds'] / 3600:.1f}" if took else "–"])  # fmt: skip
    return [
        f"## Learning: {found['model']}\n\nGRPO with LoRA, the same budget for both." + measured(found),
        table(
            [
                "thinking",
                "steps",
                "one path before, %",
                "after, %",
                "gain, points",
                "tokens",
                "entropy reduced, %",
                "hours",
            ],
            rows,
        ),
    ]
