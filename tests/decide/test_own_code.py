"""A user's own functions, as alarms and rewards: whatever their module does, it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from trueplex.decide import alarms
from trueplex.errors import InputError, OptionError
from trueplex.train.grpo import rewards
from trueplex.types import Problem, Status, Trace

MODULES = {
    "fine": "def look(trace=None, **columns): return None",
    "exits": "import sys; sys.exit(3)",
    "raises": "raise RuntimeError('two\\nlines')",
    "broken": "def look(:",
    "number": "look = 3",
    "exits_later": "import sys\ndef look(*_, **__): sys.exit('bye')",
}


@pytest.fixture(autouse=True)
def _own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in MODULES.items():
        (tmp_path / f"own_{name}.py").write_text(code)


@pytest.mark.parametrize("name", ["exits:look", "raises:look", "broken:look", "number:look", "fine:nothing", "missing:look", "fine:", ":look", ""])  # fmt: skip
def test_code_that_cannot_be_used_is_one_line(name: str) -> None:
    assert alarms.parse("call:own_fine:look").spelled
    name = f"own_{name}" if name[:1] not in ("", ":") else name
    for read in (lambda: alarms.parse(f"call:{name}"), lambda: rewards.load(name)):
        with pytest.raises(OptionError, match=r"Try: ") as stop:
            read()
        assert "\n" not in str(stop.value)


def test_code_that_exits_when_it_is_called_is_one_line() -> None:
    trace = Trace(Problem("?"), 0, 0, Status.RUNNING)
    with pytest.raises(OptionError, match=r"failed on trace 0 .*SystemExit"):
        alarms.parse("call:own_exits_later:look")(trace)
    with pytest.raises(InputError, match="failed: SystemExit"):
        rewards.grade([trace], {"own": rewards.load("own_exits_later:look")})
