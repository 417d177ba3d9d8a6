"""What the values of a row's tokens are as a whole: their means, by layer, as they lie in the KV cache.

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

WINDOWS = (2**31, 32, 8)  # tokens: the mean of all, and of the last few


def pooled(layers: Sequence[Tensor], first: np.ndarray, last: np.ndarray) -> Tensor:
    """Means of the values [B, heads, N, D] of some layers over the last tokens of columns [first, last), given [B, 1] or [B, P].

    [B, P, layers · windows · heads · D] float32, one mean for each of `WINDOWS`, in order. No column at all gives zeros.
    """
    device = layers[0].device
    columns, windows = torch.arange(layers[0].shape[2], device=device), torch.tensor(WINDOWS, device=device)
    begin, end = (torch.from_numpy(places).to(device)[..., None, None] for places in (first, last))
    within = (columns >= torch.maximum(begin, end - windows[:, None])) & (columns < end)
    shares = within / within.sum(-1, keepdim=True).clamp(min=1)
    means = (torch.einsum("bpwn,bhnd->bpwhd", shares.to(values.device), values.float()) for values in layers)
    return torch.cat([mean.flatten(2).to(device) for mean in means], -1)  # layers may be on several


def pooled_rows(rows: Rows, wanted: Sequence[int], layers: Sequence[int]) -> Tensor:
    """What rows, running or just stopped, have stored in these layers for their own tokens but the last, pooled [n, layers · …].

    The last token of a trace that stopped was never read.
    """
    order, pieces = rows.pieces_of(wanted)
    begin = rows.slots.prompts[order]
    ends = begin + rows.slots.tokens[order] - 1
    found = []
    for lane, first, last, places in split(pieces, np.arange(len(order))):
        start, end = (b[places, None] - lane.before for b in (begin, ends))
        own = pooled([_values(lane, number)[first:last] for number in layers], start, end)
        found.append(own[:, 0].to(rows.backbone.device))
    return torch.cat(found)[[order.index(row) for row in wanted]]


def _values(lane: Lane, number: int) -> Tensor:
    """A layer's values [rows, heads, columns, D]; where nothing was stored behind a prefix yet, the prefix's, for their shape."""
    if number in lane.layers:
        return lane.layers[number][1]
    assert lane.prefix is not None, "rows that were entered have read their prompt"
    return lane.prefix.layers[number][1].expand(lane.rows, -1, -1, -1)
