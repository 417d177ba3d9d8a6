"""`trueplex show`: one stored trace on the terminal, or all traces of a problem as a page."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from trueplex.cli.options import Within
from trueplex.errors import InputError

log = logging.getLogger(__name__)

EXAMPLE = "trueplex show traces.arrow --problem 3 --trace 5 --candidates"


@dataclass(frozen=True)
class ShowOptions:
    """Which trace, and how it is shown."""

    PANEL: ClassVar[str] = "What is shown"

    problem: Annotated[int, typer.Option(help="Which problem of the file, counted from 1."), Within(1)] = 1
    trace: Annotated[int | None, typer.Option(help="Which of its traces, by index.", show_default="its first")] = None
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Also list the tokens that were merged at every exploring step.")
    ] = False
    html: Annotated[Path | None, typer.Option(help="Write a page with all traces of the problem and their scores.")] = (
        None
    )
    model: Annotated[str, typer.Option(help="The model that wrote the traces; only its tokenizer is read.")] = "reference"  # fmt: skip


def show(
    traces: Annotated[Path, typer.Argument(help="A file that --save wrote, or a folder of rollouts.", show_default=False)],
    options: ShowOptions,
) -> None:  # fmt: skip
    """Read a stored trace: what it wrote, where it explored, how sure the model and the verifier were."""
    from rich.console import Console

    from trueplex.report.trace_page import write_page
    from trueplex.report.trace_pieces import pieces, traces_of
    from trueplex.report.trace_text import print_trace

    found, problems, tokenizer = traces_of(traces, options.problem, options.model)
    where = f"problem {options.problem} of {problems}"
    if options.html is not None:
        write_page(options.html, found, tokenizer)
        log.info(f"{options.html}: {len(found)} traces of {where}")
        return
    chosen = [t for t in found if options.trace is None or t.index == options.trace]
    if not chosen:
        known = ", ".join(str(t.index) for t in found[:20])
        raise InputError(f"problem {options.problem} has no trace {options.trace}. Try: one of {known}")
    print_trace(Console(), chosen[0], pieces(chosen[0], tokenizer), options.candidates)
    log.info(f"{where}, {len(found)} traces; --problem and --trace choose another, --html writes all to a page")
