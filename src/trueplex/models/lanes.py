"""The KV cache: lanes of rows with storage of their own, so that memory follows what runs and goes back when it stops.

A `Lane` holds the keys and values of a few traces, as long as its own longest one and no longer, and the states of layers
that keep some (`models.states`); it grows, shrinks and is freed apart from all others. Traces of one prompt may share it as a `Prefix`, stored and read once. Why lanes and not paged
blocks: attention reads a lane where it lies, by PyTorch's own kernels on any device, while blocks must be gathered (three
times the bytes of a step) or need a kernel of their own; and what a lane wastes, the difference to its longest
row, is small, as rows that enter together grow together. Of layers with a sliding window the first columns of a lane are let go
once all of its rows have left them behind.

It plugs into unmodified transformers models as a `Cache`: a model calls only `update`. Where new keys go, and which rows of
which lanes are read, is a `Pass`, made before the model is called. What counts of a row is known by the caller alone: a
probe written behind a row's end is discarded by doing nothing, and states are written back only where the caller wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from trueplex.errors import ModelError
from trueplex.models.kinds import MASKS, SLIDING, STATES, Kinds
from trueplex.models.states import StateLayer, States, gather

STAMPS = count()
GROWTH = 64  # columns that a lane gains at once; more would waste memory, fewer would copy more often
KeyValue = tuple[Tensor, Tensor]


def rounded(columns: int, by: int = GROWTH) -> int:
    """The columns that a lane has, to hold so many; or the next multiple of another number."""
    return -(-columns // by) * by


def _bytes(layers: dict[int, KeyValue], states: States) -> int:
    return sum(t.nbytes for layer in layers.values() for t in layer) + sum(t.nbytes for t in states.values())


@dataclass(slots=True, eq=False)
class Prefix:
    """Keys and values [1, kv heads, P, D] by layer of a prompt that lanes share, and the states behind it, which they copy.

    Sliding layers are without the first ``dropped`` columns.
    """

    length: int
    dropped: int
    layers: dict[int, KeyValue]
    states: States

    @property
    def nbytes(self) -> int:
        return _bytes(self.layers, self.states)


@dataclass(slots=True, eq=False)
class Lane:
    """Rows [0, rows) of one storage; by layer, keys and values [rows, kv heads, columns, D], behind those of the prefix.

    States [rows, ...] are those behind the last token that was kept. Sliding layers are without the first ``dropped`` columns.

    Running rows are the first `live` ones. Those of traces that have just stopped stand behind them, until they are freed.
    Its ``stamp`` is another one as soon as anything is stored elsewhere or in another shape; no two lanes ever share one.
    """

    cache: LaneCache
    rows: int
    prefix: Prefix | None = None
    columns: int = 0
    dropped: int = 0
    live: int = 0
    held: int = 0
    layers: dict[int, KeyValue] = field(default_factory=dict)
    states: States = field(default_factory=dict)
    stamp: int = field(default_factory=STAMPS.__next__)

    @property
    def before(self) -> int:
        """Tokens of the prefix."""
        return self.prefix.length if self.prefix else 0

    @property
    def nbytes(self) -> int:
        return _bytes(self.layers, self.states)

    def gone(self, number: int) -> int:
        """The first columns that a layer is without."""
        return self.dropped if self.cache.kinds.slides(number) else 0

    def layer(self, number: int, new: KeyValue) -> KeyValue:
        """The storage of a layer; made when its first keys and values come, which tell its shape."""
        if number not in self.layers:
            columns = self.columns - self.gone(number)
            self.layers[number] = tuple(t.new_zeros(self.rows, t.shape[1], columns, t.shape[3]) for t in new)  # type: ignore[assignment]
            self.cache.count(sum(t.nbytes for t in self.layers[number]))
        return self.layers[number]

    def state(self, name: tuple[int, str, int], new: Tensor) -> Tensor:
        """The storage of a state; made when the first comes."""
        if name not in self.states:
            self.states[name] = new.new_zeros(self.rows, *new.shape[1:])
            self.cache.count(self.states[name].nbytes)
        return self.states[name]

    def resize(self, rows: int, columns: int, dropped: int = 0) -> None:
        """Keep the first rows and columns, and have room for so many; sliding layers let go of the first ``dropped`` columns."""
        before, self.dropped = self.dropped, max(self.dropped, dropped)
        alike = (rows, columns) == (self.rows, self.columns)
        if alike and self.dropped == before:
            return
        self.stamp = next(STAMPS)  # first, as memory may run out between two layers
        r, c = min(rows, self.rows), min(columns, self.columns)
        for number, old in self.layers.items():
            gone = self.gone(number)
            been = min(before, gone)
            if alike and gone == been:
                continue
            new = []
            for tensor in old:
                kept = tensor.new_zeros(rows, tensor.shape[1], columns - gone, tensor.shape[3])
                kept[:r, :, : c - gone] = tensor[:r, :, gone - been : c - been]
                new.append(kept)
            self.cache.count(sum(t.nbytes for t in new))
            self.cache.count(-sum(t.nbytes for t in old))
            self.layers[number] = tuple(new)  # type: ignore[assignment]
        for name, state in self.states.items() if rows != self.rows else ():
            self.states[name] = state.new_zeros(rows, *state.shape[1:])
            self.states[name][:r] = state[:r]
            self.cache.count(self.states[name].nbytes)
            self.cache.count(-state.nbytes)
        self.rows, self.columns = rows, columns

    def reserve(self, columns: int) -> None:
        """Have room for so many columns behind the prefix."""
        if columns > self.columns:
            self.resize(self.rows, rounded(columns))

    def take(self, row: int, other: Lane, sources: Tensor, columns: int) -> None:
        """Rows row, row + 1 … become copies of the source rows [n] of another lane, which has dropped nothing, in their first columns."""
        self.reserve(columns)
        rows = slice(row, row + len(sources))
        for number, source in other.layers.items():
            gone = self.gone(number)
            for mine, theirs in zip(self.layer(number, source), source, strict=True):
                mine[rows, :, : columns - gone] = theirs[sources.to(theirs.device), :, gone:columns]
        for name, state in other.states.items():
            self.state(name, state)[rows] = state[sources.to(state.device)]

    def copy(self, prefix: Prefix, columns: int) -> None:
        """The first columns of the first row become those of a prefix; its states, which stand behind all of it, do not."""
        for number, source in prefix.layers.items():
            for mine, theirs in zip(self.layer(number, source), source, strict=True):
                mine[:1, :, :columns] = theirs[:, :, :columns]

    def free(self) -> None:
        """Give up all that is stored."""
        self.cache.count(-self.nbytes)
        self.layers, self.states, self.stamp = {}, {}, next(STAMPS)

    def swap(self, some: Sequence[int], others: Sequence[int], columns: int) -> None:
        """Exchange the first columns of rows, and their states, pair by pair."""
        if not some:
            return
        exchanged = torch.tensor([[*some, *others], [*others, *some]])
        seen = [tensor[:, :, : columns - self.gone(n)] for n, layer in self.layers.items() for tensor in layer]
        by_device = {tensor.device: exchanged.to(tensor.device) for tensor in (*seen, *self.states.values())}
        for tensor in (*seen, *self.states.values()):
            places, sources = by_device[tensor.device]  # layers may be on several
            tensor[places] = tensor[sources]

    def share(self, row: int, columns: int, dropped: int = 0) -> Prefix:
        """A prefix of the first columns of a row; in sliding layers, without the first ``dropped`` of them."""
        first = {n: dropped if self.cache.kinds.slides(n) else 0 for n in self.layers}
        layers = {n: tuple(t[row : row + 1, :, first[n] : columns].clone() for t in layer) for n, layer in self.layers.items()}  # fmt: skip
        prefix = Prefix(columns, dropped, layers, {name: t[row : row + 1].clone() for name, t in self.states.items()})  # type: ignore[arg-type]
        self.cache.count(prefix.nbytes)
        return prefix


Piece = tuple[Lane, int, int]  # rows [first, last) of a lane


def split(pieces: Sequence[Piece], rows: np.ndarray) -> Iterator[tuple[Lane, int, int, np.ndarray]]:
    """Each piece, with its part of what is of all rows."""
    at = 0
    for lane, first, last in pieces:
        yield lane, first, last, rows[at : at + last - first]
        at += last - first


@dataclass(slots=True)
class Segment:
    """Rows [first, last) of a lane, which are the rows `span` of a pass, and what its attention needs.

    Attributes:
        write: the column behind the prefix at which all of them write, or None where each has its own.
        columns: how many columns behind the prefix are read.
        slots, at: the segment's rows as a column, and the columns behind the prefix [rows, q] that they write; of ragged rows.
        runs: which of those are written [rows, q] bool, while the others keep what they hold; None for all.
        masks: by kind of layer, additive [1 or rows, 1, q, prefix + columns], as far as they are stored; None where every row sees everything, or
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
    runs: Tensor | None = None
    masks: dict[str, Tensor | None] = field(default_factory=dict)

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Write new keys and values [rows, kv heads, q, D] of a layer."""
        stored = self.lane.layer(layer, (key, value))
        self.put(layer, tuple(t[self.first : self.last] for t in stored), (key, value))  # type: ignore[arg-type]

    def put(self, layer: int, rows: KeyValue, new: KeyValue) -> None:
        """Write new keys and values [rows, heads, q, D] into those of these rows [rows, heads, columns, D], as a layer stores them."""
        gone = self.lane.gone(layer)
        for kept, fresh in zip(rows, new, strict=True):
            if self.write is not None:
                kept[:, :, self.write - gone : self.write - gone + fresh.shape[2]] = fresh
            else:
                assert self.slots is not None and self.at is not None
                slots, at = self.slots.to(kept.device), self.at.to(kept.device) - gone  # layers may be on several
                written = fresh.transpose(1, 2)
                if self.runs is not None:
                    written = torch.where(self.runs[..., None, None], written, kept[slots, :, at])
                kept[slots, :, at] = written

    def read(self, layer: int) -> KeyValue:
        """Keys and values [rows, kv heads, columns, D] behind the prefix, as far as the layer stores them."""
        (keys, values), columns = self.lane.layers[layer], self.columns - self.lane.gone(layer)
        return keys[self.first : self.last, :, :columns], values[self.first : self.last, :, :columns]

    def places(self, kind: str, device: torch.device) -> Tensor:
        """Where the columns stand that attention of a kind reads, of the prefix and behind it."""
        every, before = torch.arange(self.lane.before + self.columns, device=device), self.lane.before
        prefix = self.lane.prefix.dropped if self.lane.prefix else 0
        return torch.cat([every[prefix:before], every[before + self.lane.dropped :]]) if kind == SLIDING else every


@dataclass(slots=True)
class Pass:
    """One forward pass: its segments, in the order of its rows, and the positions [1 or B, q] of its query columns."""

    segments: list[Segment]
    positions: Tensor
    kinds: Kinds
    cache: LaneCache
    layer: int = -1  # the last one that stored something: attention comes right after

    def owner(self, layer: int) -> int:
        """The layer whose keys and values a layer's attention reads; a module that stands for several tells one number."""
        return self.kinds.owners.get(layer, self.layer)


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
        self.cache.passing.layer = self.number
        for segment in self.cache.passing.segments:
            segment.store(self.number, key_states[segment.span], value_states[segment.span])
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class HybridLayer(StateLayer, LaneLayer):
    """A layer with both."""

    def __init__(self, number: int, cache: LaneCache, states: int) -> None:
        LaneLayer.__init__(self, number, cache)
        StateLayer.__init__(self, states)


class LaneCache(Cache):
    """Lanes, in the order of the batch's rows.

    Attributes:
        budget: the most bytes that may be stored, or None; `count` refuses what would pass it.
        stored, peak: bytes now, and the most there ever were, copies in the making included.
        passing: the pass that is being made.
    """

    def __init__(self, kinds: Kinds, budget: int | None = None) -> None:
        super().__init__(layers=[self._layer(number, kind, kinds) for number, kind in enumerate(kinds.layers)])
        self.kinds, self.budget = kinds, budget
        self.lanes: list[Lane] = []
        self.stored = self.peak = 0
        self.passing: Pass | None = None

    def _layer(self, number: int, kind: str, kinds: Kinds) -> Any:
        if kind in STATES:
            states = kinds.states[number]
            return HybridLayer(number, self, states) if kind in MASKS else StateLayer(states)
        return LaneLayer(number, self)  # one that keeps nothing, or reads what another keeps, is never called

    def count(self, nbytes: int) -> None:
        """So many bytes more, or fewer, are stored."""
        self.stored += nbytes
        self.peak = max(self.peak, self.stored)
        if self.budget is not None and self.stored > self.budget:  # a mistake of the caller, which plans by it
            raise ModelError(f"{self.stored:,} bytes of KV pass the budget of {self.budget:,}. Try: report this")

    def add(self, rows: int, columns: int, prefix: Prefix | None = None) -> Lane:
        """A new lane behind all others, without live rows; its states are those behind the prefix."""
        lane = Lane(self, rows, prefix, rounded(columns))
        self.lanes.append(lane)
        for name, state in prefix.states.items() if prefix else ():
            lane.state(name, state)[:] = state
        return lane

    def drop(self, lane: Lane) -> None:
        """Free a lane, and its prefix with the last lane that shares it."""
        self.lanes.remove(lane)
        lane.free()
        if lane.prefix and not any(other.prefix is lane.prefix for other in self.lanes):
            self.count(-lane.prefix.nbytes)

    def plan(self, segments: Sequence[Piece], starts: np.ndarray, columns: int, device: torch.device, by: int = 1) -> Pass:  # fmt: skip
        """A pass over rows [first, last) of lanes, whose query columns begin at positions starts [B]; without masks.

        Of a lane a multiple of `by` columns is read, which divides its growth.
        """
        if alike := bool((starts == starts[0]).all()):
            positions = torch.arange(int(starts[0]), int(starts[0]) + columns, device=device)[None]
        else:  # the one thing that a pass carries to the device
            positions = torch.from_numpy(starts).to(device)[:, None] + torch.arange(columns, device=device)
        planned, row = [], 0
        for lane, first, last, own in split(segments, starts):
            used = int(own.max()) + columns - lane.before
            lane.reserve(used)
            segment = Segment(lane, first, last, slice(row, row + last - first), columns=rounded(used, by))
            if alike or (own == own[0]).all():
                segment.write = int(own[0]) - lane.before
            else:
                segment.slots = torch.arange(last - first, device=device)[:, None]
                segment.at = positions[segment.span] - lane.before
            planned.append(segment)
            row += last - first
        return Pass(planned, positions, self.kinds, self)

    @contextmanager
    def running(self, pieces: Sequence[Piece], begun: bool, kept: bool) -> Iterator[None]:
        """The model may be called for rows [first, last) of lanes, once or column by column: its layers have their states.

        ``begun``: the rows have read something before; ``kept``: what they read now counts, so that their lanes get the
        new states. Otherwise the lanes keep theirs, bit for bit.
        """
        layers = {number: self.layers[number] for number in self.kinds.states}
        for number, layer in layers.items():
            parts = [(lane.states, slice(first, last)) for lane, first, last in pieces]
            layer.begin(gather(number, parts, kept) if begun else {})
        yield
        for number, layer in layers.items() if kept else ():
            for (name, which), new in layer.now().items():
                row = 0
                for lane, first, last in pieces:
                    place = lane.state((number, name, which), new)[first:last]
                    own = new[row : row + last - first]
                    row += last - first
                    if place.data_ptr() != own.data_ptr():  # else it was changed where it lies
                        place.copy_(own)
