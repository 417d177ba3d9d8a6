"""The report's figures, one function each: results in, a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trueplex.report.drawing import FAINT, SIDES, Frame, Looks, looks, panels
from trueplex.report.read import Learning, Run, last

Groups = dict[str, list[tuple[float, Run]]]


def run_looks(runs: Sequence[Run]) -> Looks:
    """Colours of runs: the first, and the two with the highest pass@1, as a mean over their suites."""
    return looks({run.name: _mean([f["pass"]["1"]["mean"] for f in run.suites.values()]) for run in runs})


def method_looks(run: Run) -> Looks:
    """Colours of a run's methods: the first, and the two that are right most often with all traces."""
    names = dict.fromkeys(name for f in run.suites.values() for name in f["methods"])
    return looks({name: _mean([list(f["methods"][name].values())[-1]["mean"] for f in run.suites.values() if name in f["methods"]])
                  for name in names})  # fmt: skip


def scorer_looks(run: Run) -> Looks:
    """Colours of judged scores: the first, and the two that rank best at the end of a trace."""
    names = dict.fromkeys(name for f in run.suites.values() for name in f["scorers"])
    ends = {name: [f["scorers"][name]["within"]["1.0"] for f in run.suites.values() if name in f["scorers"]] for name in names}  # fmt: skip
    return looks({last(name): _mean([cell["mean"] for cell in cells if cell]) for name, cells in ends.items()})


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _plot(axes: Any, look: Looks, name: str, at: Any, values: Any, **more: Any) -> None:
    """A line; it is named where it ends if it has a colour."""
    label = name if name in look.names else "_" + name
    axes.plot(at, values, label=label, **look.of(name) | more)


def _band(
    axes: Any, look: Looks, name: str, at: Sequence[float], cells: Sequence[Mapping[str, float]], unit: float
) -> None:
    if name in look.names:
        low, high = ([unit * cell[end] for cell in cells] for end in ("low", "high"))
        axes.fill_between(at, low, high, color=look.of(name)["color"], alpha=0.12, linewidth=0)


def pass_at_k(runs: Sequence[Run], suites: Sequence[str]) -> Any:
    look = run_looks(runs)

    def draw(axes: Any, suite: str) -> None:
        for run in (run for run in runs if suite in run.suites):
            curve = run.suites[suite]["pass"]
            at, cells = [int(k) for k in curve], list(curve.values())
            _plot(axes, look, run.name, at, [100 * c["mean"] for c in cells])
            _band(axes, look, run.name, at, cells, 100)
        _powers(axes, max(int(k) for run in runs if suite in run.suites for k in run.suites[suite]["pass"]))

    return panels(suites, draw, Frame("k", "pass@k, %", share=True))


def _powers(axes: Any, most: int) -> None:
    axes.set_xscale("log", base=2)
    ticks = [2**i for i in range(0, most.bit_length(), 2 if most > 32 else 1)]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()


def against_tokens(run: Run, suites: Sequence[str]) -> Any:
    """Every method of one run as its tokens grow; where the rate is known, seconds above."""
    look = method_looks(run)

    def draw(axes: Any, suite: str) -> None:
        for name, by_size in run.suites[suite]["methods"].items():
            cells = list(by_size.values())
            _plot(axes, look, name, [c["tokens"] for c in cells], [100 * c["mean"] for c in cells])
        _logarithmic(axes)
        if rate := run.rates.get(suite):
            above = axes.secondary_xaxis("top", functions=(lambda t: t / rate, lambda s: s * rate))
            above.set_xlim(*(tokens / rate for tokens in axes.get_xlim()))
            _round_ticks(above)
            above.tick_params(labelsize=7, pad=1, colors=FAINT)
            above.set_xlabel("seconds", fontsize=7, color=FAINT, labelpad=1)

    return panels(suites, draw, Frame("tokens per problem", "right, %", share=True))


def runs_against_tokens(runs: Sequence[Run], suites: Sequence[str]) -> Any:
    """One vote of every run as its tokens grow: weighted where all have scores, else majority."""
    method, look = vote_of(runs), run_looks(runs)

    def draw(axes: Any, suite: str) -> None:
        for run in (run for run in runs if suite in run.suites):
            cells = list(run.suites[suite]["methods"][method].values())
            _plot(axes, look, run.name, [c["tokens"] for c in cells], [100 * c["mean"] for c in cells])
        _logarithmic(axes)

    return panels(suites, draw, Frame("tokens per problem", f"{method} vote, right, %", share=True))


def vote_of(runs: Sequence[Run]) -> str:
    both = all("weighted" in f["methods"] for run in runs for f in run.suites.values())
    return "weighted" if both else "majority"


def _logarithmic(axes: Any) -> None:
    """A logarithmic axis of tokens, with a few round numbers however little it spans."""
    axes.set_xscale("log")
    _round_ticks(axes)


def _round_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1,)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    )
    axes.xaxis.set_minor_formatter(NullFormatter())


def lengths(run: Run, suites: Sequence[str]) -> Any:
    """How long right and wrong traces are, each side's shares."""

    def draw(axes: Any, suite: str) -> None:
        found = run.suites[suite]["curves"]["lengths"]
        middles = np.add(found["edges"][:-1], found["edges"][1:]) / 2
        for side, (colour, dashes) in SIDES.items():
            shares = 100 * np.array(found[side]) / max(1, sum(found[side]))
            axes.stairs(shares, found["edges"], color=colour, linestyle=dashes, linewidth=1.6)
            top = int(shares.argmax())
            axes.annotate(side, (middles[top], shares[top]), (0, 3), textcoords="offset points", color=colour, ha="center",
                          fontsize=8.5)  # fmt: skip
        axes.margins(y=0.15)

    return panels(suites, draw, Frame("tokens of a trace", "share of the right or wrong traces, %"))


def trajectories(run: Run, suites: Sequence[str]) -> Any:
    """Mean score of right and wrong traces, with the middle half as a band."""

    def draw(axes: Any, suite: str) -> None:
        found = run.suites[suite]["curves"]["trajectories"]
        at = [100 * share for share in found["shares"]]
        for side, (colour, dashes) in SIDES.items():
            if found[side]:
                axes.plot(at, [100 * v for v in found[side]["mean"]], color=colour, linestyle=dashes, label=side)
                low, high = ([100 * v for v in found[side][end]] for end in ("low", "high"))
                axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)

    bounded = all(0 <= v <= 1 for s in suites for side in SIDES if (found := run.suites[s]["curves"]["trajectories"][side])
                  for v in (*found["low"], *found["high"]))  # fmt: skip
    return panels(suites, draw, Frame("share of the trace, %", "score, %" if bounded else "score × 100", share=bounded))


def reliability(runs: Sequence[Run], suites: Sequence[str]) -> Any:
    look = run_looks(runs)

    def draw(axes: Any, suite: str) -> None:
        found = {run.name: run.suites.get(suite, {}).get("curves", {}).get("reliability") for run in runs}
        _reliable(axes, look, found)

    return panels(suites, draw, Frame("score at the end, %", "right, %", share=True))


def judged_reliability(run: Run, suites: Sequence[str]) -> Any:
    """How often traces of a score are right, for every judged score that is a probability."""
    look = scorer_looks(run)

    def draw(axes: Any, suite: str) -> None:
        scorers = run.suites[suite]["scorers"]
        _reliable(axes, look, {last(name): f.get("calibration", {}).get("curve") for name, f in scorers.items()})

    return panels(suites, draw, Frame("score at the end, %", "right, %", share=True))


def _reliable(axes: Any, look: Looks, curves: Mapping[str, Any]) -> None:
    """How often what has such a score is right, a line for each name that has a curve, beside the diagonal."""
    axes.plot([0, 100], [0, 100], color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)), label="ideal")
    for name, bins in curves.items():
        if bins:
            _plot(axes, look, name, [100 * b["score"] for b in bins], [100 * b["right"] for b in bins])
    axes.set_xlim(0, 100)


def judged_along(run: Run, suites: Sequence[str]) -> Any:
    """AUROC within problems of every judged score, at shares of a trace; the first score's interval as a band."""
    look = scorer_looks(run)

    def draw(axes: Any, suite: str) -> None:
        axes.axhline(0.5, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)), label="chance")
        for place, (name, found) in enumerate(run.suites[suite]["scorers"].items()):
            told = [(100 * float(share), cell) for share, cell in found["within"].items() if cell]
            at, cells = [share for share, _ in told], [cell for _, cell in told]
            _plot(axes, look, last(name), at, [cell["mean"] for cell in cells])
            if place == 0:
                _band(axes, look, last(name), at, cells, 1)

    return panels(suites, draw, Frame("share of the trace, %", "AUROC within problems", area=True))


def along(runs: Sequence[Run], suites: Sequence[str], kind: str) -> Any:
    """Entropy, or exploration, by tenths of the thinking."""
    look, unit = run_looks(runs), 100 if kind == "explored" else 1

    def draw(axes: Any, suite: str) -> None:
        at = np.arange(5, 100, 10)
        for run in (run for run in runs if suite in run.suites):
            found = run.suites[suite]["curves"]["along"][kind]
            right, wrong = (unit * _numbers(found[side]) for side in SIDES)
            if len(runs) == 1:
                for (side, (colour, dashes)), values in zip(SIDES.items(), (right, wrong), strict=True):
                    axes.plot(at, values, color=colour, linestyle=dashes, label=side)
                continue
            ended = run.suites[suite]["outcomes"]
            share = ended["right"] / max(1, sum(ended.values()))
            both = np.where(np.isnan(wrong), right, share * right + (1 - share) * wrong)
            _plot(axes, look, run.name, at, np.where(np.isnan(right), wrong, both))

    y = "steps that explored, %" if kind == "explored" else "entropy, nats"
    return panels(suites, draw, Frame("share of the thinking, %", y, share=kind == "explored"))


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def _on_same_problems(groups: Groups, name: str, suite: str) -> list[tuple[float, dict[str, float]]]:
    """pass@1 of a group's runs on the problems that the first of all runs had, by their number."""
    there = [run.suites[suite]["ids"] for members in groups.values() for _, run in members if suite in run.suites]
    own = [(v, run.suites[suite]) for v, run in groups[name] if suite in run.suites]
    return sorted(((v, f["pass"]["1"]) for v, f in own if f["ids"] == there[0]), key=lambda point: point[0])


def ablated(groups: Groups, suites: Sequence[str]) -> list[str]:
    """The suites on which there is something to compare."""
    return [s for s in suites if any(len(_on_same_problems(groups, name, s)) > 1 for name in groups)]


def ablation(groups: Groups, suites: Sequence[str], x: str, trend: bool) -> Any:
    """pass@1 of runs that differ in one number on the same problems.

    A ``trend`` (more and more of one thing, such as a budget) is a line; otherwise each number is a thing of its own, and
    its points stand beside each other, not joined.
    """
    look = Looks(tuple(list(groups)[:3]))

    def draw(axes: Any, suite: str) -> None:
        found = {name: _on_same_problems(groups, name, suite) for name in groups}
        numbers = sorted({v for points in found.values() for v, _ in points})
        for place, (name, points) in enumerate(found.items()):
            shift = 0.0 if trend else 0.14 * (place - (len(found) - 1) / 2)
            at = [v if trend else numbers.index(v) + shift for v, _ in points]
            _plot(
                axes, look, name, at, [100 * c["mean"] for _, c in points], **({} if trend else {"linestyle": "none"})
            )
            axes.vlines(
                at,
                *([100 * c[end] for _, c in points] for end in ("low", "high")),
                color=look.of(name)["color"],
                linewidth=1,
            )
        axes.set_xticks(numbers if trend else range(len(numbers)), [f"{v:g}" for v in numbers])
        if not trend:
            axes.set_xlim(-0.5, len(numbers) - 0.5)

    return panels(suites, draw, Frame(x, "pass@1, %", share=True))


LEARNT = {"reward": "reward", "right": "right on validation, %", "tokens": "tokens of a trace", "entropy": "entropy, nats",
          "explored": "steps that explored, %", "gradient": "gradient norm"}  # fmt: skip


def learnt(runs: Sequence[Learning]) -> list[str]:
    """The titles of the quantities that any of the runs kept."""
    return [title for name, title in LEARNT.items() if any(name in r.curves or name in r.validation for r in runs)]


def learning_looks(runs: Sequence[Learning]) -> Looks:
    """Colours of training runs: the first, and the two that ended highest on validation."""
    return looks({run.name: (run.validation.get("right") or [0.0])[-1] for run in runs})


def learning(runs: Sequence[Learning], titles: Sequence[str]) -> Any:
    """Curves of training runs, each smoothed over a tenth of its steps; validation as it was judged."""
    look, names = learning_looks(runs), {title: name for name, title in LEARNT.items()}

    def draw(axes: Any, title: str) -> None:
        name, unit = names[title], 100 if title.endswith("%") else 1
        for run in runs:
            judged = run.validation if name == "right" and "step" in run.validation else None
            if judged and name in judged:
                _plot(axes, look, run.name, judged["step"], [unit * v for v in judged[name]])
            elif name in run.curves:
                values = unit * np.array(run.curves[name])
                window = max(1, len(values) // 10)
                smooth = np.convolve(values, np.ones(window) / window, "valid")
                at = (np.arange(len(smooth)) + (window + 1) / 2).tolist()
                _plot(axes, look, run.name, at, smooth, marker="")

    return panels(titles, draw, Frame("step", "", share=False))
