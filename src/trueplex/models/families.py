"""What is really different in a family, and cannot be told from its layers' kinds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def taken(family: str, cache: Any) -> Any:
    """A cache, or None, as the modelling code of a family takes it."""
    if family != "minimax" or cache is None:
        return cache
    from trueplex.models.lightning import LightningCache  # with it comes MiniMax's modelling code

    return LightningCache(cache)


def tempered(module: Any, query: Tensor, positions: Tensor) -> Tensor:
    """Queries [B, heads, q, D] of Llama 4, scaled by their own positions [1 or B, q].

    Its layers without rotary embeddings scale queries by position (arXiv 2501.19399), which they count from what
    transformers' cache holds, one number for all rows. The engine's cache says 0, so the scale of the columns is taken back.
    """
    if not getattr(module, "attn_temperature_tuning", False) or module.use_rope:
        return query

    def scale(at: Tensor) -> Tensor:
        return torch.log1p(torch.floor((at.float() + 1.0) / module.floor_scale)) * module.attn_scale + 1.0

    given = scale(torch.arange(query.shape[2], device=query.device))
    return (query * (scale(positions.to(query.device)) / given)[:, None, :, None]).to(query.dtype)
