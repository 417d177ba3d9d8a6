"""Prompts read in chunks between the steps of running rows, and behind what they have in common with another one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from conftest import DEVICE, SEED, agree, prompts_for
from trueplex.engine import reading, rows
from trueplex.engine.batch import Batch
from trueplex.engine.limits import Ending
from trueplex.engine.slots import Entry
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.types import Problem, Prompt, Trace

THINKING = Thinking("multiplex", 3, ending=Ending(60))
CHUNK, PATHS = 8, 3


@pytest.fixture
def prompts(qwen: Backbone) -> list[Prompt]:
    """A short one and two long ones, which begin alike."""
    short, _, other = prompts_for(qwen)
    long = [replace(other, ids=other.ids * 4 + tail, problem=Problem(f"long {tail}")) for tail in ((5, 6, 7), (8, 9))]
    return [short, *long]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", {"cpu": CHUNK})
    monkeypatch.setattr(reading, "WHOLE", 2)


class Passes:
    """Rows and columns of every pass."""

    def __init__(self, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[tuple[int, int]] = []
        plain = backbone.decode_pass
        monkeypatch.setattr(backbone, "decode_pass", lambda *a: (self.all.append(tuple(a[3].shape[:2])), plain(*a))[1])


def entry(number: int, prompt: Prompt) -> Entry:
    traces = [Trace(prompt.problem, i, SEED, request=number) for i in range(PATHS)]
    return Entry(number, prompt, THINKING, traces, together=False)


def decode(backbone: Backbone, prompts: list[Prompt], chunked: bool, at: int = 2) -> dict[tuple[int, int], Trace]:
    """The first prompt runs for some steps before the others come."""
    batch, done, turn = Batch(backbone, chunked=chunked), dict[tuple[int, int], Trace](), 0
    batch.submit(entry(0, prompts[0]))
    while batch:
        if turn == at:
            for number, prompt in enumerate(prompts[1:], 1):
                batch.submit(entry(number, prompt))
        batch.admit()
        batch.make_room(1)
        done |= {(t.request, t.index): t for t in batch.advance(1)}
        turn += 1
    assert not batch.cache_bytes or (not batch.admit() and not batch.cache_bytes)  # all is given back
    return done


def test_rows_advance_between_the_chunks_of_a_long_prompt_and_draw_the_same(
    qwen: Backbone, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, passes = decode(qwen, prompts, chunked=False), Passes(qwen, monkeypatch)
    chunked = decode(qwen, prompts, chunked=True)
    assert whole.keys() == chunked.keys() and len(whole) == 3 * PATHS
    assert sum(not agree(prompts[key[0]], whole[key], chunked[key], qwen) for key in whole) <= 1
    length = len(prompts[1].ids)
    begun = passes.all.index((1, CHUNK))
    between = passes.all[begun : begun + 2 * -(-(length - 1) // CHUNK) - 1]
    assert between[::2] == [(1, CHUNK)] * (len(between) // 2) + [(1, (length - 1) % CHUNK or CHUNK)]
    assert between[1::2] == [(PATHS, 1)] * (len(between) // 2)  # a step of the running rows after every chunk
    assert max(columns for _, columns in passes.all[1:]) <= max(CHUNK, len(prompts[0].ids))


def test_what_prompts_have_in_common_is_read_once(
    qwen: Backbone, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decode(qwen, [prompts[1], prompts[2], prompts[1]], chunked=False)
    monkeypatch.setitem(rows.SHARED_BYTES, DEVICE, 1)
    monkeypatch.setattr(rows, "COPIED_BYTES", 1)
    passes = Passes(qwen, monkeypatch)
    alike = decode(qwen, [prompts[1], prompts[2], prompts[1]], chunked=False)
    assert sum(not agree(prompts[(1, 2, 1)[key[0]]], whole[key], alike[key], qwen) for key in whole) <= 1
    read = [columns for count, columns in passes.all if count == 1 and columns > 1]
    assert read == [len(prompts[1].ids) - 1]  # nothing of the equal prompt, and of the one like it the end
    assert sum(count == 1 for count, _ in passes.all) == 4


def test_a_prompt_that_is_given_up_leaves_nothing_behind(qwen: Backbone, prompts: list[Prompt]) -> None:
    batch = Batch(qwen, chunked=True)
    batch.submit(entry(0, prompts[0]))
    for turn in range(4):
        batch.admit()
        batch.advance(1)
        if turn == 1:
            stored = batch.cache_bytes
            batch.submit(entry(1, prompts[1]))
    assert batch.cache_bytes > stored and len(batch.waiting) == 1 and len(batch.traces) == PATHS
    batch.withdraw({1}, "cancelled")
    assert batch.cache_bytes == stored and not batch.waiting
    batch.submit(entry(1, prompts[1]))
    batch.admit()
    batch.advance(1)
    batch._memory.budget = batch.cache_bytes  # no room to grow: what came last leaves first
    batch.make_room(64)
    assert batch.cache_bytes <= stored and len(batch.waiting) >= 1
