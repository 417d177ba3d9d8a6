"""Pages of the documentation site that are generated when it is built (mkdocs.yml calls this): commands, and the Python API.

The commands come from the Typer application, the API from what `trueplex` exports, so neither page can fall behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

import trueplex
from trueplex.cli.main import app

SECTIONS = {  # of the API page, by the folder that a name comes from
    "Load and solve": ("models", "solving"), "Thinking and sampling": ("engine",), "Decide": ("decide",), "Answers": ("grading",),
    "Scorers": ("verify",), "Data types and errors": ("types", "errors"),
}  # fmt: skip


def on_files(files: Files, config: Any) -> Files:
    for name, text in {"commands.md": commands(), "api.md": api()}.items():
        files.append(File.generated(config, name, content=text))
    return files


def commands() -> str:
    group = typer.main.get_command(app)
    told = get_docs_for_click(obj=group, ctx=typer.Context(group, info_name="trueplex"), name="trueplex")
    told = told.replace("# `trueplex`\n", "# Commands\n", 1)
    return "".join(_plain(line) for line in told.splitlines(keepends=True))


def _plain(line: str) -> str:
    """A line of help as Markdown: examples as code, angle brackets as text, one backslash before square brackets gone."""
    if example := re.fullmatch(r"Example: +\[bold\](.*)\[/bold\]\n?", line):
        return f"```console\n$ {example[1].replace(chr(92) + '[', '[')}\n```\n"
    return line if line.startswith("$ ") else line.replace("<", "&lt;")


def api() -> str:
    return "# Python API\n\nWhat `import trueplex` gives.\n\n" + "\n".join(_sections())


def _sections() -> Iterator[str]:
    homes = {name: trueplex._HOMES[name] for name in trueplex.__all__}
    for title, folders in SECTIONS.items():
        yield f"## {title}\n"
        yield from (f"::: trueplex.{home}.{name}\n" for name, home in homes.items() if home.split(".")[0] in folders)
