"""Layers that keep a state: a probe leaves no trace in it, rows carry theirs, and what cannot be driven is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import Lane, LaneCache
from trueplex.verify.one_token import OneTokenVerifier, ProbeShape


@pytest.fixture(scope="module")
def hybrid(backbones: Callable[[str], Backbone]) -> Backbone:
    return backbones("lfm2")


def read(backbone: Backbone, rows: int = 2, tokens: int = 6) -> tuple[Lane, torch.Tensor]:
    """A lane of rows that have read unlike tokens, and the inputs [rows, tokens + 1, H]."""
    ids = torch.arange(rows * (tokens + 1)).view(rows, -1) + 5
    lane, inputs = LaneCache(backbone.kinds).add(rows, tokens + 1), backbone.embed(ids)
    with torch.inference_mode():
        backbone.decode_pass(lane.cache, [(lane, 0, rows)], np.zeros(rows, dtype=np.int64), inputs[:, :tokens])
    return lane, inputs


def test_a_probe_leaves_states_as_they_were_bit_for_bit(hybrid: Backbone) -> None:
    lane, inputs = read(hybrid)
    before = {name: state.clone() for name, state in lane.states.items()}
    assert before
    starts = np.full(2, 6)
    with torch.inference_mode():
        hybrid.decode_pass(lane.cache, [(lane, 0, 2)], starts, inputs[:, 6:], kept=False)
        assert all(torch.equal(before[name], lane.states[name]) for name in before)
        hybrid.decode_pass(lane.cache, [(lane, 0, 2)], starts, inputs[:, 6:])
    assert not any(torch.equal(before[name], lane.states[name]) for name in before)


def test_rows_carry_their_states(hybrid: Backbone) -> None:
    """A row that was exchanged, then copied into another lane, decodes on as where it was read."""
    lane, inputs = read(hybrid)
    expected, _ = read(hybrid)
    other = LaneCache(hybrid.kinds).add(1, 7)
    with torch.inference_mode():
        lane.swap([0], [1], 6)
        other.take(0, lane, torch.tensor([1]), 6)
        logits, _ = hybrid.decode_pass(expected.cache, [(expected, 0, 2)], np.full(2, 6), inputs[:, 6:])
        again, _ = hybrid.decode_pass(other.cache, [(other, 0, 1)], np.full(1, 6), inputs[:1, 6:])
    assert torch.allclose(logits[:1], again, atol=1e-5)
    bytes_of = sum(state.nbytes for state in other.states.values())
    assert bytes_of == hybrid.sizes.states and other.cache.stored == hybrid.row_bytes(other.columns)


def test_a_probe_of_several_tokens_needs_layers_that_read_them_at_once(
    hybrid: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "reads_on", False)
    with pytest.raises(OptionError, match="read one at a time"):
        OneTokenVerifier(hybrid, 0, shape=ProbeShape(2))
