"""What is built holds what the package needs: a wheel without the embedded model's weights would install and fail."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_holds_all_package_data() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel")
    source = ROOT / "src" / "trueplex"
    there = {
        p.relative_to(ROOT / "src").as_posix()
        for p in source.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    held = {file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {Path(name).suffix for name in there} >= {
        ".py",
        ".safetensors",
        ".json",
        ".j2",
        ".css",
        ".js",
        ".html",
        ".jinja",
    }
    assert sorted(there - held) == []
