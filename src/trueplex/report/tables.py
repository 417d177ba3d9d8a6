"""The report's tables, as cells: what HTML and Markdown both print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueplex.evals.metrics import paired
from trueplex.report.read import Learning, Material, Run


@dataclass(slots=True)
class Table:
    """A heading, what to know to read it, and the cells."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return f"## {self.title}\n\n{self.note}\n\n{body}\n"


def percent(cell: dict[str, Any] | None) -> str:
    return "–" if not cell else f"{100 * cell['mean']:.1f} [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"


def signed(cell: dict[str, Any] | None) -> str:
    if not cell:
        return "–"
    mean, low, high = (100 * cell[name] + 0.0 for name in ("mean", "low", "high"))  # + 0.0: no minus before a zero
    return f"{mean:+.1f} [{round(low) + 0:+d}, {round(high) + 0:+d}]"


def main(material: Material) -> Table:
    """One line a suite and run: one trace, the votes over all, and what any trace reaches."""
    rows = []
    for suite in material.suites:
        for run in material.runs:
            if f := run.suites.get(suite):
                n = str(f["samples"])
                votes = [percent(f["methods"].get(m, {}).get(n)) for m in ("majority", "weighted", "best")]
                within = f.get("auroc_within", {}).get("1.0")
                rows.append([suite, run.name, n, percent(f["pass"]["1"]), *votes, percent(f["pass"][n]),
                             f"{within['mean']:.2f}" if within else "–", f"{f['tokens']['mean']:.0f}",
                             f"{100 * f['truncated']:.1f}"])  # fmt: skip
    head = ["suite", "thinking", "n", "pass@1", "majority of n", "weighted of n", "best of n", "pass@n", "AUROC within", "tokens",
            "truncated"]  # fmt: skip
    note = ("Percent right with 95 % bootstrap intervals over problems. A vote over k of n traces is the mean over disjoint groups "
            "of k; AUROC within: how well the score ranks the traces of one problem.")  # fmt: skip
    kept = [place for place in range(len(head)) if any(row[place] != "–" for row in rows)]
    return Table("Main results", note, [head[p] for p in kept], [[row[p] for p in kept] for row in rows])


def compared(material: Material) -> Table | None:
    """Every run against the first, problem by problem, where the problems are the same."""
    if len(material.runs) < 2:
        return None
    first, rows = material.runs[0], []
    for suite in material.suites:
        for run in material.runs[1:]:
            one, other = run.suites.get(suite), first.suites.get(suite)
            if one and other and one["ids"] == other["ids"]:
                cells: list[dict[str, Any] | None] = [_gain(one, other, None)]
                cells += [
                    _gain(one, other, m) if m in one["votes"] and m in other["votes"] else None
                    for m in ("majority", "weighted")
                ]
                counts = cells[0] or {}
                rows.append([suite, run.name, *map(signed, cells), f"{counts['win']} / {counts['tie']} / {counts['loss']}",
                             f"{one['tokens']['mean'] / other['tokens']['mean'] - 1:+.0%}".replace("%", " %")])  # fmt: skip
    head = ["suite", "thinking", "pass@1", "majority", "weighted", "win / tie / loss at pass@1", "tokens"]
    note = f"Points above {first.name} on the same problems; votes over all traces. Win: problems on which it is more often right."
    return Table(f"Against {first.name}", note, head, rows) if rows else None


def _gain(one: dict[str, Any], other: dict[str, Any], method: str | None) -> dict[str, Any]:
    if method is None:
        return paired([r / one["samples"] for r in one["right"]], [r / other["samples"] for r in other["right"]])
    return paired(one["votes"][method], other["votes"][method])


def pairs(run: Run, suites: Sequence[str]) -> Table:
    """Every method of a run against the majority, and its best rival."""
    rows = []
    for suite in suites:
        f = run.suites.get(suite)
        for p in f["pairs"] if f else ():
            if p["one"] == "majority" or {"weighted", "best"} == {p["one"], p["other"]}:
                flipped = {**p, "mean": -p["mean"], "low": -p["high"], "high": -p["low"]}
                rows.append([suite, f"{p['other']} − {p['one']}", str(p["of"]), signed(flipped),
                             f"{p['loss']} / {p['tie']} / {p['win']}"])  # fmt: skip
    note = "Differences on the same traces, with intervals; win, tie and loss count problems. All other pairs are in results.json."
    return Table(
        f"Methods pair by pair: {run.name}", note, ["suite", "pair", "traces", "points", "win / tie / loss"], rows
    )


def budgets(run: Run, suites: Sequence[str]) -> Table:
    """All methods at the same number of tokens."""
    rows, head = [], ["suite", "method"]
    shown = [run.suites[s] for s in suites if s in run.suites and "budget" in run.suites[s]]
    sizes = list(shown[0]["pass"])[::2] if shown else []
    places = [list(shown[0]["pass"]).index(k) for k in sizes] if shown else []
    head += [f"tokens of {k}" if k != "1" else "tokens of one trace" for k in sizes]
    for suite in suites:
        found = run.suites.get(suite, {}).get("budget")
        for method, cells in found["right"].items() if found else ():
            rows.append([suite, method, *(percent(cells[p]) if p < len(cells) else "–" for p in places)])
    note = ("Percent right when all spend the tokens that so many whole traces take; between two sizes a method is mixed so that "
            "it spends them on average. –: the method cannot spend so little, or so much.")  # fmt: skip
    return Table(f"At equal tokens: {run.name}", note, head, rows)


def outcomes(material: Material) -> Table:
    """How traces ended; what could not be graded is no wrong answer."""
    rows = [[suite, run.name, *(str(c) for c in run.suites[suite]["outcomes"].values())]
            for suite in material.suites for run in material.runs if suite in run.suites]  # fmt: skip
    names = list(next(iter(material.runs[0].suites.values()))["outcomes"])
    note = "Traces, each counted once. Unreadable, incomparable and timed out are the grader's failures, and count as wrong above."
    return Table("How traces ended", note, ["suite", "thinking", *names], rows)


def scores(run: Run) -> Table:
    """What eval-verifier found, every scorer on the same traces."""
    rows = []
    for suite, judged in run.suites.items():
        for name, f in judged["scorers"].items():
            cells = [
                f"{c['mean']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" if c else "–"
                for c in (f["within"]["0.5"], f["within"]["1.0"])
            ]
            error, over_all = f.get("calibration"), f["over_all"]["1.0"]
            if isinstance(over_all, dict):  # results of before it had an interval hold the number alone
                cells.append(f"{over_all['mean']:.2f} [{over_all['low']:.2f}, {over_all['high']:.2f}]")
            else:
                cells.append("–" if over_all is None else f"{over_all:.2f}")
            rows.append([suite, name, *cells, percent(f["votes"]["weighted"]), signed(f["votes"]["weighted_minus_majority"]),
                         f"{error['ece']['mean']:.3f}" if error else "–"])  # fmt: skip
    head = [
        "suite",
        "score",
        "within, at half",
        "within, at the end",
        "over all, at the end",
        "weighted vote",
        "− majority",
        "ECE",
    ]
    return Table(
        f"Scores on the same traces: {run.name}",
        "AUROC within problems and over all traces, and what the vote weighted by each comes to.",
        head,
        rows,
    )


def learned(runs: Sequence[Learning]) -> Table:
    """How training runs moved: what was validated first, last and best, and means of the first and last tenth of the steps."""
    rows = []
    for run in runs:
        right = run.validation.get("right", [])
        judged = [f"{100 * right[0]:.1f}", f"{100 * right[-1]:.1f}", f"{100 * max(right):.1f}"] if right else ["–"] * 3
        rows.append([run.name, str(max(map(len, run.curves.values()))), *judged,
                     *(_moved(run.curves.get(name), digits) for name, digits in (("reward", 3), ("tokens", 0), ("entropy", 3)))])  # fmt: skip
    head = ["run", "steps", "validation, first, %", "last", "best", "reward", "tokens of a trace", "entropy, nats"]
    return Table(
        "Runs", "Validation as it was judged; the rest: mean of the first tenth of the steps → of the last.", head, rows
    )


def _moved(values: Sequence[float] | None, digits: int) -> str:
    if not values:
        return "–"
    tenth = max(1, len(values) // 10)
    first, last = (sum(part) / tenth for part in (values[:tenth], values[-tenth:]))
    return f"{first:.{digits}f} → {last:.{digits}f}"


def configurations(material: Material) -> Table:
    """What was run, so that it can be run again."""
    rows = []
    for run in material.runs:
        c = run.config
        s, e = c["sampling"], c.get("ending", {})
        machine = run.result.get("machine", {})
        rows.append([run.name, f"{c['model']} ({c['fingerprint'][:8]})", f"{c['dtype']} on {c['device']}", str(c["paths"]),
                     f"T {s['temperature']:g}, top-p {s.get('top_p', 1):g}, top-k {s.get('top_k', 0)}", str(c.get("max_tokens", "")),
                     str(e.get("think_tokens") or "–"), str(c["seed"]), f"torch {machine.get('torch', '?')}"])  # fmt: skip
    head = [
        "thinking",
        "model",
        "precision",
        "traces",
        "sampling",
        "most tokens",
        "thinking budget",
        "seed",
        "made with",
    ]
    return Table("What was run", "", head, rows)
