"""What `trueplex show` does."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from trueplex.errors import InputError
from trueplex.report.trace_page import write_page
from trueplex.report.trace_pieces import pieces, traces_of
from trueplex.report.trace_text import print_trace

log = logging.getLogger(__name__)


def look(path: Path, number: int, index: int | None, with_candidates: bool, page: Path | None, model: str) -> None:
    """`trueplex show`: one trace on the terminal, or all traces of a problem as a page."""
    traces, problems, tokenizer = traces_of(path, number, model)
    if page is not None:
        write_page(page, traces, tokenizer)
        log.info(f"{page}: {len(traces)} traces of problem {number} of {problems}")
        return
    chosen = [t for t in traces if index is None or t.index == index]
    if not chosen:
        known = ", ".join(str(t.index) for t in traces[:20])
        raise InputError(f"problem {number} has no trace {index}. Try: one of {known}")
    print_trace(Console(), chosen[0], pieces(chosen[0], tokenizer), with_candidates)
    log.info(
        f"problem {number} of {problems}, {len(traces)} traces; --problem and --trace choose, --html writes all to a page"
    )
