"""The tables about scores: verifier and rivals on the same traces, ablations, changed texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cells import MODES, counted, measured, missing, percent, ranking, read, spread, table
from claims import short


def judged_parts(kind: str, part: Callable[[str, dict[str, Any]], list[str]]) -> list[str]:
    """What `part` makes of the results of `make KIND` on each kind of traces, or that they are not there yet."""
    parts = []
    for mode in MODES:
        judged = read(f"{kind}-{mode}.json")
        parts += [missing(f"{kind}-{mode}.json", kind)] if judged is None else part(mode, judged)
    return parts


def sampled(judged: dict[str, Any]) -> str:
    sizes = {f["problems"] for f in judged["suites"].values()}
    return f"{counted(sizes)} problems a suite, {judged['config']['samples']} traces each"


def scorer_parts() -> list[str]:
    return judged_parts("scorers", lambda mode, judged: [
        f"## Scores on the same traces, {mode}\n\n{sampled(judged)}. AUROC "
        "within problems; differences are paired by problem. The trained rivals have the verifier's size and learned from its "
        "rollouts, for as many epochs; \"measured\" is the verifier with the Monte-Carlo labels that the process model learned from. DeepConf with groups of 32 tokens, as the published 2,048 are longer than these traces. "
        "Calibration where a score is a probability. Time and operations are for ten readings of a trace, at 10 … 100 % of it." + measured(judged),
        f"![AUROC within problems along a trace, for every score](scores/judged-scorers-{mode}.svg)",
        scorer_tables(judged),
    ])  # fmt: skip


def scorer_tables(result: dict[str, Any]) -> str:
    """One table a suite: every scorer on the same traces."""
    parts = []
    for suite, judged in result["suites"].items():
        rows = []
        for name, f in judged["scorers"].items():
            votes, calibrated = f["votes"], f.get("calibration")
            rows.append([
                scorer_title(name), spread(f["within"]["0.5"], 2), spread(f["within"]["1.0"], 2),
                spread(f["first_minus_this"], 2) if "first_minus_this" in f else "–", ranking(f["over_all"]["1.0"]),
                percent(votes["weighted"]), f"{votes['flipped_to_right']} / {votes['flipped_to_wrong']}",
                f"{calibrated['ece']['mean']:.3f}" if calibrated else "–",
                f"{calibrated['brier']['mean']:.3f}" if calibrated else "–",
                f"{f['milliseconds_per_trace']:.1f}", f"{f['megaflops_per_trace']:.0f}",
            ])  # fmt: skip
        head = ["score", "within, at half", "within, at the end", "OTV − this", "over all", "weighted vote, %",
                "flips to right / wrong", "ECE", "Brier", "ms", "Mflop"]  # fmt: skip
        parts += [
            f"**{suite}**, majority {percent(next(iter(judged['scorers'].values()))['votes']['majority'])}",
            table(head, rows),
        ]
    return "\n\n".join(parts)


READERS = ("orm", "prm", "genrm")


def scorer_title(name: str) -> str:
    """`runs/rivals/one-token` is the verifier from the rivals' rollouts, and so on; the names of untrained scores as they are."""
    reads = name.partition(":")[0] in READERS
    model = short(name).rpartition(":")[2] if reads else short(name)
    kinds = {"one-token": "**OTV**, from the same rollouts", "plain": "**OTV**, from the same rollouts",
             "one-token-measured": "**OTV**, the same, measured labels", "auto": "OTV, as shipped", "outcome": "outcome model",
             "process": "process model", "generative": "GenRM", "verifier-m1": "**OTV**, one probe token",
             "verifier-m4": "**OTV**, four probe tokens"}  # fmt: skip
    return kinds.get(model, f"`{name}`" if reads else f"`{model}`")


def ablation_parts() -> list[str]:
    """What a verifier needs: one line per change of the recipe, over suites."""
    parts = judged_parts("ablations", lambda mode, judged: [
        f"## Ablations, {mode} traces\n\n{sampled(judged)}: means over "
        "the six suites. The plain recipe is rank 16 on all linear layers, ramp labels, trained on both kinds of traces; each line "
        "changes one thing (`final` labels use a single position). `montecarlo` learns only from traces with values, `discrete` and "
        "`multiplex` from one kind, so from at most half as many." + measured(judged),
        ablation_table(judged["suites"]),
        f"![AUROC within problems along a trace, for every recipe](scores/judged-ablations-{mode}.svg)",
    ])  # fmt: skip
    found = read("perturb.json")
    return [*parts, *([missing("perturb.json", "ablations")] if found is None else perturb_parts(found))]


def ablation_table(suites: dict[str, Any]) -> str:
    rows = []
    for name in next(iter(suites.values()))["scorers"]:
        of = [f["scorers"][name] for f in suites.values()]
        behind = [f["first_minus_this"] for f in of if "first_minus_this" in f]
        means = (sum(f["within"][s]["mean"] for f in of) / len(of) for s in ("0.5", "1.0"))
        weighted = sum(f["votes"]["weighted"]["mean"] for f in of) / len(of)
        error = sum(f["calibration"]["ece"]["mean"] for f in of) / len(of)
        apart = f"{sum(b['low'] > 0 for b in behind)} / {sum(b['high'] < 0 for b in behind)}" if behind else "–"
        rows.append([short(name), *(f"{m:.3f}" for m in means), apart, f"{100 * weighted:.1f}", f"{error:.3f}"])
    return table(
        [
            "recipe",
            "AUROC within, at half",
            "at the end",
            "worse / better than plain (suites)",
            "weighted vote, %",
            "ECE",
        ],
        rows,
    )


CHANGED = {
    "slip": "a digit of the thought",
    "answer": "a digit of the answer",
    "wording": "the problem's wording, not its sense",
}


def perturb_parts(found: dict[str, Any]) -> list[str]:
    rows = [[suite, CHANGED[what], str(f["traces"]), f"{f['before']:.3f}", f"{f['after']:.3f}", f"{100 * f['fell']:.0f}",
             f"{f['change']['mean']:+.3f} [{f['change']['low']:+.3f}, {f['change']['high']:+.3f}]"]
            for suite, changes in found["suites"].items() for what, f in changes.items()]  # fmt: skip
    return [
        "### How a score reacts to a changed text\n\nRight discrete traces, read again with one change; the score at the "
        "end. A useful score drops for the first two and stays for the last." + measured(found),
        table(["suite", "changed", "traces", "before", "after", "fell, %", "change"], rows),
    ]


def verifier_study_parts() -> list[str]:
    """What each change of a verifier's recipe brings: one table for each kind of traces."""
    found = read("verifier-study.json")
    if found is None:
        return [missing("verifier-study.json", "verifier-study")]
    left_out = ", ".join(f"`{name}`" for name in found["config"]["left_out"])
    parts = [
        "## One change of a verifier at a time\n\nEach goes on from the verifier that ships, for "
        f"{found['config']['epochs']:g} of a pass over the same rollouts, and is judged on validation traces, {found['config']['samples']} a problem. AUROC within "
        "problems, and how much more it is than that of `otv`, which changes nothing, paired by problem. `probe + …`: logistic regression on training "
        "traces beside the log-odds of the shipped probe, so what a head could gain at best by `features` (numbers that each step leaves behind) or `taps` "
        "(hidden states of the trace's own last token); their weights are fitted for ranking, so their votes mean little."
        f"{f' Not trained: {left_out}.' if left_out else ''}{measured(found)}"
    ]
    for mode, judged in found["modes"].items():
        rows = []
        for name, f in judged["scorers"].items():
            changed = ", ".join(f"{k} {v}" for k, v in found["changed"].get(name, {}).items())
            rows.append([
                name, changed or "–", *(spread(f["within"][share], 3) for share in ("0.5", "1.0")),
                *(more(f[gap]) if gap in f else "–" for gap in ("first_minus_this_at_half", "first_minus_this")),
                percent(f["votes"]["weighted"]),
            ])  # fmt: skip
        head = ["score", "changed", "within, at half", "within, at the end", "more at half", "more at the end", "weighted vote, %"]  # fmt: skip
        parts += [
            f"**{mode}**: {judged['traces']} traces of {judged['problems']} problems with right and wrong ones",
            table(head, rows),
        ]
    return parts


def more(behind: dict[str, float]) -> str:
    """What a score has more than the first, from what the first has more than it."""
    return f"{-behind['mean']:+.3f} [{-behind['high']:+.3f}, {-behind['low']:+.3f}]"
