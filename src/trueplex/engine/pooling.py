"""What the values of a row's tokens are as a whole: their means and maxima, by layer, as they lie in the KV cache.

Attention has written into a token's values what the model made of everything before it. Pooled over a trace they say how the
trace is going to whoever reads them linearly (`trueplex.verify.linear`), without another pass of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.rows import Rows
from trueplex.models.lanes import Lane, split

RECENT = 16  # tokens
POOLS = 3  # mean, mean over the last RECENT, maximum


def pooled(values: Tensor, first: np.ndarray, last: np.ndarray) -> Tensor:
    """Values [B, heads, N, D] pooled over columns [first, last) of each row, given [B, P] → [B, P, POOLS · heads · D] float32.

    No column at all gives zeros.
    """
    columns = torch.arange(values.shape[2], device=values.device)
    begin, end = (torch.from_numpy(places).to(values.device)[..., None] for places in (first, last))
    every, recent = ((columns >= start) & (columns < end) for start in (begin, torch.maximum(begin, end - RECENT)))
    exact = values.float()
    means = [torch.einsum("bpn,bhnd->bphd", _shares(mask), exact) for mask in (every, recent)]
    highest = torch.stack([_highest(exact, mask) for mask in every.unbind(1)], 1)
    return torch.stack([*means, highest], 2).flatten(2)


def _shares(mask: Tensor) -> Tensor:
    return mask / mask.sum(-1, keepdim=True).clamp(min=1)


def _highest(values: Tensor, mask: Tensor) -> Tensor:
    """The maximum [B, heads, D] over the columns of a mask [B, N]."""
    return values.masked_fill(~mask[:, None, :, None], -torch.inf).amax(2).nan_to_num(neginf=0.0)


def pooled_rows(rows: Rows, wanted: Sequence[int], layers: Sequence[int]) -> Tensor:
    """What rows, running or just stopped, have stored in these layers for their own tokens but the last, pooled [n, layers · …].

    The last token of a trace that stopped was never read.
    """
    order, pieces = rows.pieces_of(wanted)
    begin = rows.slots.prompts[order]
    ends = begin + rows.slots.tokens[order] - 1
    found = []
    for number in layers:
        own = []
        for lane, first, last, places in split(pieces, np.arange(len(order))):
            values = _values(lane, number)[first:last]
            start, end = (b[places, None] - lane.before for b in (begin, ends))
            own.append(pooled(values, start, end)[:, 0].to(rows.backbone.device))
        found.append(torch.cat(own))
    return torch.cat(found, 1)[[order.index(row) for row in wanted]]


def _values(lane: Lane, number: int) -> Tensor:
    """A layer's values [rows, heads, columns, D]; where nothing was stored behind a prefix yet, the prefix's, for their shape."""
    if number in lane.layers:
        return lane.layers[number][1]
    assert lane.prefix is not None, "rows that were entered have read their prompt"
    return lane.prefix.layers[number][1].expand(lane.rows, -1, -1, -1)
