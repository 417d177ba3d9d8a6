"""A decode step recorded as one CUDA graph, attention included: what a step costs is then its kernels, and not their launches.

A graph reads and writes fixed places. So it is of all rows of its lanes, as they are stored: those that run no more are read along
and write back what they hold, columns that are not written yet are masked, and what changes from step to step, inputs and
positions, lies in tensors of its own. A graph is of no use once one of its lanes grew, shrank or went, which a lane's stamp tells;
recording takes about as long as a plain step. Prompts, and the first step of a kind, are computed plainly.

What is left out: lanes of one size that never move, which would save recordings and cost the memory that lanes are for.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from trueplex.errors import reason
from trueplex.models import placement
from trueplex.models.backbone import Backbone
from trueplex.models.check import BOUNDS, difference
from trueplex.models.lanes import Lane, LaneCache, Pass, Segment

log = logging.getLogger(__name__)

KEPT = 4  # graphs of each kind that are kept: lanes that take turns find their own again
CHECKED = 2  # first graphs of a kind whose results are compared with a plain pass
Work = Callable[[], tuple[Tensor, Tensor]]
Piece = tuple[Lane, int, int]
Key = tuple[Any, ...]  # query columns, and of each lane its stamp and whether all of its rows run


class Recorder(Protocol):
    """Turns work into what it gives, [B, V] and [B, q, H], and a call that computes the same anew, in the same places."""

    def __call__(self, work: Work) -> tuple[tuple[Tensor, Tensor], Callable[[], None]]: ...


class Recorded(NamedTuple):
    """A graph, what it reads, inputs [R, q, input size] and positions [R, q] int64 of all rows, -1 where none runs, and what it writes."""

    inputs: Tensor
    positions: Tensor
    replay: Callable[[], None]
    logits: Tensor
    hidden: Tensor


@dataclass(eq=False)
class Kind:
    """Steps with nothing beside the tokens, or with one probe.

    Attributes:
        graphs: those that are kept; None for lanes whose graph does not fit into memory.
        begun: numbers of query columns that have been computed plainly.
        failed: where recording failed, to be tried once more.
    """

    graphs: OrderedDict[Key, Recorded | None] = field(default_factory=OrderedDict)
    begun: set[int] = field(default_factory=set)
    failed: Key | None = None


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
            finally:
                graph.capture_end()
        here.wait_stream(self._stream)
        return results, graph.replay


class CapturedStep:
    """A model's decode step, recorded; the plain one, where that is not possible.

    Args:
        record: makes the graphs; None is CUDA's own.

    Attributes:
        passes, recorded: how many steps were replayed, and how many graphs were made.
        off: why none is any more; empty while they are.
    """

    def __init__(self, backbone: Backbone, record: Recorder | None = None) -> None:
        self._backbone, self._record = backbone, record or CudaGraphs(backbone.device)
        self.passes = self.recorded = 0
        self._kinds: WeakKeyDictionary[Any, Kind] = WeakKeyDictionary()  # by probe
        self._alone = Kind()
        self._checked: dict[int, int] = {}
        self.off = _unfit(backbone)
        if self.off:
            self._say(self.off)

    def __call__(self, cache: LaneCache, pieces: Sequence[Piece], starts: np.ndarray, inputs: Tensor, beside: object) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """What `Backbone.decode_pass` gives; None where it has to be made plainly."""
        if self.off:
            return None
        kind, columns = self._alone if beside is True else self._kinds.setdefault(beside, Kind()), inputs.shape[1]
        for (lane, first, last), own in zip(pieces, _parts(starts, pieces), strict=True):
            assert len(own) == last - first
            lane.reserve(int(own.max()) + columns - lane.before)
        compiled = self._backbone.compiled
        if columns not in kind.begun or (compiled is not None and not compiled.settled(beside, columns)):
            kind.begun.add(columns)  # what is made when it is first needed cannot be recorded
            return None
        key = (columns, *((lane.stamp, last - first == lane.rows) for lane, first, last in pieces))
        with self._backbone.lock:
            known = key in kind.graphs
            made = kind.graphs[key] if known else self._recorded(kind, key, cache, pieces, inputs, beside)
            if made is None:
                return None
            kind.graphs.move_to_end(key)
            found = self._replayed(made, pieces, starts, inputs)
        return found if known else self._compared(found, cache, pieces, starts, inputs)

    def _recorded(self, kind: Kind, key: Key, cache: LaneCache, pieces: Sequence[Piece], inputs: Tensor, beside: object) -> Recorded | None:  # fmt: skip
        """A new graph, which takes the place of the one that was used longest ago; None where it cannot be made."""
        while len(kind.graphs) >= KEPT:
            kind.graphs.popitem(last=False)
        try:
            kind.graphs[key] = self._recording(cache, pieces, inputs, beside)
        except torch.OutOfMemoryError as error:
            kind.graphs[key] = None
            log.warning(f"a step is not recorded as a CUDA graph ({reason(error, 100)})")
        except Exception as error:  # CUDA and modelling code raise what they like
            if kind.failed == key:  # again, though a plain pass over the same lanes has made all that it needs
                self._say(reason(error, 100))
            kind.failed = key
            return None
        return kind.graphs[key]

    def _recording(self, cache: LaneCache, pieces: Sequence[Piece], inputs: Tensor, beside: object) -> Recorded:
        """A graph of a pass over all rows of the lanes."""
        rows, columns = sum(lane.rows for lane, _, _ in pieces), inputs.shape[1]
        own = inputs.new_zeros(rows, *inputs.shape[1:])
        positions = torch.full((rows, columns), -1, dtype=torch.long, device=inputs.device)
        compiled = self._backbone.compiled

        def work() -> tuple[Tensor, Tensor]:
            cache.passing = passing = self._planned(cache, pieces, positions)
            found = compiled.recorded(own, passing, beside) if compiled is not None else None
            return self._backbone.plain_pass(own, passing) if found is None else found

        (logits, hidden), replay = self._record(work)
        self.recorded += 1
        return Recorded(own, positions, replay, logits, hidden)

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

    def _replayed(self, made: Recorded, pieces: Sequence[Piece], starts: np.ndarray, inputs: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows, columns = made.positions.shape
        places, first = list[np.ndarray](), 0
        for lane, begin, end in pieces:
            places.append(np.arange(first + begin, first + end))
            first += lane.rows
        at = np.concatenate(places)
        positions = np.full((rows, columns), -1, dtype=np.int64)
        positions[at] = starts[:, None] + np.arange(columns)
        made.positions.copy_(torch.from_numpy(positions), non_blocking=True)
        if len(at) == at[-1] + 1:  # the first rows, without a gap
            made.inputs[: len(at)] = inputs
            made.replay()
            self.passes += 1
            return made.logits[: len(at)].clone(), made.hidden[: len(at)].clone()  # the next replay may write over it
        chosen = torch.from_numpy(at).to(inputs.device)
        made.inputs[chosen] = inputs
        made.replay()
        self.passes += 1
        return made.logits[chosen], made.hidden[chosen]

    def _compared(self, found: tuple[Tensor, Tensor], cache: LaneCache, pieces: Sequence[Piece], starts: np.ndarray, inputs: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What was found, or the plain pass, and no more graphs, where the two differ; of the first graphs of a kind alone."""
        columns = inputs.shape[1]
        if self._checked.get(columns, 0) >= CHECKED:
            return found
        self._checked[columns] = self._checked.get(columns, 0) + 1
        plain, tokens = self._backbone.decode_pass(cache, pieces, starts, inputs), self._backbone.vocabulary
        pairs = (plain[0][:, :tokens], found[0][:, :tokens]), (plain[1], found[1])
        apart = max(difference(a.float(), b.float(), routed=False) for a, b in pairs)
        if not apart <= BOUNDS[self._backbone.dtype][1]:
            self._say(f"it differs from the plain one by {apart:.2g}")
            return plain
        return found

    def _say(self, why: str) -> None:
        self.off, self._alone = why, Kind()
        self._kinds.clear()
        log.warning(
            f"the decode step of {self._backbone.name} is not recorded as a CUDA graph ({why}): it is computed plainly"
        )


def _parts(starts: np.ndarray, pieces: Sequence[Piece]) -> list[np.ndarray]:
    """The rows of each piece."""
    return np.split(starts, np.cumsum([last - first for _, first, last in pieces])[:-1])


def _unfit(backbone: Backbone) -> str:
    """What keeps a step from being recorded, as far as it is known before it is tried; else nothing."""
    if backbone.kinds.recurrent:
        return "recurrent layers keep states that are replaced at every step"
    if placement.shared(backbone.model):
        return "processes share its layers"
    devices = {parameter.device for parameter in backbone.model.parameters()}
    return "its layers are on several devices" if len(devices) > 1 else ""
