"""`bench/load.py` at its smallest: clients of every kind at once, clients that vanish, fuzzed bodies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # two servers of their own
def test_a_server_under_a_little_load(tmp_path: Path) -> None:
    little = [
        "--seconds",
        "3",
        "--clients",
        "8",
        "--vanish",
        "6",
        "--fuzz",
        "80",
        "--variety",
        "15",
        "--max-tokens",
        "40",
    ]
    done = subprocess.run([sys.executable, "bench/load.py", *little, "--out", str(tmp_path / "load.json")], cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode in (0, 1), done.stderr[-2000:]
    found = json.loads((tmp_path / "load.json").read_text())
    # So short a run says nothing of memory, which is still being filled.
    assert set(found["missed"]) <= {"memory flat"}, json.dumps(found, indent=1)
    assert (
        found["mixed"]["requests"] >= 8
        and found["mixed"]["compared with solve"] == 6
        and found["fuzz"]["statuses"]["400"] > 20
    )
