"""`trueplex show`: one stored trace on the terminal, or all traces of a problem as a page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from trueplex.errors import InputError, OptionError

if TYPE_CHECKING:
    from trueplex.types import Trace

log = logging.getLogger(__name__)

EXAMPLE = "trueplex show traces.arrow --problem 3 --trace 5 --candidates"


@dataclass(frozen=True)
class ShowOptions:
    """Which trace, and how it is shown."""

    PANEL: ClassVar[str] = "What is shown"

    problem: Annotated[str, typer.Option(help="Which problem: its number in the file, counted from 1, or its id.")] = (
        "1"
    )
    trace: Annotated[int | None, typer.Option(help="Which of its traces, by index.", show_default="its first")] = None
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Also list the tokens that were merged at every exploring step.")
    ] = False
    html: Annotated[Path | None, typer.Option(help="Write a page with all traces of the problem and their scores.")] = (
        None
    )
    model: Annotated[str | None, typer.Option(help="The model that wrote the traces; only its tokenizer is read.", show_default="the one that the file names")] = None  # fmt: skip


def show(
    traces: Annotated[Path, typer.Argument(help="A file that --save wrote, or a folder of rollouts.", show_default=False)],
    options: ShowOptions,
) -> None:  # fmt: skip
    """Read a stored trace: what it wrote, where it explored, how sure the model and the verifier were."""
    from rich.console import Console

    from trueplex.report.trace_page import write_page
    from trueplex.report.trace_pieces import pieces, traces_of
    from trueplex.report.trace_text import print_trace

    if options.html is not None and (options.trace is not None or options.candidates):
        raise OptionError(
            "a page shows all traces of the problem, with their candidates. Try: drop --trace and --candidates, or --html"
        )
    told = traces_of(traces, options.problem, options.model)
    found, where = told.traces, f"problem {told.number} of {told.problems}"
    if options.html is not None:
        write_page(options.html, found, told.tokenizer)
        log.info(f"{options.html}: {len(found)} traces of {where}")
        return
    chosen = [t for t in found if options.trace is None or t.index == options.trace]
    if not chosen:
        known = ", ".join(str(t.index) for t in found[:20])
        raise InputError(f"problem {options.problem} has no trace {options.trace}. Try: one of {known}")
    print_trace(Console(), chosen[0], pieces(chosen[0], told.tokenizer), options.candidates)
    log.info(f"{where}, {outcomes(found)}; --problem and --trace choose another, --html writes all to a page")


def outcomes(traces: Sequence[Trace]) -> str:
    """How many traces there are, and which are right and wrong where that is known."""
    marks = {True: "right", False: "wrong", None: "not graded"}
    groups = {mark: [str(t.index) for t in traces if t.correct is value] for value, mark in marks.items()}
    if len(groups["not graded"]) == len(traces):
        return f"{len(traces)} traces"
    told = (f"{mark}: {', '.join(own[:16])}{' …' if len(own) > 16 else ''}" for mark, own in groups.items() if own)
    return f"{len(traces)} traces ({'; '.join(told)})"
