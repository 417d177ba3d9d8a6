"""Traces of one problem as one self-contained page: score trajectories, then every trace, step by step."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.errors import MissingExtra
from trueplex.files import write_text
from trueplex.report.trace_pieces import Piece, pieces
from trueplex.types import Trace

# Two colours of Okabe and Ito that people with any colour vision can tell apart; lines differ in dashes, too.
RIGHT, WRONG, UNKNOWN = ("#0072B2", "-"), ("#D55E00", "--"), ("#777777", ":")
LOOKS = {True: RIGHT, False: WRONG, None: UNKNOWN}
NAMES = {True: "right", False: "wrong", None: "not graded"}

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.15rem; font-weight: 600 } figure { margin: 1.5rem 0 } svg { max-width: 100%; height: auto }
details { border-top: 1px solid #ddd; padding: .5rem 0 } summary { cursor: pointer }
.right { color: #0072B2 } .wrong { color: #D55E00 } .unknown { color: #777 } b { font-weight: 600 }
.trace { font: 14px/2.9 ui-monospace, monospace; margin: .5rem 0 1rem }
.t { position: relative; display: inline-block; white-space: pre; min-width: .35em; line-height: 1.3 }
.x { background: #F0E442; outline: 1px solid #b8ab00 } .a { color: #777 }
.t::after { content: ""; position: absolute; left: 0; right: 0; top: 100%; height: calc(var(--h) * 9px); background: #999 }
.t::before { content: ""; position: absolute; left: 0; right: 0; top: calc(100% + 11px); height: calc(var(--s) * 9px);
  background: #0072B2 }
.n::before { background: none } .legend { color: #555; font-size: .87rem }
@media print { details { break-inside: avoid } .t, .t::after, .t::before { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""


def write_page(path: Path, traces: Sequence[Trace], tokenizer: Any) -> None:
    """Write the page, whole or not at all.

    Raises:
        StoreError: the file cannot be written.
        MissingExtra: there are scores to draw and matplotlib is not installed.
    """
    write_text(path, render(traces, tokenizer))


def render(traces: Sequence[Trace], tokenizer: Any) -> str:
    """The page as text; nothing in it is fetched from elsewhere."""
    problem = traces[0].problem.text
    read = [pieces(t, tokenizer) for t in traces]
    most = max([math.log(2), *(p.entropy for steps in read for p in steps)])
    scored = [t for t in traces if t.scores]
    figure = f"<figure>{trajectories(scored)}</figure>" if scored else ""
    blocks = [_block(t, steps, most, index == 0) for index, (t, steps) in enumerate(zip(traces, read, strict=True))]
    legend = (
        f"Marked steps explored: their samples differ; hover to see the words and their weights. Grey bars under the text: "
        f"entropy, full height {most:.2f} nats. Blue bars below: the latest score, full height 1."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(problem[:80])}</title><style>{STYLE}</style><h1>{escape(problem)}</h1>{figure}"
        f'<p class="legend">{legend}</p>{"".join(blocks)}</html>\n'
    )


def _block(trace: Trace, steps: Sequence[Piece], most: float, opened: bool) -> str:
    outcome, score = NAMES[trace.correct], "" if trace.score is None else f", score {trace.score:.2f}"
    look = {True: "right", False: "wrong", None: "unknown"}[trace.correct]
    answer = "no answer" if trace.answer is None else f"answer {escape(trace.answer)}"
    head = (
        f'trace {trace.index}: <b class="{look}">{answer} ({outcome})</b>{score}, {trace.tokens} tokens, '
        f"{sum(p.explores for p in steps)} explored, ended by {escape(trace.reason or trace.status.value)}"
    )
    return (
        f"<details{' open' if opened else ''}><summary>{head}</summary>"
        f'<div class="trace">{"".join(_span(p, most) for p in steps)}</div></details>'
    )


def _span(piece: Piece, most: float) -> str:
    kinds = "".join(k for k, on in ((" x", piece.explores), (" a", piece.answering), (" n", piece.score is None)) if on)
    words = "  ".join(f"{word!r} {weight:.2f}" for word, weight in piece.candidates)
    told = f"{words}\nentropy {piece.entropy:.2f}" + ("" if piece.score is None else f"\nscore {piece.score:.2f}")
    line_ends = "<br>" * piece.text.count("\n")
    shown = escape(piece.text.replace("\n", "⏎"))
    score = 0.0 if piece.score is None else piece.score
    style = f"--h:{piece.entropy / most:.2f};--s:{score:.2f}"
    return f'<span class="t{kinds}" style="{style}" title="{escape(told)}">{shown}</span>{line_ends}'


def trajectories(traces: Sequence[Trace]) -> str:
    """Scores over tokens as SVG: a thin line per trace, and the means of right and of wrong ones while half of them run."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for trace in traces:
        colour, dashes = LOOKS[trace.correct]
        at, scores = zip(*trace.scores, strict=True)
        axes.plot(at, scores, dashes, color=colour, linewidth=0.8, alpha=0.45)
        axes.plot(at[-1:], scores[-1:], "o" if trace.correct else "x", color=colour, markersize=4, alpha=0.8)
    for outcome, (colour, dashes) in LOOKS.items():
        own = [t for t in traces if t.correct is outcome]
        if own:
            grid = np.arange(1, max(t.tokens for t in own) + 1)
            rows = np.array([_over(grid, t) for t in own])
            there = (~np.isnan(rows)).sum(0) >= len(own) / 2  # a mean of the few that run on is one of others
            mean = np.nanmean(rows[:, there], axis=0)
            axes.plot(grid[there], mean, dashes, color=colour, linewidth=2.6, label=f"{NAMES[outcome]} ({len(own)})")
    axes.set(xlabel="tokens", ylabel="score", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()[sink.getvalue().index("<svg") :]


def _over(grid: np.ndarray, trace: Trace) -> np.ndarray:
    """A trace's scores at the given token counts, NaN before its first and after its end."""
    at, scores = [a for a, _ in trace.scores], [s for _, s in trace.scores]
    return np.where((grid >= at[0]) & (grid <= trace.tokens), np.interp(grid, at, scores), np.nan)
