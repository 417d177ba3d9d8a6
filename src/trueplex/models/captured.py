"""A decode step recorded as one CUDA graph, attention included: what a step costs is then its kernels, and not their launches.

A graph reads and writes fixed places. So it is of all rows of its lanes, as they are stored: those that run no more are read along
and write back what they hold, columns that are not written yet are masked, and what changes from step to step, inputs and
positions, lies in tensors of its own. A graph is of no use once one of its lanes grew, shrank or went, which a lane's stamp tells;
recording takes about as long as a plain step. Prompts, and the first step of a kind, are computed plainly.

What is left out: lanes of one size that never move, which would save recordings and cost the memory that lanes are for.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from trueplex.errors import reason
from trueplex.models import placement
from trueplex.models.backbone import Backbone
from trueplex.models.check import differs
from trueplex.models.lanes import LaneCache, Pass, Piece, Segment, split
from trueplex.models.rotary import fixed_positions

log = logging.getLogger(__name__)

KEPT = 4  # graphs: lanes that take turns, and steps with and without a probe, find their own again
CHECKED = 2  # first graphs of a kind whose results are compared with plain passes
LOOKS = (1, 4)  # replays at which they are: later ones also read what earlier ones wrote
TRIES = 2  # a kernel that is loaded while a graph is recorded may break it, and is there the next time
Work = Callable[[], tuple[Tensor, Tensor]]
Kind = tuple[int, int]  # the number of what stands beside the tokens, 0 for nothing, and the query columns
Key = tuple[Any, ...]  # a kind, and of each lane its stamp and whether all of its rows run


class Recorder(Protocol):
    """Turns work into what it gives, [B, V] and [B, q, H], and a call that computes the same anew, in the same places."""

    def __call__(self, work: Work) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]: ...


class Numbers:
    """What stands beside the tokens of a step, by number: 0 for nothing, which True says, and one that is given once for each probe."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._next = count(1)

    def __call__(self, beside: object) -> int:
        if beside is True:
            return 0
        if beside not in self._of:
            self._of[beside] = next(self._next)
        return self._of[beside]


@dataclass(eq=False)
class Graph:
    """What a graph reads, inputs [R, q, input size] and positions [R, q] int64 of all rows, -1 where none runs, and what it writes."""

    inputs: Tensor
    positions: Tensor
    replay: Callable[[], None]
    logits: Tensor
    hidden: Tensor
    replays: int = 0


class CudaGraphs:
    """Records CUDA graphs, which share one pool of memory: one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        # A pool is gone with its last graph, and its name with it, so one graph stays
        self._first = self(lambda: (torch.zeros(1, device=device), torch.zeros(1, device=device)))

    def __call__(self, work: Work) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]:
        # torch.cuda.graph would collect Python's garbage and empty the allocator's cache for each graph, which takes longer than a step
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                results = work()
            except BaseException:
                with suppress(Exception):  # what broke the graph is told, and not that it is broken
                    graph.capture_end()
                self._leave()
                raise
            try:
                graph.capture_end()
            except Exception:
                self._leave()
                raise
        here.wait_stream(self._stream)
        return results, graph.replay

    def _leave(self) -> None:
        """The allocator is not told when a broken graph ends, and would go on as if one were recorded."""
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(self._stream.device.index, self._pool)


class CapturedStep:
    """A model's decode step, recorded; the plain one, where that is not possible.

    Args:
        record: makes what records; None makes CUDA's own.

    Attributes:
        passes, made: how many steps were replayed, and how many graphs were made.
        off: why none is any more; empty while they are.
    """

    def __init__(self, backbone: Backbone, record: Callable[[], Recorder] | None = None) -> None:
        self._backbone, self._new = backbone, record or (lambda: CudaGraphs(backbone.device))
        self.passes = self.made = 0
        self._graphs: OrderedDict[Key, Graph | None] = (
            OrderedDict()
        )  # None for lanes whose graph does not fit into memory
        self._record: Recorder | None = None
        self._number = Numbers()
        self._begun: set[Kind] = set()
        self._failed: Counter[Kind] = Counter()
        self._checked: Counter[Kind] = Counter()
        self.off = _unfit(backbone)
        if self.off:
            self._say(self.off)

    def __call__(self, cache: LaneCache, pieces: Sequence[Piece], starts: np.ndarray, inputs: Tensor, beside: object) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """What `Backbone.decode_pass` gives; None where it has to be made plainly."""
        if self.off:
            return None
        columns = inputs.shape[1]
        for lane, _, _, own in split(pieces, starts):
            lane.reserve(int(own.max()) + columns - lane.before)
        kind = (self._number(beside), columns)
        if kind not in self._begun or not self._ready(pieces, beside, columns):
            self._begun.add(kind)
            return None
        key = (kind, *((lane.stamp, last - first == lane.rows) for lane, first, last in pieces))
        with self._backbone.lock:
            if key not in self._graphs and not self._make(key, cache, pieces, inputs, beside):
                return None
            if (graph := self._graphs[key]) is None:
                return None
            self._graphs.move_to_end(key)
            found = self._replayed(graph, pieces, starts, inputs)
        if self._checked[kind] < CHECKED * len(LOOKS) and graph.replays in LOOKS:
            self._checked[kind] += 1
            return self._compared(found, cache, pieces, starts, inputs)
        return found

    def forget(self) -> None:
        """Give back all memory of graphs."""
        self._graphs.clear()
        self._record = None

    def _ready(self, pieces: Sequence[Piece], beside: object, columns: int) -> bool:
        """Whether nothing is left to be made when it is first needed, which would be made anew by every replay."""
        compiled = self._backbone.compiled
        return all(lane.layers for lane, _, _ in pieces) and (compiled is None or compiled.settled(beside, columns))

    def _make(self, key: Key, cache: LaneCache, pieces: Sequence[Piece], inputs: Tensor, beside: object) -> bool:
        """Record a graph, which takes the place of the one that was used longest ago; False where that failed."""
        while len(self._graphs) >= KEPT:
            self._graphs.popitem(last=False)
        try:
            self._graphs[key] = self._recorded(cache, pieces, inputs, beside)
        except torch.OutOfMemoryError as error:
            self.forget()
            self._graphs[key] = None
            log.warning(f"a step is not recorded as a CUDA graph ({reason(error, 100)})")
        except Exception as error:  # CUDA and modelling code raise what they like
            self.forget()
            self._failed[key[0]] += 1
            if self._failed[key[0]] >= TRIES:
                self._say(reason(error, 100))
        finally:
            cache.passing = None  # its masks are the graph's
        return key in self._graphs

    def _recorded(self, cache: LaneCache, pieces: Sequence[Piece], inputs: Tensor, beside: object) -> Graph:
        """A graph of a pass over all rows of the lanes."""
        rows, columns = sum(lane.rows for lane, _, _ in pieces), inputs.shape[1]
        own = inputs.new_zeros(rows, *inputs.shape[1:])
        positions = torch.full((rows, columns), -1, dtype=torch.long, device=inputs.device)
        compiled = self._backbone.compiled

        def work() -> tuple[Tensor, Tensor]:
            cache.passing = passing = self._planned(cache, pieces, positions)
            found = compiled.unseen(own, passing, beside) if compiled is not None else None
            return self._backbone.plain_pass(own, passing) if found is None else found

        self._record = self._record or self._new()
        (logits, hidden), replay = self._record(work)
        self.made += 1
        return Graph(own, positions, replay, logits, hidden)

    def _planned(self, cache: LaneCache, pieces: Sequence[Piece], positions: Tensor) -> Pass:
        """A pass over all rows of the lanes, whose positions [R, q] are known when it is made."""
        segments, row, where = [], 0, positions.clamp(min=0)
        for lane, first, last in pieces:
            span = slice(row, row + lane.rows)
            row += lane.rows
            runs = positions[span] >= 0
            segment = Segment(lane, 0, lane.rows, span, columns=lane.columns)
            segment.runs = None if last - first == lane.rows else runs
            segment.slots = torch.arange(lane.rows, device=positions.device)[:, None]
            segment.at = torch.where(runs, positions[span] - lane.before, lane.columns - 1)
            for kind in self._backbone.kinds.masks:
                places = segment.places(kind, positions.device)
                segment.masks[kind] = self._backbone.mask_of(where[span], places, 0, kind)
            segments.append(segment)
        return Pass(segments, where, cache.kinds, cache)

    def _replayed(self, graph: Graph, pieces: Sequence[Piece], starts: np.ndarray, inputs: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows, columns = graph.positions.shape
        places, before = list[np.ndarray](), 0
        for lane, first, last in pieces:
            places.append(np.arange(before + first, before + last))
            before += lane.rows
        at = np.concatenate(places)
        positions = np.full((rows, columns), -1, dtype=np.int64)
        positions[at] = starts[:, None] + np.arange(columns)
        graph.positions.copy_(torch.from_numpy(positions), non_blocking=True)
        # The first rows, without a gap, or those that are chosen
        own = slice(len(at)) if len(at) == at[-1] + 1 else torch.from_numpy(at).to(inputs.device)
        graph.inputs[own] = inputs
        graph.replay()
        self.passes += 1
        graph.replays += 1
        logits, hidden = graph.logits[own], graph.hidden[own]
        return (
            (logits.clone(), hidden.clone()) if isinstance(own, slice) else (logits, hidden)
        )  # the next replay may write over it

    def _compared(self, found: tuple[Tensor, Tensor], cache: LaneCache, pieces: Sequence[Piece], starts: np.ndarray, inputs: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What was found, or the plain pass, and no more graphs, where the two differ."""
        plain = self._backbone.decode_pass(cache, pieces, starts, inputs)
        if why := differs(self._backbone, plain, found):
            self._say(why)
            return plain
        return found

    def _say(self, why: str) -> None:
        self.off = why
        self.forget()
        log.warning(
            f"the decode step of {self._backbone.name} is not recorded as a CUDA graph ({why}): it is computed plainly"
        )


def _unfit(backbone: Backbone) -> str:
    """What keeps a step from being recorded, as far as it is known before it is tried; else nothing."""
    if backbone.kinds.recurrent:
        return "recurrent layers keep states that are replaced at every step"
    if fixed_positions(backbone.config) is not None:
        return "its rotary frequencies are chosen by the longest row"
    if placement.shared(backbone.model):
        return "processes share its layers"
    devices = {parameter.device for parameter in backbone.model.parameters()}
    return "its layers are on several devices" if len(devices) > 1 else ""
