"""One attention function for decoding and for the parallel probe pass, over unmodified models.

Registered with transformers as ``trueplex``. It is scaled-dot-product attention, plus: in a decoding `Pass` keys and values
are read from the lanes where they lie, the prompt that a lane's rows share once; queries of few columns are packed onto the
key/value heads (a probe beside each token would otherwise copy all keys and values once per group); and a `ProbePass` lets
many probes, each at a position of its own, read one stored trace at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, library
from torch.backends import cuda
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trueplex.models.attention_probe import Extras, Own, probe
from trueplex.models.families import tempered
from trueplex.models.kinds import MASKS
from trueplex.models.lanes import KeyValue, Pass
from trueplex.models.states import ProbedCache, States

NAME = "trueplex"
_outside = threading.local()
READ_BY = 16  # columns: of a lane as many times that are read where kernels are made for a shape
PACKED_COLUMNS = 8  # beyond this many query columns the stock kernel is as good


@dataclass(slots=True)
class ProbePass:
    """Keys and values of the base model by layer, [B, kv heads, N, head size], for probes to read.

    A probe is ``tokens`` neighbouring queries at neighbouring positions. Their own keys and values are seen within
    the probe alone, by themselves and by those behind them: no probe-to-probe block.

    Attributes:
        states: of recurrent layers, the states that each probe stands behind, [B · P, ...]; the probes are then rows of the
            pass, of ``tokens`` columns, and else the columns of B rows.
        batch, columns: B and N.
        positions: where the queries stand, [B, P · tokens].
        cache: what the model is given where there are states.
    """

    layers: dict[int, KeyValue]
    batch: int
    columns: int
    tokens: int = 1
    states: States = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)
    positions: Tensor | None = None
    cache: ProbedCache | None = None

    def behind(self, queries: int) -> Tensor:
        """How far before each query's position what it sees of the base ends, [queries]."""
        assert self.positions is not None
        return 1 + torch.arange(queries, device=self.positions.device) % self.tokens

    def read(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extras: Extras
    ) -> Tensor:
        """What the probes of a layer read: [rows of the pass, queries, heads, D]."""
        assert self.positions is not None
        layer = module.layer_idx if self.cache is None else self.cache.last
        base_key, base_value = self.layers[self.owners.get(module.layer_idx, layer)]
        rows = len(query)
        if self.states:
            query, key, value = (_beside(t, self.batch) for t in (query, key, value))
        out = probe(
            Own(tempered(module, query, self.positions), key, value, self.tokens), base_key, base_value, mask, extras
        )
        return out.reshape(rows, -1, *out.shape[2:])


@dataclass(slots=True)
class _Layer:
    """All that attention over lanes asks a module for."""

    layer_idx: int


def _beside(rows: Tensor, batch: int) -> Tensor:
    """Probes that are rows [B · P, heads, M, D] as the columns of B rows: [B, heads, P · M, D]."""
    return rows.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)


@contextmanager
def without_cudnn(device: torch.device) -> Iterator[None]:
    """On CUDA, attention by any kernel that is allowed but cuDNN's, which builds a plan for every new shape; elsewhere nothing changes.

    A step of decoding has a new length every time. On an H200 a step of a 0.5B model took 250 ms with these plans to build, whatever its
    rows, and left the GPU idle for most of it. The choice is the process's while it is open.
    """
    allowed = device.type == "cuda" and cuda.cudnn_sdp_enabled()
    if allowed:
        cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        if allowed:
            cuda.enable_cudnn_sdp(True)


def by_shape(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies, which makes a kernel for every shape and keeps it: half precision on a CPU.

    A step of decoding has a new shape every time. At 128 rows of a 0.5B model the process grew by 10 MB a step, most of it holes between
    what was kept.
    """
    return device.type == "cpu" and dtype.itemsize == 2


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
    plainly. The engine hands over ``passing`` (`Backbone.decode_pass`), whose lanes hold the keys and values, the new
    ones included, ``probe_pass`` (`Backbone.forward`), or ``outside``, in a graph of the compiler that attention is no part of.
    """
    passing, probe_pass, outside = (extra.pop(name, None) for name in ("passing", "probe_pass", "outside"))
    softcap, s_aux = extra.pop("softcap", None), extra.pop("s_aux", None)
    extras = Extras(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap, s_aux)
    if outside:
        return torch.ops.trueplex.over_lanes(query, key, value, s_aux, extras.scale, softcap, module.layer_idx), None
    if passing is not None:
        return _over_lanes(tempered(module, query, passing.positions), (key, value), passing, module, extras), None
    if probe_pass is not None:
        return probe_pass.read(module, query, key, value, attention_mask, extras), None
    if extras.plain:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **extra)
    return _plainly(query, key, value, attention_mask, extras).transpose(1, 2).contiguous(), None


def _over_lanes(query: Tensor, new: KeyValue, passing: Pass, module: Any, extras: Extras) -> Tensor:
    """Attention [B, q, heads, D] of the rows of a pass, each over its own lane, which holds the new keys and values too.

    Latent attention (MLA) stores what keys and values are made of, and makes them here, but for the new ones: those of a probe
    were made with its LoRA.
    """
    parts, layer = [], passing.owner(module.layer_idx)
    expand = getattr(module, "expand_kv", None)
    for segment in passing.segments:
        key, value = segment.read(layer)
        prefix, mask = segment.lane.prefix, segment.masks[MASKS[passing.kinds.layers[layer]]]
        before = prefix.layers[layer] if prefix else None
        if expand:
            key, value = expand(key, value)
            segment.put(layer, (key, value), (new[0][segment.span], new[1][segment.span]))
            before = expand(*before) if before else None
        mask = None if mask is None else mask.to(query.device)  # layers may be on several devices
        own = query[segment.span]
        if before is None:
            parts.append(_rows(own, key, value, mask, extras))
        elif own.shape[2] <= PACKED_COLUMNS:
            parts.append(beside_prefix(own, *before, key, value, mask, extras))
        else:  # a suspended trace is read again
            key, value = (torch.cat([first.expand(len(behind), -1, -1, -1), behind], 2)
                          for first, behind in zip(before, (key, value), strict=True))  # fmt: skip
            parts.append(_rows(own, key, value, mask, extras))
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return out.transpose(1, 2).contiguous()


@contextmanager
def reading(passing: Pass) -> Iterator[None]:
    """Attention outside of a compiled graph reads by this pass, which the graph cannot hand over."""
    _outside.passing = passing
    try:
        yield
    finally:
        del _outside.passing


def _over_lanes_outside(query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None, scale: float, softcap: float | None,
                        layer: int) -> Tensor:  # fmt: skip
    """Store new keys and values and attend, [B, q, heads, D], where the graph may have more rows than the pass: those are 0."""
    passing: Pass = _outside.passing
    rows, passing.layer = passing.segments[-1].span.stop, layer
    for segment in passing.segments:
        segment.store(layer, key[segment.span], value[segment.span])
    out = _over_lanes(query[:rows], (key, value), passing, _Layer(layer), Extras(scale, softcap, sinks))
    return out if rows == len(query) else torch.cat([out, out.new_zeros(len(query) - rows, *out.shape[1:])])


def _shape_of_outside(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])


def _rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extras: Extras) -> Tensor:
    """query [B, heads, q, D], key and value [B, kv heads, n, D] → [B, heads, q, D]; without a mask, causal at the end."""
    batch, heads, columns, size = query.shape
    if not extras.plain:
        return _plainly(query, key, value, mask, extras)
    if columns > PACKED_COLUMNS or (columns > 1 and mask is None):
        causal = mask is None
        return scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=extras.scale, enable_gqa=True)  # fmt: skip
    groups = heads // key.shape[1]
    if mask is not None and columns > 1 and groups > 1:
        mask = mask.repeat(1, 1, groups, 1)
    packed = query.reshape(batch, key.shape[1], groups * columns, size)
    return scaled_dot_product_attention(packed, key, value, mask, scale=extras.scale).reshape(batch, heads, columns, -1)


def beside_prefix(
    query: Tensor, prefix_key: Tensor, prefix_value: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extras: Extras
) -> Tensor:  # fmt: skip
    """Attention of rows behind one prompt, which is read once and not once a row.

    query [B, heads, q, D], the prefix's [1, kv heads, P, D], key and value [B, kv heads, n, D], an additive mask
    [1 or B, 1, q, P + n] → [B, heads, q, D]. One softmax over both parts, so this is attention and no approximation of it.
    """
    batch, heads, columns, size = query.shape
    kv_heads, prefix = prefix_key.shape[1], prefix_key.shape[2]
    rows = heads // kv_heads * columns
    packed = query.reshape(batch, kv_heads, rows, size) * extras.scale
    together = packed.transpose(0, 1).reshape(kv_heads, batch * rows, size)
    of_prefix = torch.matmul(together, prefix_key[0].transpose(-1, -2)).view(kv_heads, batch, rows, prefix)
    scores = torch.cat([of_prefix.transpose(0, 1), products(packed, key)], dim=-1)
    scores = extras.scores(scores).view(batch, kv_heads, -1, columns, scores.shape[-1])
    if mask is not None:
        scores = scores + mask.unsqueeze(2)
    shares = extras.shares(scores).to(value.dtype).view(batch, kv_heads, rows, -1)
    left = shares[..., :prefix].transpose(0, 1).reshape(kv_heads, batch * rows, prefix)
    out = torch.matmul(left, prefix_value[0]).view(kv_heads, batch, rows, -1).transpose(0, 1)
    return (out + torch.matmul(shares[..., prefix:], value)).reshape(batch, heads, columns, -1)


def products(query: Tensor, key: Tensor) -> Tensor:
    """query [..., q, D], key [..., n, D] → [..., q, n].

    For half precision on CPUs, oneDNN copies keys that it is given as columns into another order, at every step: as rows it reads
    them three to six times as fast. MKL, which multiplies float32, reads them as fast or faster as columns.
    """
    if by_shape(query.device, query.dtype):
        return torch.matmul(key, query.transpose(-1, -2)).transpose(-1, -2)
    return torch.matmul(query, key.transpose(-1, -2))


def _plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extras: Extras) -> Tensor:
    """query [B, heads, q, D], key and value [B, kv heads, n, D] → [B, heads, q, D]; without a mask, causal at the end."""
    batch, heads, columns, size = query.shape
    grouped = (query * extras.scale).reshape(batch, key.shape[1], -1, size)
    scores = extras.scores(products(grouped, key)).unflatten(2, (-1, columns))
    if mask is None and columns > 1:  # transformers leaves out the mask of a plain causal pass
        mask = torch.ones(columns, key.shape[2], dtype=torch.bool, device=query.device)
        mask = mask.tril(key.shape[2] - columns)[None, None]
    if mask is not None:
        hidden = mask.unsqueeze(2)
        scores = scores.masked_fill(~hidden, float("-inf")) if mask.dtype == torch.bool else scores + hidden
    out = torch.einsum("bhgmn,bhnd->bhgmd", extras.shares(scores).to(value.dtype), value)
    return out.reshape(batch, heads, columns, -1)


# An operator that the compiler does not look into.
_operators = library.Library("trueplex", "FRAGMENT")
_operators.define(
    "over_lanes(Tensor query, Tensor key, Tensor value, Tensor? sinks, float scale, float? softcap, int layer) -> Tensor"
)
_operators.impl("over_lanes", _over_lanes_outside, "CompositeExplicitAutograd")
library.register_fake("trueplex::over_lanes", _shape_of_outside)

# Without a mask function of the same name, transformers would drop padding and causality silently.
AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
