"""The slot KV cache: one row per trace, each with a length of its own, live rows a contiguous prefix.

It plugs into unmodified transformers models as a `Cache`: a model calls only `update`. Where the
new keys go is planned before the forward pass, so that a row's length, and with it what counts,
is advanced by the caller alone: a probe written behind the length is discarded by doing nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

GROWTH = 64  # positions a growing cache gains at least: fewer copies than growing by one


@dataclass(slots=True)
class Plan:
    """Where a forward pass writes and reads: rows [first, last), positions [rows, q], kv columns read.

    ``shared`` is the first position when all rows write the same columns (the fast path).
    """

    first: int
    last: int
    positions: Tensor
    columns: int
    shared: int | None
    rows: Tensor | None = None  # first … last as a column, where they write different columns


class SlotLayer(CacheLayerMixin):
    """Keys and values [rows, kv heads, positions, head size] of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.plan: Plan | None = None
        self.rows = self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self.rows, key_states.shape[1], self.length)
        self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        plan = self.plan
        assert plan is not None, "a forward pass was not planned"
        if plan.shared is not None:
            new = slice(plan.shared, plan.shared + key_states.shape[2])
            self.keys[plan.first : plan.last, :, new] = key_states
            self.values[plan.first : plan.last, :, new] = value_states
        else:
            assert plan.rows is not None
            rows, positions = (t.to(key_states.device) for t in (plan.rows, plan.positions))  # layers may be on several
            self.keys[rows, :, positions] = key_states.transpose(1, 2)
            self.values[rows, :, positions] = value_states.transpose(1, 2)
        seen = (slice(plan.first, plan.last), slice(None), slice(0, plan.columns))
        return self.keys[seen], self.values[seen]

    def resize(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length
        if self.is_initialized:
            self.keys, self.values = (_resized(t, rows, length) for t in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        assert self.plan is not None
        return self.plan.columns, 0

    def get_seq_length(self) -> int:
        return self.plan.columns - self.plan.positions.shape[1] if self.plan else 0

    def get_max_length(self) -> int:
        return -1


def _resized(old: Tensor, rows: int, length: int) -> Tensor:
    new = old.new_zeros(rows, old.shape[1], length, old.shape[3])
    r, n = min(rows, old.shape[0]), min(length, old.shape[2])
    new[:r, :, :n] = old[:r, :, :n]
    return new


class SlotCache(Cache):
    """`SlotLayer`s of one shape, moved together."""

    def __init__(self, layers: int, rows: int) -> None:
        super().__init__(layers=[SlotLayer() for _ in range(layers)])
        self.rows, self.length = rows, 0

    def write(self, plan: Plan) -> None:
        """Plan the next forward pass, growing the cache to hold it."""
        if plan.columns > self.length or plan.last > self.rows:
            self._resize(max(self.rows, plan.last), max(self.length, plan.columns + max(GROWTH, plan.columns // 2)))
        if plan.shared is None:
            plan.rows = torch.arange(plan.first, plan.last, device=plan.positions.device)[:, None]
        for layer in self.layers:
            layer.plan = plan

    def _resize(self, rows: int, length: int) -> None:
        self.rows, self.length = rows, length
        for layer in self.layers:
            layer.resize(rows, length)

    def copy_rows(self, target: int, sources: Tensor, columns: int) -> None:
        """Rows target, target + 1 … become copies of the source rows [n] in their first columns."""
        last = target + len(sources)
        if last > self.rows:
            self._resize(last, self.length)
        for layer in self.layers:
            for t in (layer.keys, layer.values):
                t[target:last, :, :columns] = t[sources.to(t.device), :, :columns]

    def swap(self, rows: Tensor, sources: Tensor, columns: int) -> None:
        """The rows [n] take the first columns of the sources [n], the same rows in another order."""
        for layer in self.layers:
            for t in (layer.keys, layer.values):
                seen = t[:, :, :columns]
                seen[rows.to(t.device)] = seen[sources.to(t.device)]

    def nbytes(self) -> int:
        return sum(t.nbytes for layer in self.layers if layer.is_initialized for t in (layer.keys, layer.values))
