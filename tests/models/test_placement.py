"""A model on several devices: two processes give the tokens of one, and what cannot be is refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sharing import tokens

from trueplex.errors import ModelError, OptionError
from trueplex.models.load import load

pytest.importorskip("accelerate")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_law_13_two_processes_give_the_tokens_of_one(
    folder: Callable[[str], Path], family: str, tmp_path: Path
) -> None:
    """Greedy and multiplex, by gloo; and a limit of time ends the same traces at the same token in both."""
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(Path(__file__).with_name("sharing.py")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launch, str(folder(family)), str(tmp_path)], capture_output=True, text=True, env=environment, timeout=240)  # fmt: skip
    assert (tmp_path / "0.json").exists(), done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert {row[2] for row in first["late"]} <= {"time limit", "end of sequence"} and "time limit" in {
        r[2] for r in first["late"]
    }
    backbone = load(str(folder(family)), "cpu", torch.float32)
    assert first["fingerprint"] == backbone.fingerprint
    for way in ("greedy", "multiplex"):
        assert first[way] == json.loads(json.dumps(tokens(backbone, way))), way


def test_what_cannot_be_placed_is_refused(folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(folder("qwen3"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    for options, kind, what in (
        ({"device_map": "balanced"}, OptionError, r"unknown device map 'balanced'. Try: one of auto, tp"),
        ({"device_map": "auto"}, ModelError, r"this machine has none that PyTorch can use\). Try: without it"),
        ({"device_map": "auto", "device": "cpu"}, OptionError, "device has no effect here"),
        ({"device_map": "tp"}, ModelError, r"there is one process\). Try: torchrun"),
        ({"device_map": "tp", "quantize": "int8"}, OptionError, "do not go together"),
    ):
        with pytest.raises(kind, match=what):
            load(path, **options)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        OptionError,
        match=r"3 processes cannot share 2 key/value heads evenly\. Try: a number of processes that divides 2",
    ):
        load(path, device_map="tp")
