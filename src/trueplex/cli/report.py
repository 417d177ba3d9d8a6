"""`trueplex report`: stored results as a page, tables and figures."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from trueplex.errors import OptionError
from trueplex.files import write_bytes
from trueplex.locks import lock

log = logging.getLogger(__name__)

EXAMPLE = "trueplex report runs/multiplex runs/discrete --out report.html"
FORMATS = ("svg", "png")


@dataclass(frozen=True)
class ReportOptions:
    """What is written."""

    PANEL: ClassVar[str] = "Output"

    out: Annotated[Path | None, typer.Option(help="One HTML page with everything in it.", show_default=False)] = None
    markdown: Annotated[Path | None, typer.Option(help="All tables, as Markdown.", show_default=False)] = None
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures, one file each.", show_default=False)] = (
        None
    )
    format: Annotated[
        str | None, typer.Option("--format", help="Format of the figures: svg or png.", show_default="svg")
    ] = None
    title: Annotated[str, typer.Option(help="Title of the page.")] = "trueplex: results"  # fmt: skip


def report(
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders or results files of eval, eval-verifier or training. The others are compared with the first run.", show_default=False)],
    options: ReportOptions,
) -> None:  # fmt: skip
    """Show stored results: tables, curves and what scores saw, as a page that works offline.

    Every file is written whole or not at all.
    """
    if options.out is None and options.markdown is None and options.figures is None:
        raise OptionError("nothing to write. Try: give --out PAGE.html, --markdown FILE.md or --figures DIR")
    if options.format is not None and (options.figures is None or options.format not in FORMATS):
        raise OptionError(f"--format {options.format} has no effect without --figures, and is one of {', '.join(FORMATS)}. Try: give both, "
                          "or neither")  # fmt: skip
    targets = [
        (path, path == options.figures) for path in (options.out, options.markdown, options.figures) if path is not None
    ]
    with ExitStack() as held:
        for path, folder in targets:
            held.enter_context(lock(path, folder))
        written = _report(sources, options)
    log.info(f"wrote {', '.join(map(str, written))}")


def _report(sources: list[Path], options: ReportOptions) -> list[Path]:
    """Write what is asked for; the files."""
    from trueplex.report.drawing import saved
    from trueplex.report.page import markdown, page
    from trueplex.report.read import as_results, read
    from trueplex.report.sections import sections

    if options.title != ReportOptions.title and options.out is None and options.markdown is None:
        raise OptionError("figures have no title of the page. Try: drop --title, or give --out or --markdown")
    material, form, written = read(sources), options.format or "svg", dict[Path, bytes]()
    with as_results(sources):
        parts = list(sections(material))
        if options.out is not None:
            written[options.out] = page(parts, options.title, material).encode()
        if options.markdown is not None:
            written[options.markdown] = markdown(parts, options.title, material).encode()
        if options.figures is not None:
            for picture in (picture for part in parts for picture in part.pictures):
                written[options.figures / f"{picture.name}.{form}"] = saved(picture.figure(), form)
    for path, content in written.items():
        write_bytes(path, content)
    return list(written)
