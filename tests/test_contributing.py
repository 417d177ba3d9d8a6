"""CONTRIBUTING.md names files that exist and the order that is tested; CITATION.cff can be read and is up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import trueplex
from test_structure import ORDER

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
TABLE = TEXT.partition("## Eleven changes")[2]
CHANGES = [line for line in TABLE.splitlines() if line.startswith("| a")]  # "a …", "an …"


def named(text: str) -> list[str]:
    """What is in backticks and looks like a path: it has a slash or the ending of a file."""
    quoted = re.findall(r"`([^`\s]+)`", text)
    return [
        name
        for name in quoted
        if "/" in name or name == "Makefile" or Path(name).suffix in (".py", ".md", ".txt", ".toml")
    ]


def exists(name: str) -> bool:
    return (ROOT / name).exists() or (ROOT / "src" / "trueplex" / name).exists()


def test_ten_changes_are_mapped_to_files() -> None:
    assert len(CHANGES) == 11
    for line in CHANGES:
        change, code, pages = line.strip("|").split(" | ")
        assert [n for n in named(code) if n.endswith(".py")], change
        assert [n for n in named(pages) if n.startswith("tests/")], change


@pytest.mark.parametrize("name", sorted({n for n in named(TEXT) if n != "utils.py"}))
def test_every_file_that_is_named_exists(name: str) -> None:
    assert exists(name), f"CONTRIBUTING.md names {name!r}, and there is none"


def test_the_order_of_the_folders_is_the_one_that_is_tested() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("`root` <"))
    assert [name.strip("` ") for name in line.split("<")] == ["root", *ORDER]


def test_the_citation_can_be_read() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= told.keys()  # what the format requires
    assert told["version"] == trueplex.__version__ and told["license"] == "Apache-2.0"
    assert [who["name"] for who in told["authors"]] == ["the trueplex maintainers"]
    cited = {identifier["value"] for paper in told["references"] for identifier in paper["identifiers"]}
    assert cited == {"arXiv:2601.08808", "arXiv:2603.01025"}
    assert all({"type", "title", "authors"} <= paper.keys() for paper in told["references"])


def test_the_picture_of_the_folders_has_their_order() -> None:
    """docs/folders.svg is drawn by hand: every folder once, in the order that is tested."""
    picture = (ROOT / "docs" / "folders.svg").read_text()
    assert re.findall(r'font-weight="600">(\w+)<', picture) == ORDER
