"""Which models trueplex would get wrong: refused by their configuration, or by a comparison when they are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trueplex.errors import ModelError
from trueplex.models import attention
from trueplex.models.backbone import Backbone, kinds_of
from trueplex.models.cache import Plan, SlotCache

CHECKED_TOKENS = 12  # what the self-check reads


def refuse(config: Any) -> None:
    """Raise ModelError for architectures known to be got wrong, before any weight is read."""
    kinds_of(config)
    if getattr(config, "hidden_size_per_layer_input", 0):
        raise ModelError(
            f"{config.model_type} adds per-layer embeddings looked up by token id, which a merged thought does not "
            "have. Try: choose a model without per-layer embeddings"
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise ModelError(f"{config.model_type} shares KV between layers. Try: choose a model that does not")


@contextmanager
def _short_window(config: Any, window: int) -> Iterator[None]:
    """Sliding layers see `window` columns for the time being, so that a short text shows whether they slide alike."""
    own = getattr(config, "sliding_window", None)
    if own:
        config.sliding_window = min(own, window)
    try:
        yield
    finally:
        if own:
            config.sliding_window = own


@torch.inference_mode()
def self_check(backbone: Backbone) -> None:
    """Compare this model on the engine's path with its own plain forward; refuse it when they differ.

    Three comparisons on one fixed text with the model's own eager attention: ids against embeddings,
    ragged decoding in the slot cache against full recomputation, and the same with a merged input. The
    text is longer than the sliding window, which is shortened for it. Raises ModelError naming the first
    that fails.
    """
    with _short_window(backbone.config, CHECKED_TOKENS // 2):
        _self_check(backbone)


def _self_check(backbone: Backbone, length: int = CHECKED_TOKENS) -> None:
    tolerance = 1e-3 if backbone.dtype == torch.float32 else 0.1
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(backbone.vocabulary, (1, length), generator=generator).to(backbone.device)
    try:
        embeddings = backbone.embed(ids)
        backbone.model.set_attn_implementation("eager")
        plain = backbone.model(input_ids=ids, use_cache=False).logits.float()
        embedded = backbone.model(inputs_embeds=embeddings, use_cache=False).logits.float()
        _compare(plain, embedded, tolerance, "reads embeddings unlike token ids")
        embeddings[:, -1] = embeddings[:, :3].mean(1)
        # After softmax, attention masks and norms the last logits tell of every position before.
        full = backbone.model(inputs_embeds=embeddings, use_cache=False, past_key_values=None).logits[:, -1].float()
        backbone.model.set_attn_implementation(attention.NAME)
        cache = SlotCache(backbone.layers, 2)
        for first, last in ((0, length - 1), (length - 1, length)):
            positions = torch.arange(first, last, device=backbone.device)[None].expand(2, -1)
            cache.write(Plan(0, 2, positions, last, None))
            logits, _ = backbone.forward(embeddings[:, first:last].expand(2, -1, -1), positions, cache, last)
    except ModelError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]
        raise ModelError(f"{backbone.name}, a {backbone.config.model_type}, does not take merged embeddings, the engine's masks "
                         f"or its cache ({reason}). Try: choose another model") from error  # fmt: skip
    if backbone.padded:
        full[:, backbone.vocabulary :] = float("-inf")
        full, logits = full[:, : backbone.vocabulary], logits[:, : backbone.vocabulary]
    _compare(full.expand(2, -1), logits, tolerance, "decodes from the slot cache unlike a full recomputation")


def _compare(expected: Tensor, actual: Tensor, tolerance: float, what: str) -> None:
    scale = expected.abs().max().clamp(min=1.0)
    difference = ((expected - actual).abs().max() / scale).item()
    if not difference <= tolerance:  # also catches NaN
        raise ModelError(f"the self-check failed: this model {what} (difference {difference:.2g}). Try: choose another")
