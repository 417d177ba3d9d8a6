"""`trueplex report`: stored results as a page, tables and pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trueplex.errors import OptionError, StoreError
from trueplex.report.drawing import saved
from trueplex.report.page import markdown, page
from trueplex.report.read import read
from trueplex.report.sections import sections

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
        written.append(_write(out, page(parts, title, material).encode()))
    if tables is not None:
        written.append(_write(tables, markdown(parts, title, material).encode()))
    if pictures is not None:
        for picture in (picture for part in parts for picture in part.pictures):
            written.append(_write(pictures / f"{picture.name}.{form or 'svg'}", saved(picture.figure(), form or "svg")))
    print(f"trueplex: wrote {', '.join(map(str, written))}", file=sys.stderr)


def _write(path: Path, content: bytes) -> Path:
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror}. Try: choose another file") from error
    return path
