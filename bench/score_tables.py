"""The tables about scores: verifier and rivals on the same traces, and one change of a verifier at a time."""

from __future__ import annotations

from typing import Any

from cells import MODES, counted, measured, missing, percent, read, spread, table
from claims import combines, short


def sampled(judged: dict[str, Any]) -> str:
    sizes = {f["problems"] for f in judged["suites"].values()}
    traces = {s["votes"]["paths"] for f in judged["suites"].values() for s in f["scorers"].values()}
    return f"{counted(sizes)} problems a suite, {counted(traces)} traces each"


def scorer_parts() -> list[str]:
    parts = []
    for mode in MODES:
        judged = read(f"scorers-{mode}.json")
        parts += [missing(f"scorers-{mode}.json", "scorers")] if judged is None else [
            f"## Scores on the same traces, {mode}\n\n{sampled(judged)}. AUROC "
            "within problems; differences are paired by problem. The trained rivals have the verifier's size and learned from its "
            "rollouts, for as many epochs; \"measured\" is the verifier with the Monte-Carlo labels that the process model learned from, \"combined\" its probe with log-probability, entropy and length, weighed on validation problems. DeepConf with groups of 32 tokens, as the published 2,048 are longer than these traces. "
            "Calibration where a score is a probability. Time and operations are for ten readings of a trace, at 10 … 100 % of it." + measured(judged),
            f"![AUROC within problems along a trace, for every score](scores/judged-scorers-{mode}.svg)",
            scorer_tables(judged),
        ]  # fmt: skip
    return parts


def scorer_tables(result: dict[str, Any]) -> str:
    """One table a suite: every scorer on the same traces."""
    parts = []
    for suite, judged in result["suites"].items():
        rows = []
        for name, f in judged["scorers"].items():
            votes, calibrated = f["votes"], f.get("calibration")
            rows.append([
                scorer_title(name), spread(f["within"]["0.5"], 2), spread(f["within"]["1.0"], 2),
                spread(f["first_minus_this"], 2) if "first_minus_this" in f else "–", spread(f["over_all"]["1.0"], 2),
                percent(votes["weighted"]), f"{votes['flipped_to_right']} / {votes['flipped_to_wrong']}",
                f"{calibrated['ece']['mean']:.3f}" if calibrated else "–",
                f"{calibrated['brier']['mean']:.3f}" if calibrated else "–",
                f"{f['milliseconds_per_trace']:.1f}", f"{f['megaflops_per_trace']:.0f}",
            ])  # fmt: skip
        first = scorer_title(next(iter(judged["scorers"])))
        head = ["score", "within, at half", "within, at the end", f"{'the first' if 'OTV' in first else first} − this", "over all", "weighted vote, %",
                "flips to right / wrong", "ECE", "Brier", "ms", "Mflop"]  # fmt: skip
        parts += [
            f"**{suite}**, majority {percent(next(iter(judged['scorers'].values()))['votes']['majority'])}",
            table(head, rows),
        ]
    return "\n\n".join(parts)


READERS = ("orm", "prm", "genrm")


def scorer_title(name: str) -> str:
    """`runs/rivals/one-token` is the verifier from the rivals' rollouts, and so on; the names of untrained scores as they are."""
    if combines(name):
        return "combined, as shipped" if name == "combined" else "**OTV combined**, from the same rollouts"
    reads = name.partition(":")[0] in READERS
    model = short(name).rpartition(":")[2] if reads else short(name)
    kinds = {"one-token": "**OTV**, from the same rollouts", "plain": "**OTV**, from the same rollouts",
             "one-token-measured": "**OTV**, the same, measured labels", "auto": "OTV, as shipped", "outcome": "outcome model",
             "process": "process model", "generative": "GenRM", "verifier-m1": "**OTV**, one probe token",
             "verifier-m4": "**OTV**, four probe tokens"}  # fmt: skip
    return kinds.get(model, f"`{name}`" if reads else f"`{model}`")


REMOVED = " `taps` and `features` of `otv`'s kind were trained as inputs of the head by commit 9ae7ebc; as they brought nothing there, that code was removed."


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
        f"{f' Not trained: {left_out}.' if left_out else ''}{REMOVED if 'taps' in found['changed'] else ''}{measured(found)}"
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
