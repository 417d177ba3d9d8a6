"""The budget of KV: it is never passed, what stops gives its memory back, and no draw depends on it (laws 4 and 11)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from conftest import DEVICE, FAMILIES, SEED, agree, prompts_for, slow
from trueplex.decide.budget import Budget
from trueplex.engine import memory, rows
from trueplex.engine.batch import Batch
from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, ModelError
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import GROWTH
from trueplex.solving.loop import Solved, stream
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Status, Stop, Trace

LONG = Thinking("multiplex", 3, ending=Ending(150))
PATHS = 6
EVERY = [pytest.param(f, marks=() if f in ("qwen3", "gemma3_text", "gpt_oss") else pytest.mark.slow) for f in FAMILIES]
HYBRIDS = ["lfm2", *slow(("qwen3_5_text", "zamba2", "minimax"))]


@pytest.fixture
def tight(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes for about four traces at their full length, where many enter at once."""
    monkeypatch.setattr(memory, "AHEAD", 32)
    longest = max(len(prompt.ids) for prompt in prompts_for(backbone))
    return 4 * backbone.row_bytes(longest + 150 + 2 * GROWTH)


def decode(backbone: Backbone, budget: int | None, thinking: Thinking = LONG, stride: int = 8) -> tuple[Batch, dict[tuple[str, int], Trace]]:  # fmt: skip
    batch = start(backbone, prompts_for(backbone), PATHS, thinking, SEED, memory=budget)
    traces = [trace for stopped in grow(batch, stride) for trace in stopped]
    return batch, {(t.problem.text, t.index): t for t in traces}


def agreeing(backbone: Backbone, some: dict[tuple[str, int], Trace], others: dict[tuple[str, int], Trace]) -> bool:
    prompts = {p.problem.text: p for p in prompts_for(backbone)}
    assert some.keys() == others.keys()
    return sum(not agree(prompts[key[0]], some[key], others[key], backbone) for key in some) <= 1


@pytest.mark.parametrize("backbone", EVERY, indirect=True)
@pytest.mark.parametrize(
    "shared", [1, pytest.param(2**40, marks=pytest.mark.slow)], ids=["shared prompts", "own prompts"]
)
def test_a_small_budget_is_kept_and_changes_no_draw(backbone: Backbone, tight: int, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(rows.SHARED_BYTES, DEVICE, shared)
    free, whole = decode(backbone, None)
    small, cut = decode(backbone, tight)
    assert agreeing(backbone, whole, cut)
    assert small.peak_bytes <= tight < free.peak_bytes
    assert small.cache_bytes and not small.admit() and not small.cache_bytes  # all is given back


@pytest.mark.parametrize("family", HYBRIDS)
def test_states_follow_rows_that_stop_wait_for_memory_and_come_again(backbones: Callable[[str], Backbone], family: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Discrete: merged weights would pass the rounding of a random recurrent model on from step to step, and it grows."""
    backbone, plain = backbones(family), Thinking("discrete", ending=Ending(40))
    _, whole = decode(backbone, None, plain)
    monkeypatch.setattr(memory, "AHEAD", 1)
    longest = max(len(prompt.ids) for prompt in prompts_for(backbone))
    batch = start(
        backbone, prompts_for(backbone), PATHS, plain, SEED, memory=6 * backbone.row_bytes(longest + 40 + GROWTH)
    )
    found, waited = {}, set()
    for number, stopped in enumerate(grow(batch, 8)):
        pruned = batch.stop(Stop(trace, Status.PRUNED, "policy") for trace in batch.traces[::3]) if number == 1 else []
        found |= {(t.problem.text, t.index): t for t in stopped + pruned}
        waited |= {(t.problem.text, t.index) for t in batch.suspended}
    kept = {key for key, trace in found.items() if trace.status is not Status.PRUNED}
    assert kept & waited and len(kept) < len(found) == len(whole)
    assert agreeing(backbone, {key: found[key] for key in kept}, {key: whole[key] for key in kept})


@pytest.mark.parametrize("shared", [1, 2**40], ids=["shared prompts", "own prompts"])
def test_sliding_layers_store_their_window_alone_and_no_draw_changes(backbones: Callable[[str], Backbone], shared: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Against the plain twin, where they store everything. The window is 12 tokens; lanes let go of eight columns at a time."""
    backbone = backbones("gemma3_text")
    monkeypatch.setitem(rows.SHARED_BYTES, DEVICE, shared)
    monkeypatch.setattr(rows, "GROWTH", 8)
    runs = []
    for least in (0, 2**20):
        monkeypatch.setattr(backbone, "unread", lambda tokens, least=least: max(0, tokens - 12 - least))
        batch = start(backbone, prompts_for(backbone), 2, replace(LONG, ending=Ending(30)), SEED)
        stored, traces = [], {}
        for stopped in grow(batch, 8):
            traces |= {(t.problem.text, t.index): t for t in stopped}
            stored.append(batch.cache_bytes)
        runs.append((traces, stored))
    (windows, less), (whole, more) = runs
    assert agreeing(backbone, windows, whole)
    assert less[-1] < more[-1]


def test_running_traces_that_outgrow_the_budget_are_suspended_youngest_first(qwen: Backbone, tight: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(memory, "AHEAD", 1)  # too many enter, so that some must leave again
    batch = start(qwen, prompts_for(qwen)[:1], 12, LONG, SEED, memory=tight)
    seen: list[set[int]] = []
    finished = []
    for stopped in grow(batch, 8):
        finished += stopped
        seen.append({trace.index for trace in batch.suspended})
        assert {t.index for t in batch.snapshot()} == {t.index for t in batch.traces} | seen[-1]
        assert all(trace.steps is not None and len(trace.steps) == trace.tokens for trace in batch.suspended)
    first = next(indices for indices in seen if indices)
    assert (
        first == set(range(min(first), max(first) + 1)) and min(first) > 0 and max(first) >= 10
    )  # the last that entered
    assert sorted(trace.index for trace in finished) == list(range(12))


def test_a_stopped_trace_gives_its_memory_back_at_once(qwen: Backbone) -> None:
    batch = start(qwen, prompts_for(qwen)[:1], 12, LONG, SEED)
    running = grow(batch, 8)
    next(running)
    before = batch.cache_bytes
    batch.stop(Stop(trace, Status.PRUNED, "policy") for trace in batch.traces[::2])
    next(running)
    assert batch.cache_bytes < 0.6 * before


def test_a_prompt_is_stored_once_for_all_its_traces(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = max(prompts_for(qwen), key=lambda p: len(p.ids))
    stored = {}
    for name, bound in (("shared", 1), ("own", 2**40)):
        monkeypatch.setitem(rows.SHARED_BYTES, DEVICE, bound)
        batch = start(qwen, [replace(prompt, ids=prompt.ids * 8)], 16, replace(LONG, ending=Ending(20)), SEED)
        next(grow(batch, 4))
        stored[name] = batch.cache_bytes
    assert stored["shared"] < 0.5 * stored["own"]


def test_a_path_that_cannot_fit_is_refused_with_the_figures(qwen: Backbone) -> None:
    with pytest.raises(
        InputError, match=r"one path of up to 150 tokens .* GiB of KV cache, and the budget is 0\.00 GiB"
    ):
        start(qwen, prompts_for(qwen), 1, LONG, memory=50 * qwen.token_bytes)
    qwen.memory = 50 * qwen.token_bytes
    try:
        with pytest.raises(InputError, match="more memory"):
            next(stream(qwen, [Problem("What is 1 + 1?")], Settings(2, LONG)))
    finally:
        qwen.memory = None


def test_a_spent_budget_counts_what_was_suspended(qwen: Backbone, tight: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces that wait for memory when a budget of tokens is spent are part of the solution, with what they have."""
    monkeypatch.setattr(memory, "AHEAD", 1)
    qwen.memory = tight
    try:
        settings = Settings(12, replace(LONG, ending=Ending(150)), "none", budget=Budget(tokens=900))
        (solved,) = [e for e in stream(qwen, [Problem("What is 1 + 1?")], settings) if isinstance(e, Solved)]
    finally:
        qwen.memory = None
    spent = sum(trace.tokens for trace in solved.solution.traces)
    assert 10 < len(solved.solution.traces) <= 12 and spent <= 900  # one that never entered never was
    assert solved.solution.usage.thinking_tokens + solved.solution.usage.answer_tokens == spent


@pytest.mark.parametrize("call", [1, *slow((2, 3, 9, 20))])
def test_out_of_memory_is_answered_by_a_smaller_budget(qwen: Backbone, call: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    """At the given forward pass the device runs out of memory once: in a prefill, or in the middle of a stride."""
    _, whole = decode(qwen, None)
    passes, forward = iter(range(1, 10**6)), qwen.decode_pass

    def failing(*given: object) -> object:
        if next(passes) == call:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*given)

    monkeypatch.setattr(qwen, "decode_pass", failing)
    monkeypatch.setattr("trueplex.engine.batch.AT_LEAST", 1)
    with caplog.at_level(logging.WARNING):
        _, cut = decode(qwen, 2**26)
    assert "ran out of memory" in caplog.text and agreeing(qwen, whole, cut)


def test_other_errors_are_no_lack_of_memory(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*given: object) -> object:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(qwen, "decode_pass", failing)
    with pytest.raises(RuntimeError, match="shapes"):
        decode(qwen, None)


def test_a_device_that_never_has_enough_is_said(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*given: object) -> object:
        raise MemoryError

    monkeypatch.setattr(qwen, "decode_pass", failing)
    with pytest.raises(ModelError, match="ran out of memory"):
        decode(qwen, None)


def test_what_a_token_takes_is_what_the_cache_stores(backbone: Backbone) -> None:
    config = backbone.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    plain = 2 * config.num_hidden_layers * getattr(config, "num_key_value_heads", 1) * size * 4
    assert backbone.token_bytes == plain or getattr(config, "kv_lora_rank", None) is not None
