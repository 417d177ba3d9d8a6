"""The report's tables, as cells: what HTML and Markdown both print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trueplex.evals.metrics import FEW, paired, share_interval
from trueplex.report.read import Learning, Material, Run, last

NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?")
TOO_FEW = "too few to tell"


@dataclass(slots=True)
class Table:
    """A heading, what to know to read it, and the cells.

    Higher is better in the columns named by ``marked``, whose best cell of each group is marked: rows whose first cell is
    the same are a group, or all rows where there are no ``groups``. ``folded`` tables are opened by the reader.
    """

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    marked: tuple[str, ...] = ()
    groups: bool = True
    folded: bool = False

    def numeric(self) -> set[int]:
        """The columns of numbers, which are aligned to the right."""
        return {at for at in range(1, len(self.head))
                if (cells := [row[at] for row in self.rows if row[at] not in ("–", "")]) and all(map(NUMBER.match, cells))}  # fmt: skip

    def best(self) -> set[tuple[int, int]]:
        """(row, column) of the best cells; none where a group is one row, or has too few problems."""
        found: set[tuple[int, int]] = set()
        for name in dict.fromkeys(row[0] if self.groups else "" for row in self.rows):
            rows = [at for at, row in enumerate(self.rows) if not self.groups or row[0] == name]
            for column in (
                at for at, head in enumerate(self.head) if head in self.marked and TOO_FEW not in name + head
            ):
                values = {
                    at: float(m[0].replace("−", "-").replace(",", ""))
                    for at in rows
                    if (m := NUMBER.match(self.rows[at][column]))
                }
                if len(values) > 1:
                    found |= {(at, column) for at, value in values.items() if value == max(values.values())}
        return found

    def markdown(self) -> str:
        """The table as Markdown, its best cells bold."""
        numeric, best = self.numeric(), self.best()
        rule = ["---:" if at in numeric else "---" for at in range(len(self.head))]
        cells = [[f"**{cell}**" if (at, column) in best else cell for column, cell in enumerate(row)] for at, row in enumerate(self.rows)]  # fmt: skip
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [self.head, rule, *cells])  # fmt: skip
        return f"## {self.title}\n\n{self.note}\n\n{body}\n"


def percent(cell: dict[str, Any] | None, problems: int = 0) -> str:
    """A share with its interval, in %; at 0 and 100 % Wilson's over so many problems, where the number is known."""
    if not cell:
        return "–"
    low, high = cell["low"], cell["high"]
    if problems and low == high and cell["mean"] in (0, 1):
        low, high = share_interval(cell["mean"], problems)
    return f"{100 * cell['mean']:.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def signed(cell: dict[str, Any] | None) -> str:
    """A difference with its interval, in points."""
    if not cell:
        return "–"
    mean, low, high = (100 * cell[name] + 0.0 for name in ("mean", "low", "high"))  # + 0.0: no minus before a zero
    return f"{mean:+.1f} [{round(low) + 0:+d}, {round(high) + 0:+d}]"


def area(cell: dict[str, Any] | float | None, problems: int = FEW) -> str:
    """An AUROC with its interval where the results have one; none over too few problems."""
    if cell is None or not cell:
        return "–"
    if problems < FEW:
        return f"– ({problems} problems)"
    return f"{cell['mean']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]" if isinstance(cell, dict) else f"{cell:.2f}"


def ranked(suite: dict[str, Any]) -> int:
    """How many problems have both right and wrong traces: those that an AUROC within problems is a mean over."""
    return sum(0 < right < suite["samples"] for right in suite["right"])


def called(name: str, problems: int | None) -> str:
    """A suite by its name, and a warning where it has few problems."""
    return name if problems is None or problems >= FEW else f"{name} ({problems} problems: {TOO_FEW})"


def glance(material: Material) -> Table:
    """pass@1 of every run on every suite: the table to look at first."""
    runs = [run for run in material.runs if not run.limit] or material.runs
    head = [called(s, next(r.suites[s]["problems"] for r in material.runs if s in r.suites)) for s in material.suites]
    cells = [[percent(f["pass"]["1"], f["problems"]) if (f := run.suites.get(suite)) else "–" for suite in material.suites] for run in runs]  # fmt: skip
    note = (
        "pass@1: percent right with one trace, with 95 % intervals over problems; the highest of each suite is marked."
    )
    return Table("At a glance", note, ["thinking", *head], [[run.name, *row] for run, row in zip(runs, cells, strict=True)],
                 tuple(head), groups=False)  # fmt: skip


def main(material: Material) -> Table:
    """One line a suite and run: one trace, the votes over all, and what any trace reaches."""
    rows = []
    for suite in material.suites:
        for run in material.runs:
            if f := run.suites.get(suite):
                n = str(f["samples"])
                problems = f["problems"]
                votes = [percent(f["methods"].get(m, {}).get(n), problems) for m in ("majority", "weighted", "best")]
                within = area(f.get("auroc_within", {}).get("1.0"), ranked(f))
                rows.append([called(suite, problems), run.name, n, percent(f["pass"]["1"], problems), *votes,
                             percent(f["pass"][n], problems), within, f"{f['tokens']['mean']:.0f}", f"{100 * f['truncated']:.1f}"])  # fmt: skip
    head = ["suite", "thinking", "n", "pass@1", "majority of n", "weighted of n", "best of n", "pass@n", "AUROC within", "tokens",
            "truncated, %"]  # fmt: skip
    note = ("Percent right with 95 % bootstrap intervals over problems (Wilson's at 0 and 100 %). AUROC within: how well the score "
            f"ranks the traces of one problem, over problems with right and wrong traces; not given under {FEW} of them.")  # fmt: skip
    kept = [place for place in range(len(head)) if any(row[place] != "–" for row in rows)]
    return Table("All runs and votes", note, [head[p] for p in kept], [[row[p] for p in kept] for row in rows],
                 ("pass@1", "majority of n", "weighted of n", "best of n", "pass@n", "AUROC within"), folded=len(rows) > 12)  # fmt: skip


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
                rows.append([called(suite, one["problems"]), run.name, *map(signed, cells), f"{counts['win']} / {counts['tie']} / {counts['loss']}",
                             f"{one['tokens']['mean'] / other['tokens']['mean'] - 1:+.0%}".replace("%", " %")])  # fmt: skip
    head = ["suite", "thinking", "pass@1", "majority", "weighted", "win / tie / loss at pass@1", "tokens"]
    note = f"Points above or below {first.name} on the same problems; votes over all traces. Win: problems on which it is right more often."
    marked = ("pass@1", "majority", "weighted")
    return Table(f"Compared with {first.name}", note, head, rows, marked, folded=len(rows) > 12) if rows else None


def _gain(one: dict[str, Any], other: dict[str, Any], method: str | None) -> dict[str, Any]:
    if method is None:
        return paired([r / one["samples"] for r in one["right"]], [r / other["samples"] for r in other["right"]])
    return paired(one["votes"][method], other["votes"][method])


def pairs(run: Run, suites: Sequence[str]) -> Table:
    """Every method of a run against the majority, and its best rival."""
    rows = []
    for suite in suites:
        if (f := run.suites.get(suite)) is None:
            continue
        for p in f["pairs"]:
            if p["one"] == "majority" or {"weighted", "best"} == {p["one"], p["other"]}:
                flipped = {**p, "mean": -p["mean"], "low": -p["high"], "high": -p["low"]}
                rows.append([called(suite, f["problems"]), f"{p['other']} − {p['one']}", str(p["of"]), signed(flipped),
                             f"{p['loss']} / {p['tie']} / {p['win']}"])  # fmt: skip
    note = "Differences on the same traces, with intervals; win, tie and loss count problems. All other pairs are in results.json."
    head = ["suite", "pair", "traces", "points", "win / tie / loss"]
    return Table(f"Methods pair by pair: {run.name}", note, head, rows, folded=True)


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
            rows.append(
                [
                    called(suite, run.suites[suite]["problems"]),
                    method,
                    *(percent(cells[p]) if p < len(cells) else "–" for p in places),
                ]
            )
    note = ("Percent right when every method spends the tokens that so many whole traces take; between two sizes a method is mixed "
            "so that it spends them on average. –: the method cannot spend so little, or so much.")  # fmt: skip
    return Table(f"At equal tokens: {run.name}", note, head, rows, tuple(head[2:]), folded=True)


def outcomes(material: Material) -> Table:
    """How traces ended; those that could not be graded are counted apart from wrong ones."""
    rows = [[called(suite, run.suites[suite]["problems"]), run.name, *(str(c) for c in run.suites[suite]["outcomes"].values())]
            for suite in material.suites for run in material.runs if suite in run.suites]  # fmt: skip
    names = list(next(iter(material.runs[0].suites.values()))["outcomes"])
    names = ["pruned" if name == "retired" else name for name in names]
    note = "Traces, each counted once. Unreadable, incomparable and timed out: the grader could not judge them; they count as wrong above."
    return Table("How traces ended", note, ["suite", "thinking", *names], rows, folded=True)


def scores(run: Run) -> Table:
    """What eval-verifier found, every scorer on the same traces."""
    rows = []
    for suite, judged in run.suites.items():
        problems = judged.get("problems")
        for name, f in judged["scorers"].items():
            told = FEW if problems is None else problems
            within = [area(f["within"][share], told) for share in ("0.5", "1.0")]
            error = f.get("calibration")
            rows.append([called(suite, problems), last(name), *within, area(f["over_all"]["1.0"], told), percent(f["votes"]["weighted"], problems or 0),
                         signed(f["votes"]["weighted_minus_majority"]), f"{error['ece']['mean']:.3f}" if error else "–"])  # fmt: skip
    head = [
        "suite",
        "score",
        "within, at half",
        "within, at the end",
        "over all, at the end",
        "weighted vote, %",
        "− majority",
        "ECE",
    ]
    note = "AUROC within problems and over all traces, and how often a vote weighted by each score is right. ECE: expected calibration error."
    return Table(f"Scores on the same traces: {run.name}", note, head, rows, tuple(head[2:6]), folded=len(rows) > 12)


def learned(runs: Sequence[Learning]) -> Table:
    """How training runs moved: what was validated first, last and best, and means of the first and last tenth of the steps."""
    rows = []
    for run in runs:
        right = run.validation.get("right", [])
        judged = [f"{100 * right[0]:.1f}", f"{100 * right[-1]:.1f}", f"{100 * max(right):.1f}"] if right else ["–"] * 3
        rows.append([run.name, str(max(map(len, run.curves.values()))), *judged,
                     *(_moved(run.curves.get(name), digits) for name, digits in (("reward", 3), ("tokens", 0), ("entropy", 3)))])  # fmt: skip
    head = ["run", "steps", "validation, first, %", "last", "best", "reward", "tokens of a trace", "entropy, nats"]
    note = "Right on validation, in %; the rest: mean of the first tenth of the steps → of the last."
    return Table("Training runs", note, head, rows, ("last", "best"), groups=False)


def _moved(values: Sequence[float] | None, digits: int) -> str:
    if not values:
        return "–"
    tenth = max(1, len(values) // 10)
    first, last = (sum(part) / tenth for part in (values[:tenth], values[-tenth:]))
    return f"{first:.{digits}f} → {last:.{digits}f}"


def _where(config: dict[str, Any]) -> tuple[str, str]:
    """Which model it was, and on what it ran."""
    if "endpoint" in config:
        return config["model"], config["endpoint"]
    return f"{config['model']} ({config['fingerprint'][:8]})", f"{config['dtype']} on {config['device']}"


def configurations(material: Material) -> Table:
    """What was run, so that it can be run again."""
    rows = []
    for run in material.runs:
        c = run.config
        s, e = c["sampling"], c.get("ending", {})
        machine = run.result.get("machine", {})
        rows.append([run.name, *_where(c), str(c["paths"]),
                     f"T {s['temperature']:g}, top-p {s.get('top_p', 1):g}, top-k {s.get('top_k', 0)}", str(c.get("max_tokens", "")),
                     str(e.get("think_tokens") or "–"), str(c["seed"]),
                     f"trueplex {machine.get('trueplex', '0.1')}, torch {machine.get('torch', '?')}"])  # fmt: skip
    head = [
        "thinking",
        "model",
        "precision",
        "traces",
        "sampling",
        "token limit",
        "thinking budget",
        "seed",
        "made with",
    ]
    return Table("What was run", "", head, rows, groups=False, folded=True)
