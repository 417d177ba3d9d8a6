"""Attention of probes: each reads what the base model has stored before its position, and itself; no other probe.

One softmax over [q · base keys that the mask allows, q · own key]. `plain` writes it out; `Fused` is the same
by PyTorch's own fused kernel on CPU, which never builds the [M, N] scores.

Shapes: query [B, heads, M, D]; the probes' own key and value [B, kv heads, M, D]; base key and value
[B, kv heads, N, D]; an additive mask [B or 1, 1, M, N].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


@dataclass(slots=True, frozen=True)
class Extras:
    """What stands between query · key and the values, besides the mask."""

    scale: float
    softcap: float | None
    sinks: Tensor | None

    @property
    def plain(self) -> bool:
        """Whether a fused kernel can compute it."""
        return self.softcap is None and self.sinks is None

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


def probe(
    query: Tensor, key: Tensor, value: Tensor, base_key: Tensor, base_value: Tensor, mask: Tensor | None, extras: Extras
) -> Tensor:
    """What the probes read, [B, M, heads, D], by the fastest way that gives it."""
    fits = query.device.type == "cpu" and mask is not None and extras.plain
    fits &= query.shape[-1] == base_value.shape[-1]  # latent attention has smaller values, which the kernel refuses
    if not fits or base_key.requires_grad or base_value.requires_grad:
        return plain(query, key, value, base_key, base_value, mask, extras)
    return Fused.apply(query, key, value, base_key, base_value, mask, extras.scale).transpose(1, 2).contiguous()  # type: ignore[no-untyped-call]


def plain(
    query: Tensor, key: Tensor, value: Tensor, base_key: Tensor, base_value: Tensor, mask: Tensor | None, extras: Extras
) -> Tensor:
    """What the probes read, [B, M, heads, D], on any device and with all that a model may add to its attention.

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


class Fused(torch.autograd.Function):
    """The kernel reads the base columns; the own column joins through the logarithm of the sum of exponentials.

    Backwards the kernel is given what was read of both parts, and the logarithm of both sums: its weights are then
    those of the whole softmax, and so is the gradient that it gives the query. The base takes no gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, base_key: Tensor, base_value: Tensor, mask: Tensor,
                scale: float) -> Tensor:  # fmt: skip
        groups = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
        out, seen = aten._scaled_dot_product_flash_attention_for_cpu(
            query,
            *(t.repeat_interleave(groups, 1) for t in (base_key, base_value)),
            0.0,
            False,
            attn_mask=mask,
            scale=scale,
        )
        own = (query.float() * key).sum(-1) * scale
        total = torch.logaddexp(seen, own)
        shares, own_share = ((part - total).exp().unsqueeze(-1) for part in (seen, own))
        out = (out * shares + value * own_share).to(query.dtype)
        ctx.save_for_backward(query, key, value, base_key, base_value, mask, out, total, own_share)
        ctx.scale, ctx.groups = scale, groups
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, base_key, base_value, mask, out, total, own_share = ctx.saved_tensors
        slope = slope.contiguous()
        of_query, _, _ = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            slope, query, *(t.repeat_interleave(ctx.groups, 1) for t in (base_key, base_value)), out, total, 0.0, False,
            attn_mask=mask, scale=ctx.scale,
        )  # fmt: skip
        of_score = own_share * (slope * (value - out)).sum(-1, keepdim=True) * ctx.scale

        def of_group(gradient: Tensor, like: Tensor) -> Tensor:
            return gradient.unflatten(1, (-1, ctx.groups)).sum(2).to(like.dtype)

        return (of_query + (of_score * key).to(query.dtype), of_group(of_score * query, key),
                of_group(own_share * slope, value), None, None, None, None)  # fmt: skip
