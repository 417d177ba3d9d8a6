"""`trueplex report`: stored results as a page, tables and pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from trueplex.errors import OptionError
from trueplex.files import write_bytes
from trueplex.report import figures
from trueplex.report.page import lead, markdown, page, sections
from trueplex.report.read import read

FORMATS = ("svg", "png")


def report(sources: Sequence[Path], out: Path | None, tables: Path | None, pictures: Path | None, form: str | None,
           title: str) -> None:  # fmt: skip
    """Write what was asked for, each file whole or not at all.

    Raises:
        OptionError: nothing is asked for, or a format without pictures. InputError: see `report.read.read`.
    """
    if out is None and tables is None and pictures is None:
        raise OptionError("nothing to write. Try: give --out PAGE.html, --markdown FILE.md or --figures DIR")
    if form is not None and (pictures is None or form not in FORMATS):
        raise OptionError(
            f"--format {form} acts on --figures and is one of {', '.join(FORMATS)}. Try: give both so, or neither"
        )
    material = read(sources)
    parts = list(sections(material))
    written = []
    if out is not None:
        written.append(_write(out, page(parts, title, lead(material)).encode()))
    if tables is not None:
        written.append(_write(tables, markdown(parts, title).encode()))
    if pictures is not None:
        for name, _, figure in (picture for part in parts for picture in part.pictures):
            written.append(_write(pictures / f"{name}.{form or 'svg'}", figures.saved(figure, form or "svg")))
    print(f"trueplex: wrote {', '.join(map(str, written))}", file=sys.stderr)


def _write(path: Path, content: bytes) -> Path:
    write_bytes(path, content)
    return path
