"""The report's figures, one function each: results in, a matplotlib figure out.

Legible in print and with any colour vision: Okabe and Ito's colours, and every line that has a colour of its own
has a dash or a marker of its own, too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trueplex.errors import MissingExtra
from trueplex.report.read import Learning, Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A7A7A")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)), (0, (3, 1, 1, 1)))
MARKERS = "os^Dvp*X"
SIDES = {"right": (COLOURS[0], "-"), "wrong": (COLOURS[1], "--")}
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.7,
    "xtick.color": "#444444", "ytick.color": "#444444", "axes.labelcolor": "#333333", "legend.frameon": False,
    "lines.linewidth": 1.6, "lines.markersize": 3.6, "svg.fonttype": "path", "svg.hashsalt": "trueplex", "figure.dpi": 150,
}  # fmt: skip
COLUMNS = 3

Panel = Callable[[Any, str], None]


def look(place: int) -> dict[str, Any]:
    """Colour, dash and marker of the line with this number."""
    shifted = (place + place // 8) % 8  # the ninth line has the first one's colour and another dash
    return {"color": COLOURS[place % 8], "linestyle": DASHES[shifted], "marker": MARKERS[shifted]}


def panels(suites: Sequence[str], draw: Panel, x: str, y: str, share_y: bool = True) -> Any:
    """A figure with a panel per suite, one legend for all below."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    with matplotlib.rc_context(STYLE):
        columns = min(COLUMNS, len(suites))
        rows = -(-len(suites) // columns)
        figure = Figure(figsize=(3.1 * columns + 0.4 if columns > 1 else 5.2, 2.35 * rows + 0.25), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
        for place, axes in enumerate(grid.flat):
            if place >= len(suites):
                axes.set_visible(False)
                continue
            axes.set_axisbelow(True)
            draw(axes, suites[place])
            axes.set_title(suites[place])
            if place + columns >= len(suites):
                axes.set_xlabel(x)
            if place % columns == 0:
                axes.set_ylabel(y)
        lines: dict[str, Any] = {}
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                lines.setdefault(label, handle)
        if lines:
            fit = int(13 * figure.get_figwidth()) // (
                max(map(len, lines)) + 7
            )  # 13 letters an inch, and 7 for the line
            across = max(1, min(len(lines), fit))
            figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(lines) // across))
            figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=across, handlelength=3.2)
    return figure


def saved(figure: Any, form: str = "svg") -> bytes:
    """The figure as bytes of SVG or PNG; the same figure gives the same bytes."""
    import matplotlib

    sink = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(sink, format=form, metadata={"Date": None} if form == "svg" else {"Software": None})
    return sink.getvalue()


def _powers(axes: Any, most: int) -> None:
    axes.set_xscale("log", base=2)
    ticks = [2**i for i in range(0, most.bit_length(), 2 if most > 32 else 1)]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()


def pass_at_k(runs: Sequence[Run], suites: Sequence[str]) -> Any:
    def draw(axes: Any, suite: str) -> None:
        for place, run in enumerate(runs):
            if suite in run.suites:
                curve = run.suites[suite]["pass"]
                k, cells = [int(k) for k in curve], list(curve.values())
                axes.plot(k, [100 * c["mean"] for c in cells], label=run.name, **look(place))
                if len(runs) <= 4:
                    axes.fill_between(k, [100 * c["low"] for c in cells], [100 * c["high"] for c in cells], color=COLOURS[place % 8],
                                      alpha=0.12, linewidth=0)  # fmt: skip
        _powers(axes, max(int(k) for run in runs if suite in run.suites for k in run.suites[suite]["pass"]))

    return panels(suites, draw, "k", "pass@k, %")


def against_tokens(run: Run, suites: Sequence[str]) -> Any:
    """Every method of one run as its tokens grow; where the rate is known, seconds above."""

    def draw(axes: Any, suite: str) -> None:
        methods = run.suites[suite]["methods"]
        for place, (name, by_size) in enumerate(methods.items()):
            cells = list(by_size.values())
            axes.plot([c["tokens"] for c in cells], [100 * c["mean"] for c in cells], label=name, **look(place))
        _logarithmic(axes)
        if rate := run.rates.get(suite):
            above = axes.secondary_xaxis("top", functions=(lambda t: t / rate, lambda s: s * rate))
            above.set_xlim(*(tokens / rate for tokens in axes.get_xlim()))
            _round_ticks(above)
            above.tick_params(labelsize=7, pad=1, colors="#888888")
            above.set_xlabel("seconds", fontsize=7, color="#888888", labelpad=1)

    return panels([s for s in suites if s in run.suites], draw, "tokens a problem", "right, %", share_y=False)


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


def runs_against_tokens(runs: Sequence[Run], suites: Sequence[str]) -> Any:
    """The best-known vote of every run as its tokens grow: weighted where all have scores, else majority."""
    method = vote_of(runs)

    def draw(axes: Any, suite: str) -> None:
        for place, run in enumerate(runs):
            if suite in run.suites:
                cells = list(run.suites[suite]["methods"][method].values())
                axes.plot([c["tokens"] for c in cells], [100 * c["mean"] for c in cells], label=run.name, **look(place))
        _logarithmic(axes)

    return panels(suites, draw, "tokens a problem", f"{method}, right, %", share_y=False)


def vote_of(runs: Sequence[Run]) -> str:
    both = all("weighted" in f["methods"] for run in runs for f in run.suites.values())
    return "weighted" if both else "majority"


def lengths(run: Run, suites: Sequence[str]) -> Any:
    def draw(axes: Any, suite: str) -> None:
        found = run.suites[suite]["curves"]["lengths"]
        for side, (colour, dashes) in SIDES.items():
            counts = np.array(found[side])
            axes.stairs(
                100 * counts / max(1, counts.sum()),
                found["edges"],
                color=colour,
                linestyle=dashes,
                linewidth=1.6,
                label=side,
            )

    return panels(
        [s for s in suites if s in run.suites], draw, "tokens of a trace", "share of its side, %", share_y=False
    )


def trajectories(run: Run, suites: Sequence[str]) -> Any:
    scored = [s for s in suites if "trajectories" in run.suites.get(s, {}).get("curves", {})]

    def draw(axes: Any, suite: str) -> None:
        found = run.suites[suite]["curves"]["trajectories"]
        at = [100 * share for share in found["shares"]]
        for side, (colour, dashes) in SIDES.items():
            if found[side]:
                axes.plot(
                    at, found[side]["mean"], color=colour, linestyle=dashes, label=f"{side}: mean and middle half"
                )
                axes.fill_between(at, found[side]["low"], found[side]["high"], color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(-0.02, 1.02)

    return panels(scored, draw, "share of the trace, %", "score")


def reliability(runs: Sequence[Run], suites: Sequence[str]) -> Any:
    def draw(axes: Any, suite: str) -> None:
        _reliable(axes, [(run.name, run.suites.get(suite, {}).get("curves", {}).get("reliability")) for run in runs])

    there = [s for s in suites if any("reliability" in r.suites.get(s, {}).get("curves", {}) for r in runs)]
    return panels(there, draw, "score", "share right")


def judged_along(run: Run) -> Any:
    """AUROC within problems of every judged score, at shares of a trace; the first score's interval as a band."""

    def draw(axes: Any, suite: str) -> None:
        axes.axhline(0.5, color="#aaaaaa", linewidth=0.9, label="chance")
        for place, (name, found) in enumerate(run.suites[suite]["scorers"].items()):
            told = [(100 * float(share), cell) for share, cell in found["within"].items() if cell]
            at = [share for share, _ in told]
            axes.plot(at, [cell["mean"] for _, cell in told], label=_last(name), **look(place))
            if place == 0:
                ends = ([cell[end] for _, cell in told] for end in ("low", "high"))
                axes.fill_between(at, *ends, color=look(0)["color"], alpha=0.12, linewidth=0)

    return panels(list(run.suites), draw, "share of the trace, %", "AUROC within problems")


def judged_reliability(run: Run) -> Any:
    """How often traces of a score are right, for every judged score that is a probability."""

    def draw(axes: Any, suite: str) -> None:
        scorers = run.suites[suite]["scorers"]
        _reliable(axes, [(_last(name), found.get("calibration", {}).get("curve")) for name, found in scorers.items()])

    return panels(list(run.suites), draw, "score at the end", "share right")


def _reliable(axes: Any, curves: Sequence[tuple[str, Any]]) -> None:
    """How often what has such a score is right, a line for each name that has a curve, beside the diagonal."""
    axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=0.9, label="as it says")
    for place, (name, bins) in enumerate(curves):
        if bins:
            axes.plot([b["score"] for b in bins], [b["right"] for b in bins], label=name, **look(place))


def _last(name: str) -> str:
    """A scorer's name without the folders that its model lies in."""
    return name.rpartition("/")[2]


def along(runs: Sequence[Run], suites: Sequence[str], kind: str) -> Any:
    """Entropy, or exploration, by tenths of the thinking."""

    def draw(axes: Any, suite: str) -> None:
        at = np.arange(5, 100, 10)
        for place, run in enumerate(runs):
            found = run.suites.get(suite, {}).get("curves", {}).get("along")
            if found and len(runs) == 1:
                for side, (colour, dashes) in SIDES.items():
                    axes.plot(at, _numbers(found[kind][side]), color=colour, linestyle=dashes, label=side)
            elif found:
                ended = run.suites[suite]["outcomes"]
                share = ended["right"] / max(1, sum(ended.values()))
                right, wrong = (_numbers(found[kind][side]) for side in SIDES)
                both = np.where(
                    np.isnan(wrong), right, np.where(np.isnan(right), wrong, share * right + (1 - share) * wrong)
                )
                axes.plot(at, both, label=run.name, **look(place))

    unit = {"entropy": "entropy, nats", "explored": "share of steps that explored"}[kind]
    return panels(suites, draw, "share of the thinking, %", unit, share_y=False)


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)


Groups = dict[str, list[tuple[float, Run]]]


def _joined(groups: Groups, name: str, suite: str) -> list[tuple[float, dict[str, float]]]:
    """pass@1 of a group's runs on the problems that the first of all runs had, by their number."""
    there = [run.suites[suite]["ids"] for members in groups.values() for _, run in members if suite in run.suites]
    own = [(v, run.suites[suite]) for v, run in groups[name] if suite in run.suites]
    return sorted(((v, f["pass"]["1"]) for v, f in own if f["ids"] == there[0]), key=lambda point: point[0])


def ablated(groups: Groups, suites: Sequence[str]) -> list[str]:
    """The suites on which there is a line to draw."""
    return [s for s in suites if any(len(_joined(groups, name, s)) > 1 for name in groups)]


def ablation(groups: Groups, suites: Sequence[str], x: str) -> Any:
    """pass@1 of runs that differ in one number (width, thinking budget) on the same problems: a line per group."""

    def draw(axes: Any, suite: str) -> None:
        ticks = set()
        for place, name in enumerate(groups):
            points = _joined(groups, name, suite)
            if not points:
                continue
            means = np.array([100 * c["mean"] for _, c in points])
            reach = np.abs(np.array([[100 * c["low"], 100 * c["high"]] for _, c in points]).T - means)
            axes.errorbar([v for v, _ in points], means, reach, label=name, capsize=2, elinewidth=0.8, **look(place))
            ticks |= {v for v, _ in points}
        axes.set_xticks(sorted(ticks), [f"{v:g}" for v in sorted(ticks)])

    return panels(suites, draw, x, "pass@1, %", share_y=False)


LEARNT = {"reward": "reward", "right": "validation, right", "tokens": "tokens of a trace", "entropy": "entropy, nats",
          "explored": "share of steps that explored", "gradient": "gradient norm"}  # fmt: skip


def learning(runs: Sequence[Learning]) -> Any:
    """Curves of training runs, each smoothed over a tenth of its steps; validation as it was judged."""

    def draw(axes: Any, name: str) -> None:
        for place, run in enumerate(runs):
            style = look(place)
            judged = run.validation if name == "right" and "step" in run.validation else None
            if judged and name in judged:
                axes.plot(judged["step"], judged[name], label=run.name, **style)
            elif name in run.curves:
                values = np.array(run.curves[name])
                window = max(1, len(values) // 10)
                smooth = np.convolve(values, np.ones(window) / window, "valid")
                axes.plot(np.arange(len(smooth)) + (window + 1) / 2, smooth, label=run.name, **style | {"marker": ""})
        axes.set_title(LEARNT[name])

    there = [n for n in LEARNT if any(n in r.curves or n in r.validation for r in runs)]
    figure = panels(there, draw, "step", "", share_y=False)
    for axes, name in zip(figure.axes, there, strict=False):
        axes.set_title(LEARNT[name], loc="left")
    return figure
