"""Golden trajectories: a few steps of every trainer come to the figures that were committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trajectories import GOLDEN, TRAJECTORIES, figures

# Other processors add in another order, which Adam amplifies where a gradient is nearly 0: 1e-6 to 1e-5 was seen.
TOLERANCE = 1e-3


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_training_gives_the_committed_figures(name: str, tmp_path: Path) -> None:
    wanted, got = json.loads(GOLDEN.read_text())[name], figures(name, tmp_path)
    assert len(got) == len(wanted) > 2
    for a, b in zip(got, wanted, strict=True):
        assert a == pytest.approx(b, rel=TOLERANCE, abs=TOLERANCE / 10)
