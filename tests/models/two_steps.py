"""What tests of the compiled and of the recorded decode step hold against the plain one."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from conftest import agree, grown, prompts_for
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.types import Trace
from trueplex.verify.one_token import OneTokenVerifier, ProbeShape
from trueplex.verify.probe import OneTokenScorer

THINKING = Thinking("multiplex", 3, ending=Ending(30))
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler: no g++ here")


def probed(backbone: Backbone, every: int, rows: int | None = None, tokens: int = 1) -> list[Trace]:
    """Ragged traces of three prompts, in so many rows, read by a probe every so many tokens."""
    torch.manual_seed(3)
    verifier = OneTokenVerifier(backbone, 4, shape=ProbeShape(tokens))
    for adapter in verifier.adapters.values():
        torch.nn.init.normal_(adapter.lora_B, std=0.3)
    scorer = OneTokenScorer(verifier.eval(), every)
    with torch.no_grad():
        return grown(backbone, prompts_for(backbone), 3, THINKING, scorer=scorer, stride=every, rows=rows)


def drawn_alike(backbone: Backbone, plain: Iterable[Trace], others: Iterable[Trace]) -> list[tuple[Trace, Trace]]:
    """The pairs of traces that drew the same: all but one at most, which may part at a near-tie."""
    prompts = {p.problem.text: p for p in prompts_for(backbone)}
    ones, twos = ({(t.problem.text, t.index): t for t in traces} for traces in (plain, others))
    assert ones.keys() == twos.keys()
    alike = [(one, twos[key]) for key, one in ones.items() if agree(prompts[key[0]], one, twos[key], backbone)]
    assert len(alike) >= len(ones) - 1
    return alike


def equal(backbone: Backbone, plain: Iterable[Trace], others: Iterable[Trace]) -> None:
    """They drew the same, and the probe read the same."""
    for pair in drawn_alike(backbone, plain, others):
        one, other = (np.array(trace.scores) for trace in pair)
        assert len(one) and np.allclose(one, other, atol=1e-3)


def computed_plainly(plain: list[Trace], others: list[Trace], said: list[str], how: str) -> None:
    """The traces are the plain ones, token for token, and one line says that the step is not what was tried."""
    assert all(np.array_equal(a.steps.ids, b.steps.ids) for a, b in zip(plain, others, strict=True))
    lines = [line for line in said if f"is not {how}" in line]
    assert len(lines) == 1 and "computed plainly" in lines[0] and "\n" not in lines[0]
