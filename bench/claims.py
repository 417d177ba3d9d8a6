"""The papers' claims, checked against the results files: which hold at this scale, which do not, and which remain open.

A claim is a difference over the same problems. It holds where the whole 95 % interval is on its side of zero, it
fails where the whole interval is on the other, and is open otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trueplex.evals.metrics import paired, pass_at

Results = dict[str, dict[str, Any]]
K = "multiplex3"


def same_problems(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Results from before problems had a fixed order cannot be paired."""
    return "ids" in one and one["ids"] == other.get("ids")


def gain(one: dict[str, Any], other: dict[str, Any], k: int = 1) -> dict[str, Any]:
    """The difference in pass@k over the same problems."""
    assert same_problems(one, other)
    values = [[pass_at(f["samples"], right, k) for right in f["right"]] for f in (one, other)]
    return paired(*values)


def points(cell: dict[str, Any]) -> str:
    return f"{100 * cell['mean']:+.1f} [{100 * cell['low']:+.0f}, {100 * cell['high']:+.0f}]"


def verdict(cells: Sequence[dict[str, Any]], alike: bool = False) -> str:
    """The verdict over all suites, in words. ``alike`` claims that there is no difference."""
    above, below = sum(c["low"] > 0 for c in cells), sum(c["high"] < 0 for c in cells)
    if alike:
        return "no difference found" if not above + below else f"fails on {above + below} of {len(cells)} suites"
    if not above + below:
        return "open"
    if below:
        return (
            f"holds on {above}, fails on {below} of {len(cells)} suites"
            if above
            else f"fails on {below} of {len(cells)} suites"
        )
    return "holds" if above == len(cells) else f"holds on {above} of {len(cells)} suites, open on the others"


def row(claim: str, cells: dict[str, dict[str, Any]], alike: bool = False) -> list[str]:
    found = "; ".join(f"{suite} {points(cell)}" for suite, cell in cells.items())
    return [claim, f"**{verdict(list(cells.values()), alike)}**", found]


def between(results: Results, one: str, other: str, k: int | str = 1) -> dict[str, dict[str, Any]] | None:
    """pass@k of one way of thinking less another's, by suite; None without both. ``most`` is the largest k of both."""
    if one not in results or other not in results:
        return None
    a, b = results[one]["suites"], results[other]["suites"]
    cells = {}
    for suite in a:
        if suite in b and same_problems(a[suite], b[suite]):
            size = min(a[suite]["samples"], b[suite]["samples"]) if k == "most" else int(k)
            cells[suite] = gain(a[suite], b[suite], size)
    return cells or None


def shorter(results: Results, one: str, other: str) -> dict[str, dict[str, Any]] | None:
    """The share of tokens that one way saves against another, by suite; as wide as both intervals allow."""
    if one not in results or other not in results:
        return None
    a, b = results[one]["suites"], results[other]["suites"]
    cells = {}
    for suite in (s for s in a if s in b and same_problems(a[s], b[s])):
        low, high = (1 - a[suite]["tokens"][x] / b[suite]["tokens"][y] for x, y in (("high", "low"), ("low", "high")))
        cells[suite] = {"mean": 1 - a[suite]["tokens"]["mean"] / b[suite]["tokens"]["mean"], "low": low, "high": high}
    return dict(sorted(cells.items()))


def thinking_claims(study: Results) -> list[list[str]]:
    """Multiplex Thinking's claims about sampling, without any training."""
    asked = [
        ("Multiplex K = 3 is above discrete at one sample", between(study, K, "discrete"), False),
        ("Multiplex K = 3 is above stochastic soft thinking at one sample", between(study, K, "gumbel"), False),
        ("Multiplex K = 3 is above discrete at the largest k of pass@k", between(study, K, "discrete", "most"), False),
        ("Multiplex K = 3 is above soft thinking at the largest k of pass@k (soft draws nothing)", between(study, K, "soft", "most"), False),
        ("K = 2 is above discrete at one sample", between(study, "multiplex2", "discrete"), False),
        ("K = 3 is above K = 2", between(study, K, "multiplex2"), False),
        ("K = 6 is above K = 3", between(study, "multiplex6", K), False),
        ("Mean and weighted merging perform alike (K = 3)", between(study, "multiplex3mean", K), True),
        ("Multiplex traces are shorter than discrete ones (tokens saved, %; as wide as both intervals allow)", shorter(study, K, "discrete"), False),
    ]  # fmt: skip
    return [row(claim, cells, alike) for claim, cells, alike in asked if cells]


def verifier_claims(reference: Results) -> list[list[str]]:
    """One-Token Verification's claims about votes and ranking, on the traces of `make measure`."""
    rows = []
    for mode, result in reference.items():
        suites = result["suites"]
        n = str(next(iter(suites.values()))["samples"])
        rows.append(row(f"The weighted vote of {n} is above the majority ({mode})",
                        {s: f["weighted_minus_majority"][n] for s, f in suites.items()}))  # fmt: skip
        rows.append(
            row(f"Best of 16 is above one sample ({mode})", {s: f["best_minus_pass1"]["16"] for s, f in suites.items()})
        )
        for share, title in (("0.5", "at half of a trace"), ("1.0", "at its end")):
            ranked = {s: {k: v - 0.5 for k, v in f["auroc_within"][share].items()} for s, f in suites.items()}
            rows.append(
                row(f"Scores rank the traces of a problem better than chance {title} ({mode}; AUROC − 50)", ranked)
            )
    return rows


VERIFIERS = (
    "auto",
    "plain",
    "one-token",
    "one-token-measured",
)  # One-Token verifiers, which are no rivals of each other


def rival_claims(judged: Results) -> list[list[str]]:
    """The first verifier against the best of its rivals, suite by suite, on the same traces; those not trained on its rollouts too."""
    rows = []
    for mode, result in judged.items():
        ranked: dict[str, dict[str, Any]] = {"1.0": {}, "0.5": {}}
        voted = {}
        for suite, f in result["suites"].items():
            rivals = {
                n: s
                for n, s in f["scorers"].items()
                if "first_minus_this" in s and short(n) not in VERIFIERS and not combines(n)
            }
            for share, behind in (("1.0", "first_minus_this"), ("0.5", "first_minus_this_at_half")):
                best = max(rivals, key=lambda name: rivals[name]["within"][share]["mean"])
                ranked[share][f"{suite}, to `{short(best)}`"] = rivals[best][behind]
            best = max(rivals, key=lambda name: rivals[name]["votes"]["weighted"]["mean"])
            voted[f"{suite}, to `{short(best)}`"] = rivals[best]["votes"]["first_minus_this"]
        n = max(f["votes"]["paths"] for s in result["suites"].values() for f in s["scorers"].values())
        for share, title in (("1.0", "at their end"), ("0.5", "at half")):
            rows.append(
                row(
                    f"OTV combined with free scores ranks the traces of a problem better {title} than its best rival ({mode}; AUROC)",
                    ranked[share],
                )
            )
        rows.append(row(f"Its weighted vote of {n} paths is above that of its best rival ({mode})", voted))
    return rows


CLAIMED = {
    "weighted~half:4/8": "",
    "weighted~half:4/4": "",
    "weighted~half:4/4+auto": ", added after the others were measured on these traces",
}  # policies, and what is to be said of how they were chosen


def deciding_claims(found: dict[str, Any]) -> list[list[str]]:
    """Halving by the verifier's score saves most tokens of 128 paths, and is not significantly below their vote."""
    rows = []
    for mode, suites in found.get("modes", {}).items():
        for name, chosen in CLAIMED.items():
            cells = {suite: f["of_128"][name]["minus weighted"] for suite, f in suites.items()}
            saved = [f["of_128"][name]["saved"] for f in suites.values()]
            lost = sum(cell["high"] < 0 for cell in cells.values())
            told = row(
                f"`{name}` loses nothing to the vote of 128, for {100 * sum(saved) / len(saved):.0f} % fewer tokens ({mode}{chosen})",
                cells,
            )
            rows.append(
                [
                    told[0],
                    f"**{'holds: no loss found' if not lost else f'fails on {lost} of {len(cells)} suites'}**",
                    told[2],
                ]
            )
    return rows


def learning_claims(tests: dict[str, Sequence[dict[str, Any]]]) -> list[list[str]]:
    """Multiplex learning against discrete learning: the means of their seeds, problem by problem."""
    discrete, multiplex = tests.get("discrete", ()), tests.get("K = 3", ())
    if not discrete or not multiplex:
        return []
    rows = []
    for k in (1, 64):
        cells = {}
        for suite, first in discrete[0]["suites"].items():
            if not all(same_problems(t["suites"][suite], first) for t in (*discrete, *multiplex)):
                return []  # some were regenerated, others not yet
            one, other = (
                np.mean([[pass_at(f["samples"], right, k) for right in f["right"]] for f in (t["suites"][suite] for t in some)], axis=0)
                for some in (multiplex, discrete)
            )  # fmt: skip
            cells[suite] = paired(one.tolist(), other.tolist())
        seeds = f"means of {len(multiplex)} and {len(discrete)} seeds"
        rows.append(
            row(f"Learning to think in multiplex tokens ends above discrete learning (pass@{k}; {seeds})", cells)
        )
    return rows


def combines(scorer: str) -> bool:
    return scorer.partition(":")[0] == "combined"


def short(scorer: str) -> str:
    return scorer.rpartition("/")[2]


def study_table(study: Results) -> list[list[str]]:
    """A line per suite and way of thinking: pass@k, tokens, the paired difference to discrete."""
    rows = []
    for suite in study["discrete"]["suites"]:
        plain = study["discrete"]["suites"][suite]
        for name, result in study.items():
            f = result["suites"].get(suite)
            if f is None:
                continue
            sizes = [k for k in ("1", "4", "16", "64") if k in plain["pass"]]
            cells = [f"{100 * f['pass'][k]['mean']:.1f}" if k in f["pass"] else "–" for k in sizes]
            apart = points(gain(f, plain)) if name != "discrete" and same_problems(f, plain) else "–"
            rows.append([suite, name, *cells, apart, f"{f['tokens']['mean']:.0f}", f"{100 * f['truncated']:.1f}",
                         f"{100 * np.nan_to_num(f['explored']['mean']):.0f}"])  # fmt: skip
    return rows
