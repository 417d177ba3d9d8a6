"""The fault run in short: `make faults` is the whole of it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import damage
import fuzz
import pytest
from world import Ended

from trueplex.files import write_json


@pytest.mark.slow
def test_nothing_is_lost_or_changed_in_silence(tmp_path: Path) -> None:
    script = Path(__file__).with_name("run_faults.py")
    done = subprocess.run(
        [sys.executable, script, "--short", "--out", tmp_path / "faults.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_a_reader_that_looks_at_no_checksum_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write_json(tmp_path / "base" / "x.json", {"a": 12345678})
    careless = damage.Kind("x.json", lambda folder: (folder / "x.json").read_text(errors="replace"))
    found = damage.damaged_in(tmp_path / "base", tmp_path / "work", "x", careless, 20, 5, 0)
    assert len(found["faults"]) == 25 and "changed in silence" in found["faults"][0]


@pytest.mark.parametrize(
    ("ended", "wrong"),
    [(Ended(0, 0, "", "", 1), False), (Ended(2, 0, "", "trueplex: no (why). Try: this\n", 1), False), (Ended(-1, 9, "", "", 1), False),
     (Ended(2, 0, "", "trueplex: no\n", 1), True), (Ended(-1, 11, "", "", 1), True), (Ended(70, 0, "", "Traceback …", 1), True), (Ended(3, 0, "", "", 1), True)],
)  # fmt: skip
def test_what_counts_as_a_fault(ended: Ended, wrong: bool) -> None:
    assert bool(ended.fault) is wrong


@pytest.mark.parametrize(
    ("work", "hangs"),
    [(lambda: [print(n) for n in count()], False), (lambda: print("one") or [n for n in count() if n < 0], True)],
    ids=["it goes on printing", "it says no more"],
)
def test_what_counts_as_a_hang(work: Callable[[], object], hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_process(words: list[str]) -> int:
        with contextlib.suppress(KeyboardInterrupt, TimeoutError):
            work()
        return 130

    monkeypatch.setattr(fuzz, "HANG", 0.2)
    monkeypatch.setattr(fuzz, "TICK", 0.1)
    monkeypatch.setattr(fuzz, "in_process", in_process)
    assert (fuzz.ended([]).fault or "").startswith("hang: over") is hangs
