"""Traces of one problem as one self-contained page: score trajectories, a table, then every trace, step by step."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.files import write_text
from trueplex.report.drawing import COLOURS, FAINT, Frame, panels
from trueplex.report.html import Made, Picture
from trueplex.report.html import render as fill
from trueplex.report.tables import Table
from trueplex.report.trace_pieces import Piece, pieces
from trueplex.types import Trace

# Colours that differ for any colour vision; the lines differ in dashes, too.
LOOKS = {True: (COLOURS[0], "-"), False: (COLOURS[1], "--"), None: (FAINT, ":")}
NAMES = {True: "right", False: "wrong", None: "not graded"}
CLASSES = {True: "right", False: "wrong", None: "unknown"}
PANEL = "Scores while the traces were written"


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
    caption = "A thin line for each trace, ending in a dot (right), a cross (wrong) or a ring; thick: the mean while at least half of them run."
    picture = Picture("scores", caption, [PANEL], partial(trajectories, scored)) if scored else None
    blocks = [_block(t, steps, most) for t, steps in zip(traces, read, strict=True)]
    return fill("trace_page.html.j2", title=problem[:80], problem=problem, headline=headline(traces), picture=picture,
                table=_table(traces, read), most=most, blocks=blocks, made=Made())  # fmt: skip


def headline(traces: Sequence[Trace]) -> str:
    """How many traces are right, or agree where no answer is known, in a sentence."""
    count = len(traces)
    noun = "trace" if count == 1 else "traces"
    graded = [t for t in traces if t.correct is not None]
    if graded:
        right = sum(t.correct is True for t in graded)
        rest = "" if len(graded) == count else f"; {count - len(graded)} not graded"
        return f"{right} of {len(graded)} graded {noun} {'is' if right == 1 else 'are'} right{rest}."
    answers = Counter(t.answer for t in traces if t.answer is not None)
    if not answers:
        return f"{count} {noun}, none with an answer."
    (answer, agree), none = answers.most_common(1)[0], count - sum(answers.values())
    silent = f"; {none} gave no answer" if none else ""
    return f"{agree} of {count} {noun} {'answers' if agree == 1 else 'answer'} {answer}{silent} (the right answer is not known)."


def _table(traces: Sequence[Trace], read: Sequence[Sequence[Piece]]) -> Table:
    rows = [[str(t.index), t.answer or "–", NAMES[t.correct], "–" if t.score is None else f"{t.score:.2f}", str(t.tokens),
             str(sum(p.explores for p in steps)), t.reason or t.status.value] for t, steps in zip(traces, read, strict=True)]  # fmt: skip
    head = ["trace", "answer", "outcome", "score", "tokens", "explored", "ended by"]
    return Table("Traces", "", head, rows, ("score",), groups=False)


def _block(trace: Trace, steps: Sequence[Piece], most: float) -> dict[str, Any]:
    """What the template shows of one trace."""
    answer = "no answer" if trace.answer is None else f"answer {trace.answer}"
    score = "" if trace.score is None else f"score {trace.score:.2f}, "
    told = f"{score}{trace.tokens} tokens, {sum(p.explores for p in steps)} explored, ended by {trace.reason or trace.status.value}"
    return {"index": trace.index, "look": CLASSES[trace.correct], "outcome": f"{answer} ({NAMES[trace.correct]})", "told": told,
            "pieces": [_step(p, most) for p in steps]}  # fmt: skip


def _step(piece: Piece, most: float) -> dict[str, Any]:
    """What the template shows of one step; a line's end is seen as a sign, and ends the line."""
    kinds = "".join(k for k, on in ((" x", piece.explores), (" a", piece.answering), (" n", piece.score is None)) if on)
    tokens = "  ".join(f"{token!r} {weight:.2f}" for token, weight in piece.candidates)
    told = f"{tokens}\nentropy {piece.entropy:.2f}" + ("" if piece.score is None else f"\nscore {piece.score:.2f}")
    return {"kinds": kinds, "entropy": f"{piece.entropy / most:.2f}", "score": f"{piece.score or 0.0:.2f}", "told": told,
            "text": piece.text.replace("\n", "⏎"), "line_ends": piece.text.count("\n")}  # fmt: skip


def trajectories(traces: Sequence[Trace], names: Sequence[str]) -> Any:
    """Scores over tokens: a thin line per trace, and the means of right and of wrong ones while half of them run."""

    def draw(axes: Any, _: str) -> None:
        for trace in traces:
            colour, dashes = LOOKS[trace.correct]
            at, scores = zip(*trace.scores, strict=True)
            axes.plot(at, scores, dashes, color=colour, linewidth=0.8, alpha=0.45)
            end = {True: "o", False: "x", None: "o"}[trace.correct]
            hollow = {"markerfacecolor": "none"} if trace.correct is None else {}
            axes.plot(at[-1:], scores[-1:], end, color=colour, markersize=4, alpha=0.8, **hollow)
        for outcome, (colour, dashes) in LOOKS.items():
            own = [t for t in traces if t.correct is outcome]
            if own:
                tokens, mean = _mean(own)
                axes.plot(tokens, mean, dashes, color=colour, linewidth=2.6, label=f"{NAMES[outcome]} ({len(own)})")
        if all(0 <= score <= 1 for t in traces for _, score in t.scores):
            axes.set_ylim(0, 1)

    return panels(names, draw, Frame("tokens", "score"))


def _mean(traces: Sequence[Trace]) -> tuple[np.ndarray, np.ndarray]:
    """Token counts, and the mean score there of the traces that run, while at least half of them do."""
    grid = np.arange(1, max(t.tokens for t in traces) + 1)
    rows = np.array([_over(grid, t) for t in traces])
    there = (~np.isnan(rows)).sum(0) >= len(traces) / 2  # a mean of the few longest would be one of other traces
    return grid[there], np.nanmean(rows[:, there], axis=0)


def _over(grid: np.ndarray, trace: Trace) -> np.ndarray:
    """A trace's scores at the given token counts, NaN before its first and after its end."""
    at, scores = [a for a, _ in trace.scores], [s for _, s in trace.scores]
    return np.where((grid >= at[0]) & (grid <= trace.tokens), np.interp(grid, at, scores), np.nan)
