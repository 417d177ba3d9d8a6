"""Law 13: a recorded decode step equals the plain one, probe columns included. Where there is no CUDA, a record is computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from two_steps import THINKING, computed_plainly, drawn_alike, equal, needs_compiler, probed

from conftest import DEVICE, SEED, grown, prompts_for, slow
from trueplex.engine import rows
from trueplex.engine.grow import start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.captured import CapturedStep
from trueplex.models.compiled import CHECKED, CompiledStep
from trueplex.types import Status, Stop

Work = Callable[[], tuple[Tensor, Tensor]]


def again(work: Work) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]:
    """As a CUDA graph: the same work in the same places, whenever it is replayed."""
    found = work()

    def replay() -> None:
        for kept, fresh in zip(found, work(), strict=True):
            kept.copy_(fresh)

    return found, replay


def bound(step: CapturedStep) -> CapturedStep:
    """The same step, whose records, where they are computed anew, may make nothing, and read the lanes where they lay when it was made."""
    plan, stored = step._planned, dict[int, tuple[Tensor, list[int]]]()

    def planned(cache: Any, pieces: Any, positions: Tensor) -> Any:
        assert all(lane.layers for lane, _, _ in pieces), "a graph would make its lane anew at every replay"
        lies = [tensor.data_ptr() for lane, _, _ in pieces for layer in lane.layers.values() for tensor in layer]
        assert stored.setdefault(id(positions), (positions, lies))[1] == lies, "a graph would read what is elsewhere"
        return plan(cache, pieces, positions)

    step._planned = planned  # type: ignore[method-assign]
    return step


@pytest.fixture
def captured(backbones: Callable[[str], Backbone]) -> Iterator[Callable[..., CapturedStep]]:
    made: list[tuple[Backbone, Any]] = []

    def capture(family: str, record: Any = None) -> CapturedStep:
        backbone = backbones(family)
        made.append((backbone, backbone.captured))
        recorder = (lambda: record) if record else None if DEVICE == "cuda" else lambda: again
        backbone.captured = bound(CapturedStep(backbone, recorder))
        return backbone.captured

    yield capture
    for backbone, before in reversed(made):
        backbone.captured = before


@pytest.mark.parametrize("shared", [1, 2**40], ids=["shared prompts", "own prompts"])
@pytest.mark.parametrize("family", ["qwen2", "gemma3_text", *slow(["llama", "gpt_oss", "gemma2"])])
def test_law_13_the_recorded_step_is_the_plain_step(
    backbones: Callable[[str], Backbone], captured: Callable[..., CapturedStep], family: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    backbone = backbones(family)
    monkeypatch.setitem(rows.SHARED_BYTES, DEVICE, shared)
    tokens = 4 if family == "qwen2" else 1
    monkeypatch.setattr(backbone, "captured", None)
    plain = probed(backbone, 7, 5, tokens)
    step = captured(family)
    equal(backbone, plain, probed(backbone, 7, 5, tokens))
    assert not step.off and step.passes > 2 * step.made > 4


def test_a_lane_that_comes_when_others_run_is_made_before_it_is_recorded(
    qwen: Backbone, captured: Callable[..., CapturedStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared prompt has a lane of its own, empty until its first step; a graph that made it would empty it at every replay."""
    monkeypatch.setitem(rows.SHARED_BYTES, DEVICE, 1)
    thinking, prompts = Thinking("discrete", ending=Ending(30)), prompts_for(qwen)
    monkeypatch.setattr(qwen, "captured", None)
    plain = grown(qwen, prompts, 4, thinking, rows=4, stride=4)
    step = captured("qwen3")
    drawn_alike(qwen, plain, grown(qwen, prompts, 4, thinking, rows=4, stride=4))
    assert step.made >= len(prompts) and not step.off


def test_a_lane_has_another_stamp_even_if_memory_ran_out_while_it_grew(
    qwen: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = start(qwen, prompts_for(qwen)[:1], 2, Thinking("discrete", ending=Ending(30)), SEED)
    batch.admit()
    batch.advance(2)
    lane, zeros, calls = batch._rows.cache.lanes[0], torch.Tensor.new_zeros, 0

    def failing(self: Tensor, *sizes: Any, **named: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # keys and values of the first layer are elsewhere by then
            raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(self, *sizes, **named)

    before = lane.stamp
    monkeypatch.setattr(torch.Tensor, "new_zeros", failing)
    with pytest.raises(torch.OutOfMemoryError):
        lane.resize(lane.rows, lane.columns + 64)
    assert lane.stamp != before


def test_rows_that_run_no_more_keep_what_they_hold(qwen: Backbone, captured: Callable[..., CapturedStep]) -> None:
    step = captured("qwen3")
    batch = start(qwen, prompts_for(qwen)[:1], 6, Thinking("discrete", ending=Ending(30)), SEED)
    batch.admit()
    batch.advance(4)
    stopped = batch.stop([Stop(trace, Status.PRUNED, "") for trace in batch.traces[::2]])
    lane = batch._rows.cache.lanes[0]
    held = [tensor[lane.live : lane.live + lane.held].clone() for layer in lane.layers.values() for tensor in layer]
    before = step.passes
    batch.advance(4)
    after = [tensor[lane.live : lane.live + lane.held] for layer in lane.layers.values() for tensor in layer]
    assert len(stopped) == 3 == lane.held and step.passes > before
    assert all(torch.equal(a, b) for a, b in zip(held, after, strict=True))


def test_the_first_step_is_plain_and_then_a_graph_is_made_once_for_lanes_that_stay(
    qwen: Backbone, captured: Callable[..., CapturedStep]
) -> None:
    step = captured("qwen3")
    for recorded, passes in ((1, 7), (2, 15)):
        batch = start(qwen, prompts_for(qwen)[:1], 4, Thinking("discrete", ending=Ending(30)), SEED)
        batch.admit()
        batch.advance(8)
        assert (step.made, step.passes) == (recorded, passes)


def test_a_graph_that_could_not_be_recorded_is_tried_once_more(
    qwen: Backbone, captured: Callable[..., CapturedStep]
) -> None:
    failures = [RuntimeError("a kernel was loaded while a graph was recorded")]

    def record(work: Work) -> Any:
        if failures:
            raise failures.pop()
        return again(work)

    step = captured("qwen3", record)
    assert len(grown(qwen, prompts_for(qwen), 2, THINKING)) == 6
    assert not step.off and step.passes


@pytest.mark.parametrize("fault", ["recording", "results"])
def test_what_cannot_be_recorded_or_differs_is_computed_plainly_with_one_line(
    qwen: Backbone, captured: Callable[..., CapturedStep], fault: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(work: Work) -> Any:
        if fault == "recording":
            raise RuntimeError("operation not permitted when stream is capturing")
        found, replay = again(work)
        return (1.5 * found[0] + 1, found[1]), replay

    monkeypatch.setattr(qwen, "captured", None)
    plain, step = grown(qwen, prompts_for(qwen), 2, THINKING), captured("qwen3", record)
    others = grown(qwen, prompts_for(qwen), 2, THINKING)
    computed_plainly(plain, others, said, "recorded")
    assert step.off


def test_a_step_that_memory_does_not_suffice_to_record_is_computed_plainly(
    qwen: Backbone, captured: Callable[..., CapturedStep], said: list[str]
) -> None:
    tried = []

    def record(work: Work) -> Any:
        tried.append(work)
        raise torch.OutOfMemoryError("CUDA out of memory")

    step = captured("qwen3", record)
    batch = start(qwen, prompts_for(qwen)[:1], 4, Thinking("discrete", ending=Ending(30)), SEED)
    batch.admit()
    batch.advance(8)
    assert not step.off and not step.made
    assert len(tried) == 1 == sum("not recorded" in line for line in said)  # and not at every step


@pytest.mark.slow
@needs_compiler
def test_a_compiled_step_is_recorded_once_it_is_known_to_be_right(
    qwen: Backbone, captured: Callable[..., CapturedStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, before = captured("qwen3"), qwen.compiled
    qwen.compiled = compiled = CompiledStep(qwen)
    used, recorded = list[bool](), compiled.unseen
    monkeypatch.setattr(
        compiled, "unseen", lambda *given: (found := recorded(*given), used.append(found is not None))[0]
    )
    try:
        recorded_ones = grown(qwen, prompts_for(qwen), 2, THINKING)
        assert compiled.passes == CHECKED and step.passes > CHECKED and not compiled.off and used and all(used)
        qwen.compiled = qwen.captured = None
        drawn_alike(qwen, grown(qwen, prompts_for(qwen), 2, THINKING), recorded_ones)
    finally:
        qwen.compiled = before


def test_models_that_keep_states_are_not_recorded(captured: Callable[..., CapturedStep], said: list[str]) -> None:
    assert "recurrent" in captured("lfm2").off and len(said) == 1
