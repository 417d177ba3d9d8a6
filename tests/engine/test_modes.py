"""The thinking modes against their published mathematics. Chi-square tests use fixed seeds and the 0.1 % level."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, gamma, gumbel_r, kstest

from trueplex.engine import sampling as draws
from trueplex.engine.distribution import Distribution
from trueplex.engine.random import trace_key, uniforms
from trueplex.engine.sampling import GAMMA_DRAWS, Sampling, keep, ranked
from trueplex.engine.thinking import MODES, Thinking, dirichlet_soft, gumbel_soft, multiplex, soft, think, widened
from trueplex.errors import OptionError

LEVEL = 1e-3
MANY = 20000
PROBS = torch.tensor([0.5, 0.05, 0.25, 0.15, 0.05])
EVERY_MODE = [
    Thinking("discrete"),
    Thinking("multiplex", 3),
    Thinking("multiplex", 3, "mean"),
    Thinking("multiplex", 3, replacement=False),
    Thinking("soft", 4),
    Thinking("stochastic-soft", 4),
    Thinking("stochastic-soft", 4, noise="dirichlet"),
]
logit_rows = st.integers(5, 12).flatmap(lambda v: st.lists(st.floats(-8, 8, width=32), min_size=v, max_size=v))


def many(width: int, step: int = 0) -> torch.Tensor:
    keys = np.array([trace_key(1, 2, i) for i in range(MANY)], dtype=np.uint64)
    return torch.from_numpy(uniforms(keys, np.full(MANY, step), width))


def logits(probs: torch.Tensor = PROBS) -> torch.Tensor:
    return probs.log().expand(MANY, -1)


# -- the published rules, written out plainly ------------------------------------------------------


def plain_soft(row: np.ndarray, t: float, top_k: int, top_p: float, min_p: float, width: int) -> dict[int, float]:
    """Soft Thinking's order: temperature, softmax, top-k, top-p, min-p, the max_topk heaviest, renormalised each time."""
    p = np.exp(row.astype(np.float64) / t - np.max(row / t))
    shares = {i: float(v) for i, v in enumerate(p / p.sum())}
    order = sorted(shares, key=lambda i: -shares[i])

    def renormalised(kept: list[int]) -> dict[int, float]:
        total = sum(shares[i] for i in kept)
        return {i: shares[i] / total for i in kept}

    if top_k:
        shares = renormalised(order[:top_k])
    kept, mass = [], 0.0
    for i in [i for i in order if i in shares]:
        if mass >= top_p:
            break
        kept.append(i)
        mass += shares[i]
    shares = renormalised(kept)
    shares = renormalised([i for i in shares if shares[i] >= min_p * max(shares.values())])
    return renormalised(sorted(shares, key=lambda i: -shares[i])[:width])


@given(logit_rows, st.floats(0.3, 2), st.integers(0, 8), st.floats(0.1, 1), st.floats(0, 0.5), st.integers(1, 5))
def test_soft_is_the_published_rule(
    row: list[float], t: float, top_k: int, top_p: float, min_p: float, width: int
) -> None:
    values = np.array(row) + np.arange(len(row)) * 0.037  # ties have no order to agree on
    p = np.exp(values / t - (values / t).max())
    cuts = np.sort(p / p.sum())[::-1].cumsum()
    if np.abs(cuts / cuts[(top_k or len(p)) - 1 if (top_k or 0) < len(p) else -1] - top_p).min() < 1e-5:
        return  # the mass is met to rounding: either set is right
    step = soft(torch.from_numpy(values)[None], Sampling(t, top_p, top_k, min_p), width)
    expected = plain_soft(values, t, top_k, top_p, min_p, width)
    got = {i: w for i, w in zip(step.ids[0].tolist(), step.weights[0].tolist(), strict=True) if w > 0}
    assert got.keys() == expected.keys()
    assert all(got[i] == pytest.approx(expected[i], abs=1e-5) for i in got)
    assert step.ids[0, 0] == max(expected, key=expected.get)  # the heaviest is emitted


# -- distributions --------------------------------------------------------------------------------


def test_multiplex_slots_are_independent_draws_whose_joint_entropy_is_k_times_h() -> None:
    """Multiplex Thinking: the K ids of a step are one action of entropy K · H."""
    small = torch.tensor([0.6, 0.3, 0.1])
    step = multiplex(logits(small), many(2), Sampling())
    pairs = np.bincount((step.ids[:, 0] * 3 + step.ids[:, 1]).numpy(), minlength=9)
    expected = torch.outer(small, small).flatten().double().numpy()
    assert chisquare(pairs, MANY * expected / expected.sum()).pvalue > LEVEL
    shares = pairs / MANY
    plug_in = -(shares * np.log(shares)).sum()
    assert plug_in == pytest.approx(2 * step.entropy[0].item(), abs=0.02)


def test_duplicates_come_as_often_as_they_should() -> None:
    step = multiplex(logits(), many(3), Sampling())
    same = (step.ids == step.ids[:, :1]).all(1).sum().item()
    expected = float((PROBS**3).sum()) * MANY
    assert chisquare([same, MANY - same], [expected, MANY - expected]).pvalue > LEVEL


@pytest.mark.slow
def test_without_replacement_draws_each_order_with_its_probability() -> None:
    step = multiplex(logits(), many(2), Sampling(), replacement=False)
    assert (step.ids[:, 0] != step.ids[:, 1]).all()
    counts = np.bincount((step.ids[:, 0] * 5 + step.ids[:, 1]).numpy(), minlength=25)
    p = PROBS.numpy().astype(float)
    expected = np.array([0 if i == j else p[i] * p[j] / (1 - p[i]) for i, j in itertools.product(range(5), range(5))])
    kept = expected > 0
    assert counts[~kept].sum() == 0
    assert chisquare(counts[kept], MANY * expected[kept] / expected.sum()).pvalue > LEVEL
    assert torch.equal(step.ids[:, 0], multiplex(logits(), many(2), Sampling()).ids[:, 0])  # slot 0 is as ever


def test_without_replacement_fills_up_when_filters_leave_too_few() -> None:
    step = multiplex(logits(), many(3), Sampling(top_p=0.6), replacement=False)  # keeps two words
    assert (step.weights[:, 2] == 0).all() and (step.weights[:, :2] > 0).all()
    assert torch.equal(step.ids[:, 2], step.ids[:, 0])
    mean = multiplex(logits(), many(3), Sampling(top_p=0.6), "mean", replacement=False)
    assert torch.allclose(mean.weights, torch.tensor([0.5, 0.5, 0.0]).expand(MANY, -1))


@pytest.mark.slow
def test_gumbel_noise_is_gumbel_and_its_heaviest_word_is_a_sample() -> None:
    noise = draws.gumbel(many(1))[:, 0]
    assert kstest(noise.numpy(), gumbel_r.cdf).pvalue > LEVEL
    for tau in (0.5, 2.0):
        step = gumbel_soft(logits(), many(5), Sampling(), 5, tau)
        counts = np.bincount(step.ids[:, 0].numpy(), minlength=5)
        assert chisquare(counts, MANY * PROBS.numpy() / PROBS.sum().item()).pvalue > LEVEL
    colder, hotter = (gumbel_soft(logits(), many(5), Sampling(), 5, tau).weights[:, 0].mean() for tau in (0.2, 2.0))
    assert colder > hotter + 0.2


@pytest.mark.parametrize("shape", [0.03, 0.4, 1.0, 3.0, 40.0])
def test_gamma_variables_have_their_distribution(shape: float) -> None:
    logs = draws.log_gamma(torch.full((MANY,), shape), many(GAMMA_DRAWS))
    if shape < 0.1:  # most are too small for float32: compare in logarithms
        assert kstest(logs.numpy(), lambda x: gamma.cdf(np.exp(x.astype(np.float64)), shape)).pvalue > LEVEL
    else:
        assert kstest(logs.exp().numpy(), gamma(shape).cdf).pvalue > LEVEL


def test_dirichlet_marginals_are_beta() -> None:
    alpha = 6.0
    step = dirichlet_soft(logits(), many(5 * GAMMA_DRAWS), Sampling(), 5, alpha)
    weights = torch.zeros(MANY, 5).scatter(-1, step.ids, step.weights)
    from scipy.stats import beta

    for i, p in enumerate(PROBS.tolist()):
        assert kstest(weights[:, i].numpy(), beta(alpha * p, alpha * (1 - p)).cdf).pvalue > LEVEL / 5
    assert (step.weights.diff(dim=-1) <= 1e-6).all()  # the heaviest first


def test_top_p_mass_is_what_is_drawn() -> None:
    step = multiplex(logits(), many(1), Sampling(top_p=0.8))  # 0.5 + 0.25 + 0.15: three words
    counts = np.bincount(step.ids[:, 0].numpy(), minlength=5)
    kept = np.array([0.5, 0, 0.25, 0.15, 0])
    assert counts[kept == 0].sum() == 0
    assert chisquare(counts[kept > 0], MANY * kept[kept > 0] / kept.sum()).pvalue > LEVEL


def test_confidence_is_the_mean_of_the_20_likeliest_at_temperature_1() -> None:
    row = torch.randn(3, 60) * 2
    expected = -torch.log_softmax(row, -1).topk(20).values.mean(-1)
    for t in (0.0, 0.7, 1.0):
        assert torch.allclose(multiplex(row, torch.rand(3, 1), Sampling(t)).confidence, expected, atol=1e-5)
    few = torch.randn(3, 4)
    assert torch.allclose(
        multiplex(few, torch.rand(3, 1), Sampling()).confidence, -torch.log_softmax(few, -1).mean(-1), atol=1e-5
    )


# -- laws of every mode ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thinking", EVERY_MODE, ids=lambda t: f"{t.mode}-{t.merge_kind}-{t.noise_kind}-{t.replacement}"
)
@given(row=logit_rows, seed=st.integers(0, 2**31))
@settings(max_examples=30)
def test_weights_sum_to_one_and_ids_are_words(thinking: Thinking, row: list[float], seed: int) -> None:
    u = torch.rand(2, thinking.draws(len(row)), generator=torch.Generator().manual_seed(seed)) * (1 - 2**-24)
    step = think(torch.tensor([row, row]), u, thinking)
    assert step.ids.shape == step.weights.shape == step.logps.shape == (2, thinking.k)
    assert torch.allclose(step.weights.sum(-1), torch.ones(2), atol=1e-5) and (step.weights >= 0).all()
    assert ((step.ids >= 0) & (step.ids < len(row))).all()
    assert torch.allclose(step.logps, torch.log_softmax(torch.tensor([row, row]), -1).gather(-1, step.ids), atol=1e-6)


def test_soft_of_one_word_is_greedy_and_multiplex_of_one_is_discrete() -> None:
    row, u = torch.randn(50, 30), torch.rand(50, 3)
    assert torch.equal(soft(row, Sampling(), 1).ids[:, 0], row.argmax(-1))
    assert torch.equal(think(row, u, Thinking("multiplex", 1)).ids, think(row, u, Thinking("discrete")).ids)
    wide = widened(think(row, u, Thinking("discrete")), 4)
    assert wide.ids.shape == (50, 4) and (wide.weights == torch.tensor([1.0, 0, 0, 0])).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "thinking", EVERY_MODE, ids=lambda t: f"{t.mode}-{t.merge_kind}-{t.noise_kind}-{t.replacement}"
)
def test_every_mode_compiles_as_one_graph(thinking: Thinking) -> None:
    row, u = torch.randn(4, 40), torch.rand(4, thinking.draws(40))
    compiled = torch.compile(think, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(compiled(row, u, thinking), think(row, u, thinking), strict=True):
        assert torch.allclose(got, wanted, atol=1e-5)


def test_a_large_vocabulary_sorted_in_part_is_sorted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    flat, peaked = torch.randn(1, 9000) * 0.1, torch.randn(3, 9000) * 6
    for row, all_reach in ((peaked, True), (torch.cat([peaked, flat]), False)):
        tokens = Distribution(row)
        kept, ids = keep(tokens, Sampling(top_p=0.9))
        assert (kept.shape[-1] < 9000) == all_reach
        monkeypatch.setattr(draws, "SORTED_AT_ONCE", ())
        whole, all_ids = keep(tokens, Sampling(top_p=0.9))
        monkeypatch.undo()
        assert torch.equal(kept[kept > 0], whole[whole > 0]) and torch.equal(ids[kept > 0], all_ids[whole > 0])


@given(logit_rows, st.integers(1, 12), st.integers(0, 8), st.floats(0.1, 1), st.floats(0, 0.5))
def test_what_is_ranked_does_not_depend_on_how_much_is_asked_for(
    row: list[float], count: int, top_k: int, top_p: float, min_p: float
) -> None:
    tokens, sampling = Distribution(torch.tensor([row])), Sampling(1.0, top_p, top_k, min_p)
    some, every = ranked(tokens, sampling, count)[0], ranked(tokens, sampling, len(row))[0]
    assert torch.equal(some, every[:, : some.shape[-1]])


# -- options --------------------------------------------------------------------------------------

CHANGES = [
    (Thinking("multiplex", 3), Thinking("multiplex", 4)),
    (Thinking("multiplex", 3), Thinking("multiplex", 3, "mean")),
    (Thinking("multiplex", 3), Thinking("multiplex", 3, replacement=False)),
    (Thinking("soft", 4), Thinking("soft", 5)),
    (Thinking("soft", 4), Thinking("stochastic-soft", 4)),
    (Thinking("stochastic-soft", 4), Thinking("stochastic-soft", 4, strength=0.5)),
    (Thinking("stochastic-soft", 4), Thinking("stochastic-soft", 4, noise="dirichlet")),
    (Thinking("stochastic-soft", 4, noise="dirichlet"), Thinking("stochastic-soft", 4, noise="dirichlet", strength=9)),
    *((Thinking(mode, 4 if mode != "discrete" else None), Thinking(mode, 4 if mode != "discrete" else None, sampling=s))
      for mode in MODES for s in (Sampling(0.5), Sampling(top_p=0.6), Sampling(min_p=0.4))),
    (Thinking("multiplex"), Thinking("multiplex", sampling=Sampling(top_k=4))),
    (Thinking("soft"), Thinking("soft", sampling=Sampling(top_k=4))),
    (Thinking("soft", 4, sampling=Sampling(top_p=0.6)), Thinking("soft", 4, sampling=Sampling(1, 0.6, 5))),
    (Thinking("stochastic-soft", 4, noise="dirichlet"),
     Thinking("stochastic-soft", 4, noise="dirichlet", sampling=Sampling(top_k=6))),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), CHANGES)
def test_every_option_changes_the_outcome(one: Thinking, other: Thinking) -> None:
    row = torch.randn(200, 12, generator=torch.Generator().manual_seed(0))
    u = torch.rand(200, 12 * GAMMA_DRAWS, generator=torch.Generator().manual_seed(1))
    a, b = think(row, u, one), think(row, u, other)
    assert a.ids.shape != b.ids.shape or not (torch.equal(a.ids, b.ids) and torch.allclose(a.weights, b.weights))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Thinking("soft", merge="mean"), "no effect outside multiplex"),
        (lambda: Thinking("soft", replacement=False), "no effect outside multiplex"),
        (lambda: Thinking("multiplex", noise="gumbel"), "no effect outside stochastic-soft"),
        (lambda: Thinking("soft", strength=1.0), "no effect outside stochastic-soft"),
        (lambda: Thinking("stochastic-soft", noise="white"), "unknown noise"),
        (lambda: Thinking("stochastic-soft", strength=0.0), "a positive number"),
        (lambda: Thinking("soft", sampling=Sampling(0)), "leaves one token"),
        (lambda: Thinking("multiplex", 3, sampling=Sampling(0)), "have no effect"),
        (lambda: Thinking("soft", 9, sampling=Sampling(top_k=4)), "more than the 4 tokens"),
        (lambda: Thinking("soft", 4, sampling=Sampling(top_k=4)), "has no effect"),
        (lambda: Thinking("stochastic-soft", sampling=Sampling(top_k=30)), "has no effect"),
        (lambda: Thinking("multiplex", 9, sampling=Sampling(top_k=4), replacement=False), "without replacement"),
        (lambda: Thinking("multiplex", 9, replacement=False).fit(8), "more than the 8 tokens"),
        (lambda: Thinking("soft", 9).fit(8), "more than the 8 tokens"),
        (lambda: Thinking("stochastic-soft", noise="dirichlet").fit(150_000), "a top-k of at most 1024"),
    ],
)
def test_contradictions_are_refused(make, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        make()


def test_what_is_no_contradiction_is_taken() -> None:
    Thinking("multiplex", sampling=Sampling(0)).fit(8)
    Thinking("multiplex", 9).fit(8)  # with replacement
    Thinking("stochastic-soft", noise="dirichlet", sampling=Sampling(top_k=30)).fit(150_000)
    Thinking("soft", sampling=Sampling(0.6, 0.95, 30, 0.001)).fit(150_000)  # as published
    assert Thinking("soft", sampling=Sampling(top_k=4)).k == 4  # the default width gives way
