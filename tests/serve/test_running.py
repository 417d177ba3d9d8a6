"""What is run aside leaves no thread behind, and fails where it was asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from trueplex.errors import ModelError
from trueplex.serve.running import aside

THREADS = """
import os, time, torch
from trueplex.serve.running import aside
torch.set_num_threads(2)
multiply = lambda: (torch.ones(512, 512) @ torch.ones(512, 512)).sum().item()
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
assert aside(multiply) == 512**3
deadline = time.monotonic() + 10  # they end by themselves, a moment later
while threads() > before and time.monotonic() < deadline:
    time.sleep(0.01)
assert threads() == before, f"{threads()} threads where there were {before}"
multiply()
assert threads() > before, "two threads were not used"
"""


def test_what_it_gives_and_what_it_raises() -> None:
    assert aside(lambda: 3) == 3
    with pytest.raises(ModelError, match="not a model"):
        aside(lambda: (_ for _ in ()).throw(ModelError("not a model")))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_thread_is_left() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
