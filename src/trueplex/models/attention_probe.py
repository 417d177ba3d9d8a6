"""Attention of probes: each reads what the base model has stored before its position, and itself; no other probe.

A probe is M neighbouring queries, its tokens: each sees the base columns that the mask allows, its own key and those of
the probe's tokens before it. One softmax over [q · base keys, q · keys of the probe]. `plain` writes it out; `Fused` is
the same by PyTorch's own fused kernel on CPU, which never builds the scores against the base.

Shapes: query [B, heads, P·M, D] of P probes; the probes' own key and value [B, kv heads, P·M, D]; base key and value
[B, kv heads, N, D]; an additive mask [B or 1, 1, P·M, N].
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


@dataclass(slots=True, frozen=True)
class Own:
    """What the probes themselves bring: query, key and value, ``tokens`` neighbouring columns a probe."""

    query: Tensor
    key: Tensor
    value: Tensor
    tokens: int = 1


def probe(own: Own, base_key: Tensor, base_value: Tensor, mask: Tensor | None, extras: Extras) -> Tensor:
    """What the probes read, [B, P·M, heads, D], by the fastest way that gives it."""
    query = own.query
    fits = query.device.type == "cpu" and mask is not None and extras.plain
    fits &= query.shape[-1] == base_value.shape[-1]  # latent attention has smaller values, which the kernel refuses
    if not fits or base_key.requires_grad or base_value.requires_grad:
        return plain(own, base_key, base_value, mask, extras)
    out = Fused.apply(query, own.key, own.value, base_key, base_value, mask, (extras.scale, own.tokens))  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous()


def plain(own: Own, base_key: Tensor, base_value: Tensor, mask: Tensor | None, extras: Extras) -> Tensor:
    """What the probes read, [B, P·M, heads, D], on any device and with all that a model may add to its attention.

    Written out with one sum for both parts: a softmax over their concatenation would copy and slice the [P·M, N]
    scores of every head several times, and its backward pass again.
    """
    batch, heads, queries, size = own.query.shape
    kv_heads = own.key.shape[1]
    grouped = (own.query * extras.scale).reshape(batch, kv_heads, heads // kv_heads, queries, size)
    key, value = own.key.unsqueeze(2), own.value.unsqueeze(2)
    seen = extras.scores(torch.einsum("bhgmd,bhnd->bhgmn", grouped, base_key)).float()
    within = _later(extras.scores(_pairs(grouped, key, own.tokens)).float())
    if mask is not None:
        seen = seen + mask.unsqueeze(1)
    highest = torch.maximum(seen.detach().amax(-1, keepdim=True), within.detach().amax(-1, keepdim=True))
    weights, own_weights = (seen - highest).exp(), (within - highest).exp()  # so that exponentials are finite
    total = weights.sum(-1, keepdim=True) + own_weights.sum(-1, keepdim=True)
    if extras.sinks is not None:
        total = total + (extras.sinks.float().view(1, kv_heads, -1, 1, 1) - highest).exp()
    out = torch.einsum("bhgmn,bhnd->bhgmd", weights.to(value.dtype), base_value)
    out = (out + _weighed(own_weights.to(value.dtype), value)) / total.to(value.dtype)
    return out.reshape(batch, heads, queries, -1).transpose(1, 2).contiguous()


def _pairs(a: Tensor, b: Tensor, tokens: int) -> Tensor:
    """a · b for all pairs within a probe: a and b [..., P·M, D] → [..., P·M, M]."""
    of_a, of_b = (t.unflatten(-2, (-1, tokens)) for t in (a, b))
    return (of_a.unsqueeze(-2) * of_b.unsqueeze(-3)).sum(-1).flatten(-3, -2)


def _later(scores: Tensor) -> Tensor:
    """Scores [..., P·M, M] with what a probe's token may not see, the tokens behind it, hidden."""
    tokens = scores.shape[-1]
    if tokens == 1:
        return scores
    place = torch.arange(scores.shape[-2], device=scores.device)[:, None] % tokens
    return scores.masked_fill(torch.arange(tokens, device=scores.device) > place, float("-inf"))


def _weighed(weights: Tensor, b: Tensor) -> Tensor:
    """The sum of what is in a probe by weights: [..., P·M, M] and b [..., P·M, D] → [..., P·M, D]."""
    tokens = weights.shape[-1]
    of_b = b.unflatten(-2, (-1, tokens)).unsqueeze(-3)
    return (weights.unflatten(-2, (-1, tokens)).unsqueeze(-1) * of_b).sum(-2).flatten(-3, -2)


def _turned(weights: Tensor) -> Tensor:
    """Weights [..., P·M, M] by what gives instead of by what takes: transposed within each probe."""
    return weights.unflatten(-2, (-1, weights.shape[-1])).transpose(-1, -2).flatten(-3, -2)


class Fused(torch.autograd.Function):
    """The kernel reads the base columns; the probe's own join through the logarithm of the sum of exponentials.

    Backwards the kernel is given what was read of both parts, and the logarithm of both sums: its weights are then
    those of the whole softmax, and so is the gradient that it gives the query. The base takes no gradient.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, base_key: Tensor, base_value: Tensor, mask: Tensor,
                scale_and_tokens: tuple[float, int]) -> Tensor:  # fmt: skip
        scale, tokens = scale_and_tokens
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
        own = _later(_pairs(query.float(), key, tokens) * scale)
        total = torch.logaddexp(seen, own.logsumexp(-1)).unsqueeze(-1)
        share, own_shares = (seen.unsqueeze(-1) - total).exp(), (own - total).exp()
        out = (out * share + _weighed(own_shares, value)).to(query.dtype)
        ctx.save_for_backward(query, key, value, base_key, base_value, mask, out, total, own_shares)
        ctx.scale, ctx.groups = scale, groups
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, base_key, base_value, mask, out, total, own_shares = ctx.saved_tensors
        slope = slope.contiguous()
        of_query, _, _ = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            slope, query, *(t.repeat_interleave(ctx.groups, 1) for t in (base_key, base_value)), out, total.squeeze(-1),
            0.0, False, attn_mask=mask, scale=ctx.scale,
        )  # fmt: skip
        of_slope, of_value, of_out = (t.unflatten(-2, (-1, own_shares.shape[-1])) for t in (slope, value, out))
        apart = (of_slope.unsqueeze(-2) * (of_value.unsqueeze(-3) - of_out.unsqueeze(-2))).sum(-1).flatten(-3, -2)
        of_scores = own_shares * apart * ctx.scale

        def of_group(gradient: Tensor, like: Tensor) -> Tensor:
            return gradient.unflatten(1, (-1, ctx.groups)).sum(2).to(like.dtype)

        return (of_query + _weighed(of_scores, key).to(query.dtype), of_group(_weighed(_turned(of_scores), query), key),
                of_group(_weighed(_turned(own_shares), slope), value), None, None, None, None)  # fmt: skip
