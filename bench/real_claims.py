"""The papers' claims on the real model, each with its verdict, our figures, and what the paper reports."""

from __future__ import annotations

from typing import Any

from cells import read
from claims import gain, points, same_problems, verdict

OTV = "weighted vote best at every model size (Qwen3-4B, Qwen3-8B, DAPO-Qwen-32B; AIME)"
HALF = "HALF 300: nearly 90 % less computation than Best-of-128, at or close to its accuracy"
ABOVE = "in all 12 settings above discrete RL, in 11 the best of all (R1-Distill-Qwen-1.5B and 7B)"


def told(cell: dict[str, Any] | None, suite: str = "") -> str:
    return "–" if cell is None else f"**{verdict([cell])}**: {suite + ' ' if suite else ''}{points(cell)}"


def real_claims() -> list[list[str]]:
    return [*vote_claims(), *mode_claims(), *learning_claims()]


def against(figures: dict[str, Any], one: str, other: str) -> dict[str, Any] | None:
    """The paired difference of two methods of one evaluation."""
    for pair in figures["pairs"]:
        if {pair["one"], pair["other"]} == {one, other}:
            sign = 1 if pair["one"] == one else -1
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            return {"mean": sign * pair["mean"] + 0.0, "low": low + 0.0, "high": high + 0.0}
    return None


def vote_claims() -> list[list[str]]:
    main = read("real/main.json")
    rows = []
    for part, title in (("scored-linear-test", "linear reading"), ("scored-m1-test", "one probe token"), ("scored-m4-test", "four"), ("scored-m1-math", "one, other problems than it learned from")):  # fmt: skip
        found = main and main["parts"].get(part)
        if not found:
            continue
        suite, f = next(iter(found["suites"].items()))
        n = f["samples"]
        rows.append(
            [
                f"The vote of {n} weighted by the verifier is above the majority ({title})",
                told(against(f, "weighted", "majority"), suite),
                OTV,
            ]
        )
        rows.append([f"The same, above the vote weighted by entropy ({title})", told(against(f, "weighted", "weighted:entropy"), suite), "above DeepConf's vote in each setting"])  # fmt: skip
        rows.append(no_loss(f, suite, title))
    return rows


def no_loss(f: dict[str, Any], suite: str, title: str) -> list[str]:
    """The policy of at most a fifth of the full vote's tokens that loses least, and whether that is less than 3 points."""
    n = str(f["samples"])
    whole = f["methods"]["weighted"][n]["tokens"]
    cheap = {name: by[n] for name, by in f["methods"].items() if name.startswith("weighted~") and by[n]["tokens"] <= 0.2 * whole}  # fmt: skip
    claim = f"At most 20 % of the tokens lose less than 3 points of the full vote ({title})"
    if not cheap:
        return [claim, "no policy of these was so cheap", HALF]
    name = max(cheap, key=lambda one: cheap[one]["mean"])
    lost = against(f, name, "weighted")
    assert lost is not None
    shown = "holds" if lost["low"] > -0.03 else "fails" if lost["high"] < -0.03 else "open"
    return [claim, f"**{shown}**: {suite} `{name}` {points(lost)} for {100 * cheap[name]['tokens'] / whole:.0f} % of the tokens; the best of {len(cheap)}, chosen on these problems", HALF]  # fmt: skip


def mode_claims() -> list[list[str]]:
    rows = []
    for name, which in (("modes", "untrained, no tags"), ("modes-tagged", "untrained, with tags")):
        found = read(f"real/{name}.json")
        if not found:
            continue
        compared = found["compared"].get("multiplex3", {}).get("one", {})
        cells = [(f"at T = {t}", cell) for t, cell in compared.get("at", {}).items()]
        cells += [("each at its own best temperature", compared["own best"])] if "own best" in compared else []
        cells += [(f"at mean entropy {cell['entropy']:.2f}", cell) for cell in compared.get("entropy", ())]
        rows += [[f"Multiplex K = 3 is above discrete at one sample, {how} ({which})", told(cell), ABOVE] for how, cell in cells]  # fmt: skip
        for mode, claim, paper in (
            ("multiplex2", "K = 2 is above K = 3", "K = 2 helps much already, 3 and 6 add less"), ("multiplex6", "K = 6 is above K = 3", "K = 2 helps much already, 3 and 6 add less"),
            ("multiplex3mean", "Merging by means is above merging by weights", "alike"), ("gumbel", "Stochastic soft thinking is above multiplex", "below multiplex in each setting of 7B"),
            ("soft", "Soft thinking is above multiplex", "–"),
        ):  # fmt: skip
            cell = next(iter(found["width"].get(mode, {}).get("one", {}).get("at", {}).values()), None)
            rows += [[f"{claim} ({which})", told(cell), paper]] if cell else []
    return rows


def learning_claims() -> list[list[str]]:
    found = read("real/learning.json")
    cell = learning_gain(found["parts"], "k3", "k1") if found else None
    return [["Multiplex learning ends above discrete learning", told(cell), ABOVE]] if cell else []


def learning_gain(parts: dict[str, Any], one: str, other: str) -> dict[str, Any] | None:
    """pass@1 of one run of learning (its test), or of the start of a way (``start-k1``), less another's."""
    results = [
        parts.get(name) and (parts[name] if name.startswith("start") else parts[name]["test"]) for name in (one, other)
    ]
    if not all(results):
        return None
    first, second = (next(iter(result["suites"].values())) for result in results)
    return gain(first, second) if same_problems(first, second) else None
