"""Sampling and merging against closed forms. Chi-square tests use fixed seeds and the 0.1 % level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from trueplex.engine import distribution
from trueplex.engine.distribution import HIDDEN, Distribution
from trueplex.engine.limits import Ending
from trueplex.engine.random import trace_key, uniforms, uniforms_on
from trueplex.engine.sampling import Sampling, draw, keep, log_softmax
from trueplex.engine.thinking import Thinking, merged, multiplex, one_hot
from trueplex.errors import OptionError

LEVEL = 1e-3


def kept_of(probs: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What `keep` leaves, with every weight at its token: [B, V]."""
    return kept_of_logits(probs.log().clamp(min=HIDDEN), sampling)


def kept_of_logits(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    weights, ids = keep(Distribution(logits, sampling.temperature), sampling)
    return weights if ids is None else torch.zeros(logits.shape).scatter(-1, ids, weights)


logit_rows = st.integers(2, 12).flatmap(lambda v: st.lists(st.floats(-8, 8, width=32), min_size=v, max_size=v))


def test_uniforms_are_uniform_and_belong_to_trace_and_step() -> None:
    keys = np.array([trace_key(0, 7, i) for i in range(200)], dtype=np.uint64)
    drawn = np.concatenate([uniforms(keys, np.full(200, t), 3).ravel() for t in range(20)])
    assert kstest(drawn, "uniform").pvalue > LEVEL
    assert ((drawn >= 0) & (drawn < 1)).all() and len(np.unique(drawn)) > 0.99 * len(drawn)
    again = uniforms(keys[5:6], np.array([9]), 3)
    batch = uniforms(keys, np.full(200, 9), 6)
    assert np.array_equal(again[0], batch[5, :3])  # neither the batch nor the width matters


def test_what_is_drawn_on_the_device_is_drawn_bit_for_bit() -> None:
    keys = np.array([trace_key(3, 2**64 - 1, i) for i in range(100)], dtype=np.uint64)
    steps = np.arange(100) * 331
    made = uniforms_on(torch.from_numpy(keys.view(np.int64)), torch.from_numpy(steps), 5)
    assert np.array_equal(made.numpy(), uniforms(keys, steps, 5)) and made.dtype == torch.float32


def test_neighbouring_slots_steps_and_traces_are_independent() -> None:
    keys = np.array([trace_key(0, 7, i) for i in range(4000)], dtype=np.uint64)
    u = uniforms(keys, np.zeros(4000, dtype=np.int64), 2)
    later = uniforms(keys, np.ones(4000, dtype=np.int64), 1)
    pairs = (u[:, 0], u[:, 1]), (u[:, 0], later[:, 0]), (u[:-1, 0], u[1:, 0])
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(4000)


@pytest.mark.parametrize("width", [1, 3])
def test_k_samples_have_the_frequencies_of_the_distribution(width: int) -> None:
    probs = torch.tensor([0.5, 0.0, 0.25, 0.15, 0.1])
    keys = np.array([trace_key(1, 2, i) for i in range(20000)], dtype=np.uint64)
    u = torch.from_numpy(uniforms(keys, np.zeros(20000, dtype=np.int64), width))
    ids = draw(probs.expand(20000, -1), u)
    for slot in range(width):
        counts = np.bincount(ids[:, slot].numpy(), minlength=5)
        assert counts[1] == 0
        assert chisquare(np.delete(counts, 1), 20000 * np.delete(probs.numpy(), 1)).pvalue > LEVEL


def test_duplicates_keep_their_slots_and_weigh_by_count_times_probability() -> None:
    """Multiplex rule: token v weighs n_v p_v / Σ p over the draws."""
    probs = torch.tensor([[0.6, 0.3, 0.1]])
    step = multiplex(probs.log(), torch.tensor([[0.1, 0.2, 0.7]]), Sampling())
    assert step.ids.tolist() == [[0, 0, 1]]
    assert torch.allclose(step.weights, torch.tensor([[0.4, 0.4, 0.2]]))
    mean = multiplex(probs.log(), torch.tensor([[0.1, 0.2, 0.7]]), Sampling(), "mean")
    assert torch.allclose(mean.weights, torch.full((1, 3), 1 / 3))
    assert torch.allclose(step.logps, torch.tensor([[0.6, 0.6, 0.3]]).log())
    assert torch.allclose(step.entropy, -(probs * probs.log()).sum(-1))


@given(logit_rows, st.floats(0, 0.999), st.floats(0.05, 1), st.integers(0, 12), st.floats(0, 0.9), st.floats(0.2, 3))
@example([0.0, 1.0, 2.0, 1.2150154304890748e-07], 0.0, 0.875, 0, 0.0, 1.0)
def test_a_draw_is_always_of_something_kept(
    row: list[float], u: float, top_p: float, top_k: int, min_p: float, t: float
) -> None:
    sampling = Sampling(t, top_p, top_k, min_p)
    kept = kept_of_logits(torch.tensor([row]), sampling)
    step = multiplex(torch.tensor([row]), torch.tensor([[u, 0.0, 0.99999994]]), sampling)
    assert (kept.gather(-1, step.ids) > 0).all()
    assert step.weights.sum().item() == pytest.approx(1, abs=1e-5)


@given(logit_rows, st.floats(0.05, 0.99))
def test_top_p_keeps_the_smallest_set_that_reaches_the_mass(row: list[float], top_p: float) -> None:
    probs = torch.softmax(torch.tensor([row], dtype=torch.float64), -1)
    kept = kept_of(probs, Sampling(top_p=top_p))[0]
    mass = kept.sum().item()
    assert mass >= top_p - 1e-6
    assert mass - kept[kept > 0].min().item() < top_p + 1e-6  # without its least token it would not reach it
    assert (kept == 0).sum() == 0 or kept[kept > 0].min() >= probs[0][kept == 0].max() - 1e-6


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("vocabulary", [3, 64, 1000, 20_011])
def test_reading_in_blocks_is_reading_plainly(vocabulary: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(distribution, "AT_ONCE", 3 * vocabulary)  # a few rows at a time
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(17, vocabulary, generator=generator) * torch.linspace(0.1, 12, 17)[:, None]
    u = torch.rand(17, 5, generator=generator)
    tokens, logps = Distribution(logits, temperature), log_softmax(logits, temperature)
    assert torch.allclose(tokens.all_logps(), logps, atol=2e-5)
    assert torch.allclose(tokens.entropy, torch.special.entr(logps.exp()).sum(-1), atol=2e-5)
    assert torch.equal(tokens.argmax()[:, 0], logits.argmax(-1))
    for count in (1, 20, vocabulary):
        assert torch.equal(logits.gather(1, tokens.top(count)), logits.topk(min(count, vocabulary)).values)
    plain = torch.log_softmax(logits, -1).topk(min(20, vocabulary)).values.mean(-1)
    assert torch.allclose(tokens.confidence(20), -plain, atol=2e-5)
    # The same draws, but where a uniform falls within rounding of the border between two tokens.
    drawn, probs = tokens.draw(u), logps.exp()
    upto = probs.double().cumsum(-1)
    start = (upto - probs).gather(-1, drawn)
    assert ((u >= start - 1e-5) & (u <= upto.gather(-1, drawn) + 1e-5)).all() and (probs.gather(-1, drawn) > 0).all()
    assert (drawn == draw(probs, u)).float().mean() > 0.95


def test_what_is_not_finite_shows_in_the_entropy() -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        logits = torch.zeros(3, 200)
        logits[1, 70] = value
        assert torch.isfinite(Distribution(logits).entropy).tolist() == [True, False, True]


def test_each_filter_changes_what_can_be_drawn() -> None:
    probs = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    assert (kept_of(probs, Sampling(top_k=2)) > 0).tolist() == [[True, True, False, False]]
    assert (kept_of(probs, Sampling(top_p=0.7)) > 0).tolist() == [[True, True, False, False]]
    assert (kept_of(probs, Sampling(min_p=0.25)) > 0).tolist() == [[True, True, True, False]]
    assert (kept_of(probs, Sampling(temperature=0)) > 0).tolist() == [[True, False, False, False]]


@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=50)
def test_a_merge_lies_in_the_convex_hull(k: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(4, k, size, generator=generator)
    weights = torch.rand(4, k, generator=generator) + 1e-3
    point = merged(embeddings, weights / weights.sum(-1, keepdim=True))
    assert (point <= embeddings.amax(1) + 1e-5).all() and (point >= embeddings.amin(1) - 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_one_hot_merge_is_the_plain_embedding_bit_for_bit(dtype: torch.dtype) -> None:
    embeddings = torch.randn(6, 3, 16).to(dtype)
    step = multiplex(torch.randn(6, 9), torch.rand(6, 3), Sampling())
    plain = one_hot(step)
    assert torch.equal(merged(embeddings, plain.weights), embeddings[:, 0])
    assert torch.equal(plain.ids, step.ids[:, :1].expand(-1, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sampling(temperature=-1), lambda: Sampling(temperature=float("nan")), lambda: Sampling(top_p=0),
        lambda: Sampling(top_k=-1), lambda: Sampling(min_p=1), lambda: Sampling(0, top_p=0.5), lambda: Thinking("soft-ish"),
        lambda: Thinking(width=0), lambda: Thinking(merge="max"), lambda: Thinking("discrete", 3),
        lambda: Thinking("discrete", merge="mean"), lambda: Thinking(ending=Ending(0)),
    ],
)  # fmt: skip
def test_options_that_are_wrong_or_could_not_act_are_refused(make) -> None:
    with pytest.raises(OptionError, match="Try:"):
        make()
