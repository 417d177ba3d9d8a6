"""One attention function for decoding and for the parallel probe pass, over unmodified models.

Registered with transformers as ``trueplex``. It is scaled-dot-product attention, plus:
queries of few columns are packed onto the key/value heads (a probe beside each token would
otherwise copy all keys and values once per group); rows of ragged lengths are read in blocks, each no further
than its longest row; the prompt that all rows share is read once; and a `ProbePass` lets many probes, each at a
position of its own, read one stored trace at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

RowBlock = tuple[int, int, int]  # rows [first, last) that see at most so many columns

NAME = "trueplex"
PACKED_COLUMNS = 8  # beyond this many query columns the stock kernel is as good
BLOCK = 16  # rows read together when lengths are ragged


@dataclass(slots=True)
class ProbePass:
    """Keys and values of the base model per layer, [B, kv heads, N, head size], for probes to read.

    A probe's own key and value are seen by itself alone: one extra column, no probe-to-probe block.
    """

    layers: list[tuple[Tensor, Tensor]]


def row_blocks(seen: np.ndarray) -> list[RowBlock]:
    """Blocks of neighbouring rows, each with the most columns that one of them sees; seen is [rows].

    Rows admitted together are neighbours and of like length, so one long trace does not make all others
    be read to its length. Empty when blocks would spare too little to pay for themselves.
    """
    blocks = [
        (first, min(first + BLOCK, len(seen)), int(seen[first : first + BLOCK].max()))
        for first in range(0, len(seen), BLOCK)
    ]
    read = sum((last - first) * columns for first, last, columns in blocks)
    return blocks if read < 0.9 * len(seen) * int(seen.max()) else []


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    probe_pass: ProbePass | None = None,
    row_blocks: Sequence[RowBlock] = (),
    shared_prefix: int = 0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, heads, q, D], key and value [B, kv heads, n, D] → ([B, q, heads, D], None).

    ``softcap`` (Gemma 2) bounds the scores by tanh; ``s_aux`` (GPT-OSS) are sinks [heads]: scores that take
    their share of the softmax and give nothing. No fused kernel knows them, so they are computed plainly.
    """  # fmt: skip
    batch, heads, columns, size = query.shape
    extras = Extras(size**-0.5 if scaling is None else scaling, softcap, s_aux)
    if probe_pass is not None:
        base_key, base_value = probe_pass.layers[module.layer_idx]  # type: ignore[index]
        return _probe(query, key, value, base_key, base_value, attention_mask, extras), None
    if softcap is not None or s_aux is not None:
        return _plainly(query, key, value, attention_mask, extras), None
    groups = heads // key.shape[1]
    if columns > PACKED_COLUMNS or (columns > 1 and attention_mask is None):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    packed = query.reshape(batch, key.shape[1], groups * columns, size)
    if attention_mask is not None and columns > 1 and groups > 1:
        attention_mask = attention_mask.repeat(1, 1, groups, 1)
    if shared_prefix and batch > 1:
        out = _beside_prefix(packed, key, value, attention_mask, shared_prefix, extras.scale)
        return out.reshape(batch, heads, columns, -1).transpose(1, 2).contiguous(), None
    if not row_blocks or attention_mask is None:
        row_blocks = [(0, batch, key.shape[2])]
    parts = []
    for first, last, seen in row_blocks:
        rows = slice(first, last)
        mask = attention_mask
        if mask is not None:  # rows of one length share one mask
            mask = mask[rows if mask.shape[0] > 1 else slice(None), :, :, :seen]
        parts.append(
            scaled_dot_product_attention(packed[rows], key[rows, :, :seen], value[rows, :, :seen], mask, scale=scaling)
        )
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.reshape(batch, heads, columns, -1).transpose(1, 2).contiguous(), None


def _beside_prefix(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, prefix: int, scale: float) -> Tensor:
    """Attention of rows whose first `prefix` columns are the same: those are read once, not once a row.

    query [B, kv heads, R, D], key and value [B, kv heads, n, D] → [B, kv heads, R, D]. One softmax over
    both parts, so this is attention and no approximation of it. No query may stand within the prefix.
    """
    batch, kv_heads, rows, size = query.shape
    together = query.transpose(0, 1).reshape(kv_heads, batch * rows, size)
    before = torch.matmul(together, key[0, :, :prefix].transpose(-1, -2))
    before = before.view(kv_heads, batch, rows, prefix).transpose(0, 1)
    own = torch.matmul(query, key[:, :, prefix:].transpose(-1, -2)) * scale
    if mask is not None:
        own = own + mask[..., prefix:]
    scores = torch.cat([before * scale, own], dim=-1)
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    of_prefix = shares[..., :prefix].transpose(0, 1).reshape(kv_heads, batch * rows, prefix)
    out = torch.matmul(of_prefix, value[0, :, :prefix]).view(kv_heads, batch, rows, size).transpose(0, 1)
    return out + torch.matmul(shares[..., prefix:], value[:, :, prefix:])


@dataclass(slots=True, frozen=True)
class Extras:
    """What stands between query · key and the values, besides the mask."""

    scale: float
    softcap: float | None
    sinks: Tensor | None

    def scores(self, raw: Tensor) -> Tensor:
        """Bounded scores of a query that was scaled."""
        return raw if self.softcap is None else torch.tanh(raw / self.softcap) * self.softcap

    def shares(self, scores: Tensor) -> Tensor:
        """Softmax of scores [B, kv heads, groups, q, n] over n, less what the sinks take; float32."""
        scores = scores.float()
        if self.sinks is None:
            return torch.softmax(scores, dim=-1)
        sinks = self.sinks.float().view(1, *scores.shape[1:3], 1, 1).expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]


def _plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extras: Extras) -> Tensor:
    batch, heads, columns, size = query.shape
    grouped = (query * extras.scale).reshape(batch, key.shape[1], -1, columns, size)
    scores = extras.scores(torch.einsum("bhgmd,bhnd->bhgmn", grouped, key))
    if mask is None and columns > 1:  # transformers leaves out the mask of a plain causal pass
        mask = torch.ones(columns, key.shape[2], dtype=torch.bool, device=query.device)
        mask = mask.tril(key.shape[2] - columns)[None, None]
    if mask is not None:
        hidden = mask.unsqueeze(2)
        scores = scores.masked_fill(~hidden, float("-inf")) if mask.dtype == torch.bool else scores + hidden
    out = torch.einsum("bhgmn,bhnd->bhgmd", extras.shares(scores).to(value.dtype), value)
    return out.reshape(batch, heads, columns, -1).transpose(1, 2).contiguous()


def _probe(
    query: Tensor, key: Tensor, value: Tensor, base_key: Tensor, base_value: Tensor, mask: Tensor | None, extras: Extras
) -> Tensor:
    """Softmax over [q · base keys that the mask allows, q · own key]; query [B, heads, M, D].

    Written out with one sum for both parts: a softmax over their concatenation would copy and slice the [M, N]
    scores of every head several times, and its backward pass again.
    """
    batch, heads, probes, size = query.shape
    kv_heads = key.shape[1]
    grouped = (query * extras.scale).reshape(batch, kv_heads, heads // kv_heads, probes, size)
    seen = extras.scores(torch.einsum("bhgmd,bhnd->bhgmn", grouped, base_key)).float()
    own = extras.scores((grouped * key.unsqueeze(2)).sum(-1, keepdim=True)).float()
    if mask is not None:
        seen = seen + mask.unsqueeze(1)
    highest = torch.maximum(seen.detach().amax(-1, keepdim=True), own.detach())  # keeps exponentials finite
    weights, own_weight = (seen - highest).exp(), (own - highest).exp()
    total = weights.sum(-1, keepdim=True) + own_weight
    if extras.sinks is not None:
        total = total + (extras.sinks.float().view(1, kv_heads, -1, 1, 1) - highest).exp()
    out = torch.einsum("bhgmn,bhnd->bhgmd", weights.to(value.dtype), base_value)
    out = (out + own_weight.to(value.dtype) * value.unsqueeze(2)) / total.to(value.dtype)
    return out.reshape(batch, heads, probes, -1).transpose(1, 2).contiguous()


# Without a mask function of the same name, transformers would drop padding and causality silently.
AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
