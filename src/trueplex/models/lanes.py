"""The KV cache: lanes of rows with storage of their own, so that memory follows what runs and goes back when it stops.

A `Lane` holds the keys and values of a few traces, as long as its own longest one and no longer; it grows, shrinks and is
freed apart from all others. Traces of one prompt may share it as a `Prefix`, stored and read once. Why lanes and not paged
blocks: attention reads a lane where it lies, by PyTorch's own kernels on any device, while blocks must be gathered (three
times the bytes of a step) or need a kernel of their own; and what a lane wastes, the difference to its longest
row, is small, as rows that enter together grow together.

It plugs into unmodified transformers models as a `Cache`: a model calls only `update`. Where new keys go, and which rows of
which lanes are read, is a `Pass`, made before the model is called. What counts of a row is known by the caller alone: a
probe written behind a row's end is discarded by doing nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from trueplex.errors import ModelError

GROWTH = 64  # columns that a lane gains at once; more would waste memory, fewer would copy more often
KeyValue = tuple[Tensor, Tensor]


def rounded(columns: int) -> int:
    """The columns that a lane has, to hold so many."""
    return -(-columns // GROWTH) * GROWTH


@dataclass(slots=True, eq=False)
class Prefix:
    """Keys and values [1, kv heads, P, D] per layer of a prompt that lanes share."""

    length: int
    layers: list[KeyValue]


@dataclass(slots=True, eq=False)
class Lane:
    """Rows [0, rows) of one storage; per layer, keys and values [rows, kv heads, columns, D], behind those of the prefix.

    Running rows are the first `live` ones. Those of traces that have just stopped stand behind them, until they are freed.
    """

    cache: LaneCache
    rows: int
    prefix: Prefix | None = None
    columns: int = 0
    live: int = 0
    held: int = 0
    layers: list[KeyValue] = field(default_factory=list)

    @property
    def before(self) -> int:
        """Tokens of the prefix."""
        return self.prefix.length if self.prefix else 0

    def layer(self, number: int, new: KeyValue) -> KeyValue:
        """The storage of a layer; made when its first keys and values come, which tell its shape."""
        if number == len(self.layers):
            self.layers.append(tuple(t.new_zeros(self.rows, t.shape[1], self.columns, t.shape[3]) for t in new))  # type: ignore[arg-type]
            self.cache.count(sum(t.nbytes for t in self.layers[number]))
        return self.layers[number]

    def resize(self, rows: int, columns: int) -> None:
        """Keep the first rows and columns, and have room for so many."""
        if (rows, columns) == (self.rows, self.columns):
            return
        for number, old in enumerate(self.layers):
            new = []
            for tensor in old:
                kept = tensor.new_zeros(rows, tensor.shape[1], columns, tensor.shape[3])
                r, c = min(rows, self.rows), min(columns, self.columns)
                kept[:r, :, :c] = tensor[:r, :, :c]
                new.append(kept)
            self.cache.count(sum(t.nbytes for t in new))
            self.cache.count(-sum(t.nbytes for t in old))
            self.layers[number] = tuple(new)  # type: ignore[assignment]
        self.rows, self.columns = rows, columns

    def reserve(self, columns: int) -> None:
        """Have room for so many columns behind the prefix."""
        if columns > self.columns:
            self.resize(self.rows, rounded(columns))

    def take(self, row: int, other: Lane, sources: Tensor, columns: int) -> None:
        """Rows row, row + 1 … become copies of the source rows [n] of another lane in their first columns."""
        self.reserve(columns)
        for number, source in enumerate(other.layers):
            for mine, theirs in zip(self.layer(number, source), source, strict=True):
                mine[row : row + len(sources), :, :columns] = theirs[sources.to(theirs.device), :, :columns]

    def swap(self, some: Sequence[int], others: Sequence[int], columns: int) -> None:
        """Exchange the first columns of rows pair by pair."""
        if not some or not self.layers:
            return
        exchanged = torch.tensor([[*some, *others], [*others, *some]], device=self.layers[0][0].device)
        for layer in self.layers:
            places, sources = exchanged.to(layer[0].device)  # layers may be on several
            for tensor in layer:
                seen = tensor[:, :, :columns]
                seen[places] = seen[sources]

    def share(self, row: int, columns: int) -> Prefix:
        """A prefix of the first columns of a row."""
        layers = [tuple(t[row : row + 1, :, :columns].clone() for t in layer) for layer in self.layers]
        self.cache.count(sum(t.nbytes for layer in layers for t in layer))
        return Prefix(columns, layers)  # type: ignore[arg-type]


@dataclass(slots=True)
class Segment:
    """Rows [first, last) of a lane, which are the rows `span` of a pass, and what its attention needs.

    Attributes:
        write: the column behind the prefix at which all of them write, or None where each has its own.
        columns: how many columns behind the prefix are read.
        slots, at: the rows as a column, and the columns behind the prefix [rows, q] that they write; of ragged rows.
        masks: by kind of layer, additive [1 or rows, 1, q, prefix + columns]; None where every row sees everything, or
            in a plain causal pass.
    """

    lane: Lane
    first: int
    last: int
    span: slice
    write: int | None = None
    columns: int = 0
    slots: Tensor | None = None
    at: Tensor | None = None
    masks: dict[str, Tensor | None] = field(default_factory=dict)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write new keys and values [rows, kv heads, q, D] of a layer."""
        stored = self.lane.layer(layer, (key, value))
        for kept, new in zip(stored, (key, value), strict=True):
            if self.write is not None:
                kept[self.first : self.last, :, self.write : self.write + new.shape[2]] = new
            else:
                assert self.slots is not None and self.at is not None
                slots, at = self.slots.to(kept.device), self.at.to(kept.device)  # layers may be on several
                kept[slots, :, at] = new.transpose(1, 2)

    def read(self, layer: int) -> KeyValue:
        """Keys and values [rows, kv heads, columns, D] behind the prefix."""
        keys, values = self.lane.layers[layer]
        return keys[self.first : self.last, :, : self.columns], values[self.first : self.last, :, : self.columns]


@dataclass(slots=True)
class Pass:
    """One forward pass: its segments, in the order of its rows, and the positions [1 or B, q] of its query columns."""

    segments: list[Segment]
    positions: Tensor
    kinds: Sequence[str]


class LaneLayer(CacheLayerMixin):
    """What a model's layer calls; it writes into the lanes, and attention reads them there."""

    def __init__(self, number: int, cache: LaneCache) -> None:
        super().__init__()
        self.number, self.cache = number, cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.cache.passing is not None, "a forward pass was not planned"
        for segment in self.cache.passing.segments:
            segment.store(self.number, key_states[segment.span], value_states[segment.span])
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class LaneCache(Cache):
    """Lanes, in the order of the batch's rows.

    Attributes:
        budget: the most bytes that may be stored, or None; `count` refuses what would pass it.
        stored, peak: bytes now, and the most there ever were, copies in the making included.
        passing: the pass that is being made.
    """

    def __init__(self, layers: int, budget: int | None = None) -> None:
        super().__init__(layers=[LaneLayer(number, self) for number in range(layers)])
        self.budget = budget
        self.lanes: list[Lane] = []
        self.stored = self.peak = 0
        self.passing: Pass | None = None

    def count(self, nbytes: int) -> None:
        """So many bytes more, or fewer, are stored."""
        self.stored += nbytes
        self.peak = max(self.peak, self.stored)
        if self.budget is not None and self.stored > self.budget:  # a mistake of the caller, which plans by it
            raise ModelError(f"{self.stored:,} bytes of KV pass the budget of {self.budget:,}. Try: report this")

    def add(self, rows: int, columns: int, prefix: Prefix | None = None) -> Lane:
        """A new lane behind all others, without live rows."""
        self.lanes.append(Lane(self, rows, prefix, rounded(columns)))
        return self.lanes[-1]

    def drop(self, lane: Lane) -> None:
        """Free a lane, and its prefix with the last lane that shares it."""
        self.lanes.remove(lane)
        self.count(-sum(t.nbytes for layer in lane.layers for t in layer))
        lane.layers = []
        if lane.prefix and not any(other.prefix is lane.prefix for other in self.lanes):
            self.count(-sum(t.nbytes for layer in lane.prefix.layers for t in layer))

    def plan(self, segments: Sequence[tuple[Lane, int, int]], starts: np.ndarray, columns: int, device: torch.device) -> Pass:  # fmt: skip
        """A pass over rows [first, last) of lanes, whose query columns begin at positions starts [B]; without masks."""
        if alike := bool((starts == starts[0]).all()):
            positions = torch.arange(int(starts[0]), int(starts[0]) + columns, device=device)[None]
        else:  # the one thing that a pass carries to the device
            positions = torch.from_numpy(starts).to(device)[:, None] + torch.arange(columns, device=device)
        planned, row = [], 0
        for lane, first, last in segments:
            own = starts[row : row + last - first]
            segment = Segment(lane, first, last, slice(row, row + last - first), columns=int(own.max()) + columns - lane.before)  # fmt: skip
            lane.reserve(segment.columns)
            if alike or (own == own[0]).all():
                segment.write = int(own[0]) - lane.before
            else:
                segment.slots = torch.arange(first, last, device=device)[:, None]
                segment.at = positions[segment.span] - lane.before
            planned.append(segment)
            row += last - first
        return Pass(planned, positions, ())
