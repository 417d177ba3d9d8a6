"""Law 13: the compiled decode step equals the plain one, probe columns included; what does not compile is computed plainly."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from conftest import agree, grown, prompts_for
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.compiled import CHECKED, CompiledStep
from trueplex.models.load import load
from trueplex.types import Trace
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer

THINKING = Thinking("multiplex", 3, ending=Ending(30))
slow = pytest.mark.slow
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler: no g++ here")


@pytest.fixture
def compiled(backbones: Callable[[str], Backbone]) -> Iterator[Callable[..., CompiledStep]]:
    made: list[Backbone] = []

    def compile(family: str, backend: Any) -> CompiledStep:
        made.append(backbones(family))
        made[-1].compiled = CompiledStep(made[-1], backend)
        return made[-1].compiled

    yield compile
    for backbone in made:
        backbone.compiled = None


def probed(backbone: Backbone) -> dict[tuple[str, int], Trace]:
    torch.manual_seed(3)
    verifier = OneTokenVerifier(backbone, 4)
    for adapter in verifier.adapters.values():
        torch.nn.init.normal_(adapter.lora_B, std=0.3)
    with torch.no_grad():
        traces = grown(
            backbone, prompts_for(backbone), 3, THINKING, scorer=OneTokenScorer(verifier.eval(), 5), stride=5
        )
    return {(t.problem.text, t.index): t for t in traces}


def equal(backbone: Backbone, plain: dict[tuple[str, int], Trace], others: dict[tuple[str, int], Trace]) -> None:
    prompts = {p.problem.text: p for p in prompts_for(backbone)}
    alike = [key for key in plain if agree(prompts[key[0]], plain[key], others[key], backbone)]
    assert len(alike) >= len(plain) - 1
    for key in alike:
        one, other = (np.array(found[key].scores) for found in (plain, others))
        assert len(one) and np.allclose(one, other, atol=1e-3)


@slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_one_graph_without_breaks_serves_every_number_of_rows_and_columns(
    backbones: Callable[[str], Backbone], compiled: Callable[..., CompiledStep], family: str
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    plain, step = probed(backbones(family)), compiled(family, backend)
    equal(backbones(family), plain, probed(backbones(family)))
    assert not step.off and step.passes > 2 * CHECKED
    assert len(graphs) == 2  # tokens alone, and with a probe beside them
    assert all(sum("over_lanes" in str(node.target) for node in graph.graph.nodes) == 2 for graph in graphs)


@slow
@needs_compiler
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2"])
def test_law_13_the_compiled_step_is_the_plain_step(
    backbones: Callable[[str], Backbone], compiled: Callable[..., CompiledStep], family: str
) -> None:
    plain, step = probed(backbones(family)), compiled(family, "inductor")
    equal(backbones(family), plain, probed(backbones(family)))
    assert not step.off and step.passes > 2 * CHECKED


@pytest.mark.parametrize("fault", ["compiler", pytest.param("results", marks=slow)])
def test_what_does_not_compile_or_differs_is_computed_plainly_with_one_line(
    qwen: Backbone, compiled: Callable[..., CompiledStep], fault: str, said: list[str]
) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        if fault == "compiler":
            raise RuntimeError("no compiler found")
        return lambda *given: [1.5 * out + 1 if out.dtype == torch.float32 else out for out in graph.forward(*given)]

    plain, step = grown(qwen, prompts_for(qwen), 2, THINKING), compiled("qwen3", backend)
    again = grown(qwen, prompts_for(qwen), 2, THINKING)
    assert all(np.array_equal(a.steps.ids, b.steps.ids) for a, b in zip(plain, again, strict=True))
    lines = [line for line in said if "is not compiled" in line]
    assert len(lines) == 1 and "computed plainly" in lines[0] and "\n" not in lines[0] and step.off


def test_models_whose_attention_cannot_stand_outside_of_a_graph_are_not_compiled(
    backbones: Callable[[str], Backbone], compiled: Callable[..., CompiledStep], said: list[str]
) -> None:
    assert "recurrent" in compiled("lfm2", "eager").off and len(said) == 1


def test_an_unknown_way_of_compiling_is_refused() -> None:
    with pytest.raises(OptionError, match="compile is 'maybe'"):
        load("reference", compile="maybe")
