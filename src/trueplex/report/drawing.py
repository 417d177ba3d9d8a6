"""How every figure looks: at most three lines in colour, named where they end, the rest grey; panels; SVG for a page or a file.

A colour is never the only sign: each coloured line has a dash and a marker of its own. On a page the colours of a figure
become variables of its stylesheet, so that a figure follows light and dark mode.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trueplex.errors import MissingExtra

INK, FAINT, GRID, REST = "#1b1f24", "#59636e", "#dfe3e8", "#b9c0c8"
COLOURS = ("#0072b2", "#d55e00", "#007d5b")  # after Okabe and Ito: they differ for any colour vision
DASHES, MARKERS = ("-", "--", "-."), "os^"
SIDES = {"right": (COLOURS[0], "-"), "wrong": (COLOURS[1], "--")}
VARIABLES = {INK: "--ink", FAINT: "--soft", GRID: "--line", REST: "--rest"} | dict(
    zip(COLOURS, ("--one", "--two", "--three"), strict=True)
)
STYLE: Any = {
    "font.size": 9, "text.color": INK, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 9, "axes.titlecolor": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7, "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.7,
    "xtick.color": FAINT, "ytick.color": FAINT, "axes.labelcolor": FAINT, "lines.linewidth": 1.8, "lines.markersize": 3.8,
    "svg.hashsalt": "trueplex", "figure.dpi": 150,
}  # fmt: skip
HEIGHT = 2.55  # inches of a panel
GAP = 0.095  # between the names of two lines, as a share of a panel's height

Panel = Callable[[Any, str], None]


@dataclass(frozen=True, slots=True)
class Looks:
    """Which names have a colour, three at most; all others are grey."""

    names: tuple[str, ...]

    def of(self, name: str) -> dict[str, Any]:
        """Options of `Axes.plot` for the line of this name."""
        if name not in self.names:
            return {"color": REST, "linewidth": 1.0, "zorder": 1.5}
        place = self.names.index(name)
        return {
            "color": COLOURS[place],
            "linestyle": DASHES[place],
            "marker": MARKERS[place],
            "zorder": 3 - 0.1 * place,
        }

    def grey(self, names: Sequence[str]) -> str:
        """A sentence that names the grey lines; nothing without any."""
        rest = [name for name in dict.fromkeys(names) if name not in self.names]
        return f" Grey: {'; '.join(rest)}." if rest else ""


def looks(values: Mapping[str, float]) -> Looks:
    """The first name, which the others are compared with, and the two with the highest values."""
    first, *others = values
    return Looks((first, *sorted(others, key=lambda name: -values[name])[: len(COLOURS) - 1]))


@dataclass(frozen=True, slots=True)
class Frame:
    """What the axes are called. A ``share`` axis shows 0 to 100 %, an ``area`` axis an AUROC up to 1, others start at 0."""

    x: str
    y: str
    share: bool = False
    area: bool = False


def columns(count: int) -> int:
    """How many panels stand side by side."""
    return count if count <= 3 else 2 if count == 4 else 3


def panels(names: Sequence[str], draw: Panel, frame: Frame) -> Any:
    """A figure with a panel for each name (a suite, or a quantity).

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    across = columns(len(names))
    down = -(-len(names) // across)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width(across) * across, HEIGHT * down), layout="constrained")
        for axes, name in zip(figure.subplots(down, across, squeeze=False).flat, names, strict=False):
            axes.set_axisbelow(True)
            draw(axes, name)
            axes.set_title(name)
            axes.set_xlabel(frame.x)
            axes.set_ylabel(frame.y)
            _limit(axes, frame)
            _name_ends(axes)
        for axes in figure.axes[len(names) :]:
            axes.set_visible(False)
    return figure


def width(across: int) -> float:
    """Inches of a panel when so many stand side by side."""
    return {1: 8.4, 2: 5.4}.get(across, 4.1)


def _limit(axes: Any, frame: Frame) -> None:
    low, high = axes.dataLim.y0, axes.get_ylim()[1]
    if frame.share:
        axes.set_ylim(0, 100)
    elif frame.area:
        axes.set_ylim(min(0.4, low), 1)
    elif low >= 0:
        axes.set_ylim(0, high)


def _name_ends(axes: Any) -> None:
    """Name every labelled line to the right of the panel, at the height where it ends; names that would overlap move apart."""
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_") and len(line.get_ydata())]
    (low, high), ends = axes.get_ylim(), []
    for line in lines:
        line.set_clip_on(False)
        ends.append(((float(line.get_ydata()[-1]) - low) / (high - low), line))
    ends.sort(key=lambda end: end[0])
    heights = [height for height, _ in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + GAP)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], 1.03 if i == len(heights) - 1 else heights[i + 1] - GAP)
    for height, (_, line) in zip(heights, ends, strict=True):
        axes.text(
            1.02, height, line.get_label(), transform=axes.transAxes, color=line.get_color(), va="center", fontsize=8.5
        )


def saved(figure: Any, form: str = "svg") -> bytes:
    """The figure as a file of SVG or PNG; the same figure gives the same bytes."""
    import matplotlib

    sink = io.BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "path"}):
        figure.savefig(sink, format=form, metadata={"Date": None} if form == "svg" else {"Software": None})
    return sink.getvalue()


def inline(figure: Any, name: str) -> str:
    """The figure as an SVG element of a page: its colours by the page's stylesheet, its ids beginning with `name`."""
    import matplotlib

    sink = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "none"}):
        figure.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    svg = sink.getvalue()
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    return re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var({VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], svg)
