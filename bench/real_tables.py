"""The tables of a real model: what `make real-main` measured, and `make real-live`."""

from __future__ import annotations

from typing import Any

from cells import ROOT, measured, missing, percent, read, spread, table
from claims import points
from real_claims import against, real_claims
from real_studies import ALONG, study_parts
from score_tables import READERS, scorer_tables

FEW = 100  # problems: below it a page says that they are few
VERIFIERS = {"linear": "linear reading", "m1": "one probe token", "m4": "four probe tokens"}
SETS = ("test", "math")
RIVALS = "trained rivals learned from the verifiers' rollouts; "
PRUNED_HEAD = ["vote and policy", "right, %", "tokens, % of the full vote", "− full vote, points", "− majority, points"]
PICTURES = {
    "trajectories-1": "Scores of right and wrong traces while they grow", "tokens-1": "Accuracy against tokens",
    "reliability": "How often a trace of a score is right", "judged-judged-test": "AUROC within problems along a trace, for every score",
}  # fmt: skip
VOTES = {
    "majority": "majority", "weighted:entropy": "weighted by entropy", "weighted:logprob": "weighted by log-probability",
    "weighted:deepconf:mean": "weighted by DeepConf, mean", "weighted:deepconf:tail@64": "weighted by DeepConf, tail of 64",
    "weighted:deepconf:bottom@64": "weighted by DeepConf, bottom groups of 64", "weighted:deepconf:lowest@64": "weighted by DeepConf, lowest group of 64",
    "best:entropy": "best by entropy", "best:deepconf:tail@64": "best by DeepConf, tail of 64",
}  # fmt: skip


def few(problems: int) -> str:
    return "These are few problems: read the intervals. " if problems < FEW else ""


def suite_of(main: dict[str, Any], part: str) -> tuple[str, dict[str, Any]] | None:
    """The one suite of a part, by its name; None where the part is not there."""
    found = main["parts"].get(part)
    return None if found is None else next(iter(found["suites"].items()))


def gap_closed(figures: dict[str, Any], method: str) -> float | None:
    """How much of what lies between the majority and any path a vote wins, on all problems; None where nothing does."""
    any_path = sum(right > 0 for right in figures["right"])
    majority, own = (sum(figures["votes"][name]) for name in ("majority", method))
    return float((own - majority) / (any_path - majority)) if any_path > majority else None


def vote_rows(f: dict[str, Any]) -> list[list[str]]:
    """One path, the votes that need no training, and any path."""
    n = str(f["samples"])
    rows = [["one path", percent(f["pass"]["1"]), "–", "–", f"{f['tokens']['mean']:.0f}"]]
    for method, title in VOTES.items():
        if method in f["methods"]:
            rows.append(method_row(f, method, title))
    return [*rows, [f"any of {n} paths", percent(f["pass"][n]), "–", "–", "–"]]


def method_row(f: dict[str, Any], method: str, title: str) -> list[str]:
    cell, gain = f["methods"][method][str(f["samples"])], against(f, method, "majority")
    share = gap_closed(f, method)
    closed = "–" if share is None or method == "majority" else f"{100 * share:.0f}"
    return [title, percent(cell), points(gain) if gain else "–", closed, f"{cell['tokens']:.0f}"]


def pruned_rows(f: dict[str, Any], vote: str = "weighted") -> list[list[str]]:
    """Every policy, behind whatever vote: against the given one over all paths, in points and in tokens."""
    n = str(f["samples"])
    whole = f["methods"][vote][n]
    rows = []
    for name in (name for name in f["methods"] if "~" in name):
        cell, lost = f["methods"][name][n], against(f, name, vote)
        gain = against(f, name, "majority")
        rows.append(
            [
                f"`{name}`",
                percent(cell),
                f"{100 * cell['tokens'] / whole['tokens']:.0f}",
                points(lost) if lost else "–",
                points(gain) if gain else "–",
            ]
        )
    return rows  # fmt: skip


def learned(main: dict[str, Any], name: str) -> str:
    """What verifiers that judged a set have learned from; empty without any."""
    if not any(f"scored-{which}-{name}" in main["parts"] for which in VERIFIERS):
        return ""
    return f"Verifiers learned from rollouts of other problems{', of another kind' if name == 'math' else ''}. "


def ranked(f: dict[str, Any]) -> str:
    """How well the scores of an evaluation rank within problems, along its traces."""
    told = [f"{spread(f['auroc_within'][share], 2)} at {title}" for share, title in ALONG.items()]
    return f"AUROC within problems: {', '.join(told)}."


def real_parts() -> list[str]:
    """The chapter of a real model: the studies that were run, and last a line about those that were not."""
    main = read("real/main.json")
    parts = [missing("real/main.json", "real-main MODEL=…")] if main is None else []
    for name in SETS if main else ():
        parts += set_parts(main, name)
    folder = ROOT / "docs" / "real"  # where `make real-main` puts the figures of its report
    parts += [f"![{title}](real/{name}.svg)" for name, title in PICTURES.items() if (folder / f"{name}.svg").exists()]
    parts += [*(verifier_parts(main) if main else ()), *live_parts(), *study_parts()]
    absent = " ".join(part for part in parts if part.startswith("No `"))
    return [part for part in [*(part for part in parts if not part.startswith("No `")), absent] if part]


def set_parts(main: dict[str, Any], name: str) -> list[str]:
    """One set of test problems: votes, pruning, scores, calibration."""
    found = suite_of(main, f"sampled-{name}")
    if found is None:
        return []
    suite, f = found
    config = main["parts"][f"sampled-{name}"]["config"]
    parts = [
        f"## A real model: {suite} with {main['model']}\n\n{f['problems']} test problems, {f['samples']} traces each, discrete, temperature "
        f"{config['sampling']['temperature']}, at most {config['ending']['max_tokens']} tokens ({100 * f['truncated']:.0f} % are cut off), {config['dtype']} "
        f"on {config['device']}, seed {config['seed']}. {few(f['problems'])}{learned(main, name)}"
        "\"Gap closed\" is the share of what lies between the majority and any path." + measured(main)
    ]  # fmt: skip
    rows = vote_rows(f)
    for which, title in VERIFIERS.items():
        scored = suite_of(main, f"scored-{which}-{name}")
        if scored is None:
            continue
        told = {
            "weighted": "weighted by the verifier",
            "weighted:odds": "weighted by the verifier's odds",
            "best": "best by the verifier",
        }
        own = [method_row(scored[1], method, f"**{text}, {title}**") for method, text in told.items() if method in scored[1]["methods"]]  # fmt: skip
        rows[-1:-1] = own
    parts.append(table(["answer by", "right, %", "− majority, points", "gap closed, %", "tokens a problem"], rows))
    if "weighted:entropy" in f["methods"]:
        parts += [
            f"### Pruned by what costs nothing, {suite}\n\nAgainst the vote weighted by entropy over all paths.",
            table(PRUNED_HEAD, pruned_rows(f, "weighted:entropy")),
        ]
    for which, title in VERIFIERS.items():
        scored = suite_of(main, f"scored-{which}-{name}")
        if scored is not None:
            parts += [
                f"### Pruned, {suite}, {title}\n\nPolicies simulated on the same traces, scored every {main['parts'][f'scored-{which}-{name}']['config']['probe_every']} "
                f"tokens as a live run scores them; tokens with probes. {ranked(scored[1])}",
                table(PRUNED_HEAD, pruned_rows(scored[1])),
            ]  # fmt: skip
    judged = main["parts"].get(f"judged-{name}")
    if judged:
        first = next(iter(judged["suites"].values()))
        parts += [
            f"### Scores on the same traces, {suite}\n\n{first['problems']} problems, at most {judged['config']['samples']} traces each. AUROC within problems; "
            f"{RIVALS if any(name.partition(':')[0] in READERS for name in first['scorers']) else ''}time and operations are for ten readings of a trace.",
            scorer_tables(judged),
        ]  # fmt: skip
    return [part for part in parts if part]


def verifier_parts(main: dict[str, Any]) -> list[str]:
    """What the verifiers learned from, what that took, and how far their confidence is to be trusted."""
    rows, runs = [], []
    for which in VERIFIERS:
        card, took = (main["parts"].get(f"verifier-{which}{end}") for end in ("", "-time"))
        if card is None:
            continue
        recipe, held = card.get("recipe"), card["validation"]
        how = [str(recipe["rank"]), f"{recipe['epochs']:g}"] if recipe else ["–", "–"]
        rows.append([VERIFIERS[which], str(card["traces"]), *how,
                     *(f"{held[f'within_auroc@{share}']:.2f}" for share in ALONG), f"{held['ece@1.0']:.2f}" if recipe else "–",
                     f"{took['seconds'] / 3600:.1f}" if took else "–", f"{took['peak_gib']:.1f}" if took else "–"])  # fmt: skip
        calibrated = main["parts"].get(f"calibrated-{which}")
        for r in calibrated["runs"] if calibrated else ():
            how, wrong = r["condition"], r["error_among_answered"]
            runs.append([VERIFIERS[which], str(how["paths"]), how["prune"], str(r["problems"]), f"{100 * r['right']:.1f}", f"{r['ece']:.3f}",
                         f"{100 * r['answered']:.0f}", "–" if wrong is None else f"{100 * wrong:.1f}"])  # fmt: skip
    parts = []
    if rows:
        head = ["verifier", "traces learned from", "rank", "epochs", "AUROC within, held out, at 25 %", "50 %", "75 %", "the end", "calibration error", "hours", "GiB at most"]  # fmt: skip
        parts += ["### The verifiers, and what they took to train", table(head, rows)]
    if runs:
        parts += [
            "### `--max-error 0.1`\n\nFitted on half of the test problems and judged on the other half.",
            table(["verifier", "paths", "prune", "problems", "right, %", "calibration error", "answered, %", "wrong among them, %"], runs),
        ]  # fmt: skip
    return parts


def live_parts() -> list[str]:
    """Accuracy against seconds."""
    live = read("real/live.json")
    if live is None:
        return [missing("real/live.json", "real-live MODEL=…")]
    rows = []
    for name, f in live["methods"].items():
        same = f["minus majority of the same seconds"]
        rows.append([f"`{name}`", percent(f["right"]), spread(f["seconds"], 1), f"{f['tokens']['mean']:.0f}", points(same) if same else "–"])  # fmt: skip
    return [
        f"### In seconds\n\n{live['problems']} problems of {live['suite']} with {live['model']}, one at a time: whole runs, with probes and votes. "
        f"{few(live['problems'])}".rstrip()
        + measured(live),
        table(["run", "right, %", "seconds a problem", "tokens", "− majority given the same seconds"], rows),
    ]


CHEAP = ("weighted~half:16/4", "weighted~half:32/4+auto")  # policies that the README shows
FREE = ("weighted:entropy", "weighted:deepconf:bottom@64")  # votes that it shows where there is no verifier


def readme_real() -> tuple[str, bool]:
    """For the README: what votes come to on a real model, and whether a verifier's is among them; empty without results."""
    main = read("real/main.json")
    judged = {title: suite_of(main, f"scored-{which}-test") for which, title in VERIFIERS.items()} if main else {}
    title, scored = next(((title, found) for title, found in judged.items() if found), ("", None))
    found = scored or (main and suite_of(main, "sampled-test"))
    if not found:
        return "", False
    suite, f = found
    votes = [row for row in vote_rows(f) if row[0].startswith(("one path", "majority", "any"))]
    shown = (
        {"weighted": f"weighted by a verifier, {title}"}
        if scored
        else {name: VOTES[name] for name in FREE if name in f["methods"]}
    )
    shown |= {name: f"weighted, pruned by `{name.partition('~')[2]}`" for name in CHEAP if name in f["methods"]}
    votes[-1:-1] = [method_row(f, method, title) for method, title in shown.items()]
    what = "What a verifier adds to" if scored else "What lies between a majority and any path of"
    free = [] if scored else [name for name in f["methods"] if name.startswith("weighted:") and "~" not in name]
    gains = [gain for name in free if (gain := against(f, name, "majority"))]
    left = "" if not gains else f" Of {len(gains)} votes weighted by what costs nothing, the best gains {points(max(gains, key=lambda g: g['mean']))} points."  # fmt: skip
    return (
        f"{what} {main['model']} on {suite}, {f['problems']} problems with {f['samples']} paths:\n\n"
        f"{table(['answer by', 'right, %', '− majority, points', 'tokens a problem'], [row[:3] + row[4:] for row in votes])}\n\n{few(f['problems'])}95 % intervals; "
        f"[all tables](docs/results.md).{measured(main)}{left}"
    ), bool(scored)  # fmt: skip


def real_claim_parts() -> list[str]:
    """What holds, what fails, and what cannot be told, on the real model, beside the papers' own figures."""
    rows = real_claims()
    if not rows:
        return []
    return [
        "## What the papers claim, on a real model\n\nDifferences in points over the same problems, with 95 % bootstrap intervals. A claim holds "
        "where the whole interval is on its side of zero, fails where it is on the other, and is open otherwise. The papers' models are eight "
        "to sixty times larger, and think in tags: their figures stand beside ours, not against them.",
        table(["claim", "here", "in the paper"], rows),
    ]


def afternoon() -> str:
    """What a verifier took, and what it gave, for the how-to."""
    main = read("real/main.json")
    if main is None:
        return "Nothing is measured yet: `make real-main MODEL=…` does all of the above, and more."
    rows = []
    for name in SETS:
        found, took = suite_of(main, f"sampled-{name}"), main["parts"].get(f"sampled-{name}-time")
        if found and took:
            spent = next(iter(took.values()))
            device = main["parts"][f"sampled-{name}"]["config"]["device"]
            rows.append([f"sampling {found[0]} on {device}", f"{found[1]['problems']} problems × {found[1]['samples']}, {spent['tokens'] / 1e6:.1f} million tokens",
                         f"{spent['seconds'] / 3600:.2g}", f"{spent['tokens'] / spent['seconds']:.0f} tokens a second"])  # fmt: skip
    for which, title in VERIFIERS.items():
        card, took = (main["parts"].get(f"verifier-{which}{end}") for end in ("", "-time"))
        if card and took:
            epochs = f", {card['recipe']['epochs']:g} epochs at most" if "recipe" in card else ""
            rows.append([f"training, {title}", f"{card['traces']} traces{epochs}", f"{took['seconds'] / 3600:.1f}",
                         f"{took['peak_gib']:.1f} GiB"])  # fmt: skip
    where = main["machine"]
    return f"{main['model']}; what is on cpu had {where['cores']} cores of {where['processor']}.{measured(main)}\n\n{table(['step', 'size', 'hours', 'rate or memory'], rows)}\n\nWhat it gave stands in [results](results.md)."
