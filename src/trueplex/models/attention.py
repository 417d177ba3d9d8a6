"""One attention function for decoding and for the parallel probe pass, over unmodified models.

Registered with transformers as ``trueplex``. It is scaled-dot-product attention, plus:
queries of few columns are packed onto the key/value heads (a probe beside each token would
otherwise copy all keys and values once per group); rows of ragged lengths are read in blocks, each no further
than its longest row; the prompt that all rows share is read once; and a `ProbePass` lets many probes, each at a
position of its own, read one stored trace at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trueplex.models.attention_probe import Extras, Own, probe

RowBlock = tuple[int, int, int]  # rows [first, last) that see at most so many columns

NAME = "trueplex"
PACKED_COLUMNS = 8  # beyond this many query columns the stock kernel is as good
BLOCK = 16  # rows read together when lengths are ragged
BLOCKS_ON_ACCELERATORS = 4  # at most: there the launch of a kernel costs more than the columns that it spares


@dataclass(slots=True)
class ProbePass:
    """Keys and values of the base model per layer, [B, kv heads, N, head size], for probes to read.

    A probe is ``tokens`` neighbouring queries at neighbouring positions. Their own keys and values are seen within
    the probe alone, by themselves and by those behind them: no probe-to-probe block.
    """

    layers: list[tuple[Tensor, Tensor]]
    tokens: int = 1

    def behind(self, queries: int) -> Tensor:
        """How far before each query's position what it sees of the base ends, [queries]."""
        return 1 + torch.arange(queries, device=self.layers[0][0].device) % self.tokens


def row_blocks(seen: np.ndarray, most: int | None = None) -> list[RowBlock]:
    """Blocks of neighbouring rows, at ``most`` so many, each with the most columns that one of them sees; seen is [rows].

    Rows admitted together are neighbours and of like length, so one long trace does not make all others
    be read to its length. Empty when blocks would spare too little to pay for themselves.
    """
    size = max(BLOCK, -(-len(seen) // most) if most else 0)
    blocks = [
        (first, min(first + size, len(seen)), int(seen[first : first + size].max()))
        for first in range(0, len(seen), size)
    ]
    read = sum((last - first) * columns for first, last, columns in blocks)
    return blocks if read < 0.9 * len(seen) * int(seen.max()) else []


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """query [B, heads, q, D], key and value [B, kv heads, n, D] → ([B, q, heads, D], None).

    Of what else models hand over, ``softcap`` (Gemma 2) bounds the scores by tanh, and ``s_aux`` (GPT-OSS) are sinks
    [heads]: scores that take their share of the softmax and give nothing. No fused kernel knows them, so they are computed
    plainly. The engine hands over ``probe_pass``, ``row_blocks`` and ``shared_prefix`` (`Backbone.forward`).
    """
    batch, heads, columns, size = query.shape
    probe_pass, row_blocks = extra.pop("probe_pass", None), extra.pop("row_blocks", ())
    shared_prefix, softcap, s_aux = extra.pop("shared_prefix", 0), extra.pop("softcap", None), extra.pop("s_aux", None)
    extras = Extras(size**-0.5 if scaling is None else scaling, softcap, s_aux)
    if probe_pass is not None:
        base_key, base_value = probe_pass.layers[module.layer_idx]  # type: ignore[index]
        return probe(Own(query, key, value, probe_pass.tokens), base_key, base_value, attention_mask, extras), None
    if softcap is not None or s_aux is not None:
        return _plainly(query, key, value, attention_mask, extras), None
    groups = heads // key.shape[1]
    if columns > PACKED_COLUMNS or (columns > 1 and attention_mask is None):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **extra)
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


# Without a mask function of the same name, transformers would drop padding and causality silently.
AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
