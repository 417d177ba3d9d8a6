"""Law 13: the compiled decode step equals the plain one, probe columns included; what does not compile is computed plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from two_steps import THINKING, computed_plainly, equal, needs_compiler, probed

from conftest import grown, prompts_for
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.compiled import CHECKED, CompiledStep
from trueplex.models.load import load

slow = pytest.mark.slow


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


@slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_one_graph_without_breaks_serves_every_number_of_rows_and_columns(
    backbones: Callable[[str], Backbone], compiled: Callable[..., CompiledStep], family: str
) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    plain, step = probed(backbones(family), 5), compiled(family, backend)
    equal(backbones(family), plain, probed(backbones(family), 5))
    assert not step.off and step.passes > 2 * CHECKED
    assert len(graphs) == 2  # tokens alone, and with a probe beside them
    assert all(sum("over_lanes" in str(node.target) for node in graph.graph.nodes) == 2 for graph in graphs)


@slow
@needs_compiler
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2"])
def test_law_13_the_compiled_step_is_the_plain_step(
    backbones: Callable[[str], Backbone], compiled: Callable[..., CompiledStep], family: str
) -> None:
    plain, step = probed(backbones(family), 5), compiled(family, "inductor")
    equal(backbones(family), plain, probed(backbones(family), 5))
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
    computed_plainly(plain, again, said, "compiled")
    assert step.off


def test_models_whose_attention_cannot_stand_outside_of_a_graph_are_not_compiled(
    backbones: Callable[[str], Backbone], compiled: Callable[..., CompiledStep], said: list[str]
) -> None:
    assert "recurrent" in compiled("lfm2", "eager").off and len(said) == 1


def test_an_unknown_way_of_compiling_is_refused() -> None:
    with pytest.raises(OptionError, match="compile is 'maybe'"):
        load("reference", compile="maybe")
