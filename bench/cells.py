"""Results files, and their figures as the cells of a Markdown table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trueplex.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
MODES = ("discrete", "multiplex")


def read(name: str) -> Any:
    """The results file of that name; None while it is not there."""
    path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def read_all(folder: str) -> dict[str, Any]:
    """The results files of a folder, by their names without the ending, in order."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((RESULTS / folder).glob("*.json"))}


def write(result: dict[str, Any], out: Path | None) -> None:
    """The figures as the last line of the output, and as a file, whole or not at all."""
    if out:
        write_json(out, result, indent=1)
    print(json.dumps(result))


def missing(name: str, target: str) -> str:
    return f"No `results/{name}` yet: `make {target}` writes it."


def made_by(result: dict[str, Any]) -> str:
    """The version that measured a results file."""
    return str(result["machine"]["trueplex"])


def measured(*results: dict[str, Any] | None) -> str:
    """A sentence that says which version measured a table.

    Exits where the files of one table are of several versions.
    """
    versions = sorted({made_by(result) for result in results if result})
    if len(versions) > 1:
        sys.exit(f"the files of one table were measured by several versions ({', '.join(versions)}). Try: make results")
    return f" Measured by trueplex {versions[0]}." if versions else ""


def percent(figure: dict[str, float], interval: bool = True) -> str:
    text = f"{100 * figure['mean']:.1f}"
    return f"{text} [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]" if interval else text


def spread(figure: dict[str, float] | None, digits: int) -> str:
    """A figure with its interval, in its own unit; a dash where no problem could tell."""
    if figure is None:
        return "–"
    return f"{figure['mean']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"


def turns(figure: dict[str, float], digits: int = 2) -> str:
    """The range of paired runs."""
    return f"{figure['lowest']:.{digits}f}–{figure['highest']:.{digits}f}"


def paired(ratios: dict[str, dict[str, float]], digits: int = 2) -> list[list[str]]:
    """A row for each ratio of paired runs: its name, the median and the range."""
    return [[name, f"{f['ratio']:.{digits}f}", turns(f, digits)] for name, f in ratios.items()]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def counted(sizes: set[int]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(min(sizes))
