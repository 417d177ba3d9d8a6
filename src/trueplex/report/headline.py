"""What a report found, in a sentence or two, computed from its figures.

A difference is stated as one where its whole 95 % interval is on one side of zero, over at least `FEW` problems; otherwise
the sentence says that there are too few problems, or that no difference was found.
"""

from __future__ import annotations

from typing import Any

from trueplex.evals.metrics import FEW, figure, paired
from trueplex.report.figures import learning_looks
from trueplex.report.read import Material, Run, last

Cell = dict[str, Any]


def headlines(material: Material) -> list[str]:
    """A sentence for each kind of results that there is."""
    runs = [run for run in material.runs if not run.limit] or material.runs
    told = [_between(runs) if len(runs) > 1 else _alone(runs[0])] if runs else []
    told += [_scores(run) for run in material.scores]
    return [sentence for sentence in [*told, *([_learning(material)] if material.learning else [])] if sentence]


def _right(run: Run) -> dict[str, dict[str, float]]:
    """How often each problem is right with one trace, by suite and id."""
    return {
        suite: dict(zip(f["ids"], (r / f["samples"] for r in f["right"]), strict=True))
        for suite, f in run.suites.items()
    }


def _difference(one: Run, other: Run) -> tuple[Cell, int, int] | None:
    """pass@1 of one run less another's over the problems that both had: the figure, how many problems, and of how many suites."""
    mine, theirs = _right(one), _right(other)
    shared = [s for s in mine if list(mine[s]) == list(theirs.get(s, {}))]
    pairs = [(mine[s][i], theirs[s][i]) for s in shared for i in mine[s]]
    return (paired(*zip(*pairs, strict=True)), len(pairs), len(shared)) if pairs else None  # type: ignore[arg-type]


def _between(runs: list[Run]) -> str:
    """The run that is furthest above the first, and by how much."""
    first, *others = runs
    found = [(run, told) for run in others if (told := _difference(run, first))]
    if not found:
        return "These runs were not asked the same problems, so they cannot be compared."
    run, (cell, problems, suites) = max(found, key=lambda pair: pair[1][0]["mean"])
    where = f"{problems} problems of {suites} suites" if suites > 1 else f"{problems} problems"
    among = f", the highest of {len(found)} compared," if len(found) > 1 else ""
    if problems < FEW:
        return f"{_capital(run.name)} against {first.name}: {problems} problems are too few to tell."
    if cell["low"] > 0:
        return f"With one trace, {run.name}{among} is right {_points(cell)} more often than {first.name} ({where})."
    if cell["high"] < 0:
        best = "No run is above" if len(found) > 1 else f"{_capital(run.name)} is below"
        return f"{best} {first.name} with one trace: {run.name} is right {_points(cell, -1)} less often ({where})."
    return f"With one trace, no difference is found between {run.name} and {first.name}: {_signed(cell)} ({where})."


def _alone(run: Run) -> str:
    """What the best vote over all traces adds to a single trace."""
    problems = sum(f["problems"] for f in run.suites.values())
    where = f"{problems} problems" + (f" of {len(run.suites)} suites" if len(run.suites) > 1 else "")
    if problems < FEW:
        return f"{_capital(run.name)}: {problems} problems are too few to tell."
    single = [right for suite in _right(run).values() for right in suite.values()]
    votes = {name: [v for f in run.suites.values() for v in f["votes"][name]]
             for name in ("weighted", "majority") if all(name in f["votes"] for f in run.suites.values())}  # fmt: skip
    start = f"{_capital(run.name)} is right on {_share(figure(single))} with one trace"
    if not votes:
        return f"{start} ({where})."
    name, values = max(votes.items(), key=lambda item: sum(item[1]))
    n = min(f["samples"] for f in run.suites.values())
    gain = paired(values, single)
    told = "no difference found" if gain["low"] <= 0 <= gain["high"] else _signed(gain)
    return f"{start}, and the {name} vote of {n} on {_share(figure(values))}: {told} ({where})."


def _scores(run: Run) -> str:
    """The score that ranks the traces of a problem best at their end, as a mean over suites."""
    problems = sum(f.get("problems", 0) for f in run.suites.values())
    names = [
        n for n in next(iter(run.suites.values()))["scorers"] if all(n in f["scorers"] for f in run.suites.values())
    ]
    ends = {n: [f["scorers"][n]["within"]["1.0"] for f in run.suites.values()] for n in names}
    means = {n: sum(c["mean"] for c in cells) / len(cells) for n, cells in ends.items() if all(cells)}
    if not means or problems < FEW:
        return f"Scores on the traces of {run.name}: {problems} problems are too few to tell."
    best = max(means, key=lambda n: means[n])
    low, high = (min(c["low"] for c in ends[best]), max(c["high"] for c in ends[best]))
    among = f"Of {len(means)} scores, {last(best)} ranks" if len(means) > 1 else f"{_capital(last(best))} ranks"
    suites = f"on average over {len(run.suites)} suites, intervals from {low:.2f} to {high:.2f}"
    span = suites if len(run.suites) > 1 else f"interval {low:.2f} to {high:.2f}"
    return f"{among} the traces of a problem best: AUROC {means[best]:.2f} at their end ({span}; {problems} problems)."


def _learning(material: Material) -> str:
    """Where the best-ending training run began and ended on validation."""
    judged = {run.name: run.validation["right"] for run in material.learning if run.validation.get("right")}
    if not judged:
        return ""
    name = max(judged, key=lambda n: judged[n][-1]) if len(judged) > 1 else learning_looks(material.learning).names[0]
    values = judged.get(name) or next(iter(judged.values()))
    among = f", the highest of {len(judged)}," if len(judged) > 1 else ""
    return (
        f"In training, {name}{among} went from {100 * values[0]:.1f} to {100 * values[-1]:.1f} % right on validation."
    )


def _points(cell: Cell, sign: int = 1) -> str:
    low, high = sorted(100 * sign * cell[end] for end in ("low", "high"))
    return f"{100 * sign * cell['mean']:.1f} points [{low:.1f}, {high:.1f}]"


def _signed(cell: Cell) -> str:
    return f"{100 * cell['mean']:+.1f} points [{100 * cell['low']:+.1f}, {100 * cell['high']:+.1f}]"


def _share(cell: Cell | None) -> str:
    assert cell is not None
    return f"{100 * cell['mean']:.1f} % [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
