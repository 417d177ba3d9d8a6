"""What a step carries between the processor and the device, counted by the calls that do it, as a CPU is its own device."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from conftest import TEXTS
from trueplex.engine.grow import start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.evals.speed.bench import endless
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.types import Problem

HOST = ("cpu", "item", "tolist", "__bool__", "__int__", "__float__")


@pytest.mark.parametrize("mode", ["discrete", "multiplex", "stochastic-soft"])
def test_a_step_of_ragged_rows_carries_one_thing_each_way(
    qwen: Backbone, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [make_prompt(Problem(text), qwen) for text in TEXTS]
    batch = start(qwen, prompts, 2, Thinking(mode, ending=Ending(30)))
    with endless(qwen):
        batch.admit()
        batch.advance(3)
        counted: Counter[str] = Counter()
        for name in HOST:
            plain = getattr(torch.Tensor, name)
            monkeypatch.setattr(torch.Tensor, name, lambda *a, _n=name, _p=plain: (counted.update(["host"]), _p(*a))[1])
        for name in ("from_numpy", "tensor"):
            plain = getattr(torch, name)
            monkeypatch.setattr(torch, name, lambda *a, _p=plain, **k: (counted.update(["device"]), _p(*a, **k))[1])
        batch.advance(5)
        monkeypatch.undo()
    assert len(batch.traces) == 6 and len(set(batch._rows.slots.lengths[:6].tolist())) > 1
    assert counted == {"host": 5, "device": 5}
