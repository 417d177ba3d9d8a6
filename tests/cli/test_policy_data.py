"""Which problems `train policy` judges by, when a file gives none of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trueplex.cli.train_policy import PolicyDataOptions
from trueplex.errors import OptionError


def test_a_short_file_keeps_one_problem_to_judge_by(tmp_path: Path) -> None:
    """Of twenty problems chance held none back, and training was refused."""
    file = tmp_path / "train.jsonl"
    for n in range(1, 12):
        file.write_text(
            "".join(json.dumps({"problem": f"What is {i} + {i}?", "answer": str(2 * i)}) + "\n" for i in range(n))
        )
        options = PolicyDataOptions(data=str(file), out=tmp_path)
        if n == 1:
            with pytest.raises(OptionError, match="no problem is left to judge by"):
                options.read(0, "boxed")
            continue
        learned, judging = options.read(0, "boxed")
        assert judging and learned and len(learned) + len(judging) == n
