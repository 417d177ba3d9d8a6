"""Pages from the templates of this folder: escaped, in one file, and nothing in them is fetched from elsewhere."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from trueplex import __version__
from trueplex.report.drawing import HEIGHT, columns, inline, width

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True,
                        lstrip_blocks=True, undefined=StrictUndefined)  # fmt: skip


def _today() -> str:
    """The date in UTC; that of SOURCE_DATE_EPOCH where it is set, so that a page can be made again byte for byte."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    when = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc) if epoch else datetime.datetime.now(datetime.timezone.utc)  # fmt: skip
    return when.strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class Made:
    """When a page was made, by which command and version."""

    date: str = field(default_factory=_today)
    command: str = field(default_factory=lambda: shlex.join(["trueplex", *sys.argv[1:]]))
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure with a panel for each of ``panels``: one drawing as a file, and on a page a drawing for each panel."""

    name: str
    caption: str
    panels: Sequence[str]
    draw: Callable[[Sequence[str]], Any]

    @property
    def columns(self) -> int:
        return columns(len(self.panels))

    @property
    def svgs(self) -> list[Markup]:
        """A figure for each panel, as wide as its column."""
        found = []
        for at, panel in enumerate(self.panels, 1):
            figure = self.draw([panel])
            figure.set_size_inches(width(self.columns), HEIGHT)
            found.append(Markup(inline(figure, f"{self.name}-{at}")))
        return found

    def figure(self) -> Any:
        """All panels as one matplotlib figure."""
        return self.draw(self.panels)


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled; every value is escaped."""
    return TEMPLATES.get_template(template).render(**values)
