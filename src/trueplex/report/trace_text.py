"""A trace on the terminal: its text, of merged steps the heaviest token, and under each line its entropy and score.

Steps where all K samples agreed are plain; steps that explored are highlighted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trueplex.report.race import BARS
from trueplex.report.trace_pieces import Piece
from trueplex.types import Trace

EXPLORES, DIM = "bold black on yellow", "bright_black"
OUTCOMES = {True: "bold green", False: "bold red", None: "bold"}
MARGIN = 2  # columns for the names of the lines


def heading(trace: Trace, pieces: Sequence[Piece]) -> Text:
    explored = sum(p.explores for p in pieces)
    outcome = {True: "right", False: "wrong", None: "not graded"}[trace.correct]
    ended = trace.reason or trace.status.value
    closed = f", thinking closed by {trace.closing}" if trace.closing not in ("", "model") else ""
    return Text.assemble(
        (trace.problem.text, "cyan"), "\n",
        (f"trace {trace.index}, seed {trace.seed}: {trace.tokens} tokens, {explored} explored, ended by {ended}{closed}\n", DIM),
        (f"answer {trace.answer if trace.answer is not None else 'none'} ({outcome})", OUTCOMES[trace.correct]),
        (f", known: {' or '.join(trace.problem.answers)}" if trace.problem.answers and not trace.correct else "", DIM),
        ("" if trace.score is None else f", score {trace.score:.2f}", DIM), "\n",
    )  # fmt: skip


def bar(share: float) -> str:
    return BARS[min(len(BARS) - 1, max(0, int(share * len(BARS))))]


def body(pieces: Sequence[Piece], width: int, most: float) -> list[Text]:
    """Lines of text, each followed by its lines of entropy (`H`, full height is `most` nats) and score (`s`)."""
    lines: list[Text] = []
    scored = any(p.score is not None for p in pieces)
    text, entropy, score = Text(), Text(), Text()

    def flush() -> None:
        nonlocal text, entropy, score
        if text.plain:
            lines.append(Text(" " * MARGIN).append_text(text))
            lines.append(Text("H ", style=DIM).append_text(entropy))
            if scored:
                lines.append(Text("s ", style=DIM).append_text(score))
        text, entropy, score = Text(), Text(), Text()

    for piece in pieces:
        for part in piece.text.splitlines(keepends=True) or [""]:
            shown = part.rstrip("\r\n")
            if part != shown and not shown:
                shown = "⏎"  # a step that is only a line's end is seen, too
            shown = "".join(c if c.isprintable() else "·" for c in shown)
            if len(text.plain) + len(shown) > width - MARGIN and text.plain:
                flush()
            style = EXPLORES if piece.explores else DIM if piece.answering else ""
            text.append(shown, style=style)
            entropy.append(bar(piece.entropy / most) * len(shown), style=DIM)
            score.append((bar(piece.score) if piece.score is not None else " ") * len(shown), style="blue")
            if part.endswith(("\n", "\r")):
                flush()
    flush()
    return lines


def candidates(pieces: Sequence[Piece]) -> Table:
    """What every exploring step weighed."""
    table = Table("step", "H", "tokens and weights", box=None, padding=(0, 1), header_style=DIM)
    for at, piece in enumerate(pieces, 1):
        if piece.explores:
            tokens = "  ".join(f"{token!r} {weight:.2f}" for token, weight in piece.candidates)
            table.add_row(str(at), f"{piece.entropy:.2f}", Text(tokens))
    return table


def print_trace(console: Console, trace: Trace, pieces: Sequence[Piece], with_candidates: bool) -> None:
    """The whole trace, for people."""
    console.print(heading(trace, pieces))
    most = max([math.log(2), *(p.entropy for p in pieces)])
    for line in body(pieces, console.width, most):
        console.print(line, highlight=False, no_wrap=True, overflow="crop")
    scale = f"H: entropy, full height {most:.2f} nats.  s: score, full height 1.  Highlighted: steps that explored."
    console.print(Text(f"\n{scale}", style=DIM))
    if with_candidates and any(piece.explores for piece in pieces):
        console.print(candidates(pieces))
    elif with_candidates:
        console.print(Text("No step explored: every one had a single token.", style=DIM))
