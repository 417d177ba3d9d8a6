"""The self-check on random models of real width and depth: right ones pass, and every mistake put in on purpose is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trueplex.errors import ModelError
from trueplex.models import check
from trueplex.models.backbone import Backbone
from trueplex.models.check import allowed, measure, self_check
from trueplex.models.lanes import LaneCache
from trueplex.reference.text import build_tokenizer


@pytest.fixture(
    scope="module",
    params=[pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16],
    ids=["float32", "bfloat16"],
)
def built(request: pytest.FixtureRequest) -> Backbone:
    """24 layers of width 896, as Qwen2.5-0.5B, with a small vocabulary; a sliding window as Mistral."""
    tokenizer = build_tokenizer()
    config = AutoConfig.for_model(
        "mistral", vocab_size=len(tokenizer), hidden_size=896, intermediate_size=448, num_hidden_layers=24, sliding_window=256,
        num_attention_heads=14, num_key_value_heads=2, head_dim=64, max_position_embeddings=512, initializer_range=0.05,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    return Backbone("wide", model.to(request.param), tokenizer)


@pytest.fixture
def wide(built: Backbone) -> Iterator[Backbone]:
    """The same model without what a test put into it."""
    yield built
    for name in ("_run", "mask_of", "embed"):
        built.__dict__.pop(name, None)


def moved(wide: Backbone, by: int) -> None:
    plain = wide._run
    wide._run = lambda e, positions, *rest: plain(e, positions + by * (positions.shape[1] == 1), *rest)  # type: ignore[method-assign]


def masked(wide: Backbone, mask: Callable[..., torch.Tensor]) -> None:
    plain = wide.mask_of
    wide.mask_of = lambda *given: mask(plain, *given)  # type: ignore[method-assign]


def sliding(wide: Backbone, by: int) -> None:
    def mask(plain: Any, *given: Any) -> torch.Tensor:
        wide.config.sliding_window += by
        try:
            return plain(*given)
        finally:
            wide.config.sliding_window -= by

    masked(wide, mask)


def scaled(wide: Backbone, by: float) -> None:
    plain = wide.embed
    wide.embed = lambda ids: plain(ids) * by  # type: ignore[method-assign]


MISTAKES = {
    "positions one too high": lambda wide: moved(wide, 1),
    "positions one too low": lambda wide: moved(wide, -1),
    "a mask that hides the last token": lambda wide: masked(wide, lambda plain, p, n, behind, kind: plain(p, n, behind + (p.shape[1] == 1), kind)),
    "a mask that hides nothing": lambda wide: masked(wide, lambda plain, *given: torch.zeros_like(plain(*given))),
    "a window one too long": lambda wide: sliding(wide, 1),
    "a window one too short": lambda wide: sliding(wide, -1),
    "no window": lambda wide: sliding(wide, 1000),
    "embeddings not scaled": lambda wide: scaled(wide, 1.1),
}  # fmt: skip


def test_a_right_model_passes(wide: Backbone) -> None:
    self_check(wide)
    assert wide.config.sliding_window == 256  # which was shortened only for the check


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_refused(wide: Backbone, mistake: str) -> None:
    MISTAKES[mistake](wide)
    with pytest.raises(ModelError, match="the self-check failed"):
        self_check(wide)


@pytest.mark.parametrize("by", [-1, 1])
def test_a_cache_that_is_off_by_one_is_refused(wide: Backbone, by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = LaneCache.plan

    def beside(cache: LaneCache, *given: Any) -> Any:
        passing = plan(cache, *given)
        for segment in passing.segments:
            if segment.at is not None:
                segment.at, segment.columns = segment.at + by, segment.columns + max(by, 0)
        return passing

    monkeypatch.setattr(LaneCache, "plan", beside)
    with pytest.raises(ModelError, match="decodes from the cache"):
        self_check(wide)


def test_what_is_allowed_grows_with_the_noise_within_bounds() -> None:
    assert allowed(0.0, torch.float32) == check.BOUNDS[torch.float32][0]
    assert allowed(0.016, torch.bfloat16) == pytest.approx(0.016 * check.FACTOR)
    assert allowed(0.9, torch.bfloat16) == check.BOUNDS[torch.bfloat16][1]


def test_one_token_sent_to_another_expert_is_noise(backbones) -> None:
    """Rounding flips a router's choice at single positions: the median of the positions does not see it."""
    dense, routed = backbones("qwen3"), backbones("qwen3_moe")
    for backbone, seen in ((dense, True), (routed, False)):
        text = check._text(backbone)
        plain, calls = backbone.decode_pass, iter(range(99))
        backbone.decode_pass = lambda *a, plain=plain, calls=calls, **k: (  # type: ignore[method-assign]
            (lambda out: (out[0] * (1.5 if next(calls) == 3 else 1.0), out[1]))(plain(*a, **k))
        )
        try:
            with torch.inference_mode():
                assert (measure(backbone, text).decoded > 0.1) == seen
        finally:
            del backbone.decode_pass
