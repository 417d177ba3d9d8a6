"""Which trace is which row of a batch, and in which lane its keys and values are.

Running rows are the prefix [0, n), lane by lane and slot by slot, so that a step reads every lane as one piece. Rows that
stopped since the last `release` stand behind them, so that a probe can still read their last token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.history import History
from trueplex.engine.prefill import inputs_of, prefill, prompt_inputs, step_inputs
from trueplex.engine.reading import Reader, Reading
from trueplex.engine.slots import Entry, Limits, Slots
from trueplex.engine.step import Sampler
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import GROWTH, Lane, LaneCache, Piece, Prefix, rounded
from trueplex.types import Steps, Trace

LANE_ROWS = {"cpu": 16, "mps": 16, "cuda": 256}  # rows of a lane that traces of several prompts share
STATE_ROWS = 64  # at least, with recurrent layers: a step of those is many small kernels a lane, for long rows or short
# A prompt is stored once where that spares so many bytes a layer: less does not pay for its kernels
SHARED_BYTES = {"cpu": 2**20, "mps": 2**20, "cuda": 2**24}
COPIED_BYTES = 2**18  # a layer: what two prompts have in common is copied, and not read again, where it is so much
WASTE = 1.25  # a row joins a lane unless the lane would then hold this many times what its rows need


class Rows:
    """Traces in rows, with all that is known of each: slot, history, next logits [V] and pending input [H].

    Attributes:
        traces: the running traces, in row order.
        stopped: those that stopped since the last `release`, in the order of their rows, behind the running ones.
        running: the running traces by request.
        reader: of the prompt that is read in chunks, where that is wanted.
    """

    def __init__(self, backbone: Backbone, sampler: Sampler, budget: int | None, chunked: bool = False) -> None:
        self.backbone, self._sampler = backbone, sampler
        self.cache = LaneCache(backbone.kinds, budget)
        self.reader = Reader(backbone, self.cache, chunked)
        self.slots, self.history = Slots(backbone.markers), History(backbone.device)
        self.traces: list[Trace] = []
        self.stopped: list[Trace] = []
        self.running: dict[int, list[Trace]] = {}
        self.logits = torch.empty(0, backbone.config.vocab_size, device=backbone.device)
        self.pending = torch.empty(0, backbone.input_size, dtype=backbone.dtype, device=backbone.device)
        self._members: dict[Lane, list[Trace]] = {}  # in the order of slots: running, then stopped
        # By the ids of a prompt, while a lane has it: and its logits [V]. Equal prompts of several requests share it.
        self._prefixes: dict[tuple[int, ...], tuple[Prefix, Tensor]] = {}
        self._limits = Limits(backbone.max_positions, backbone.default_max_tokens)
        self._shared_bytes = SHARED_BYTES.get(backbone.device.type, SHARED_BYTES["cpu"])
        lane_rows = LANE_ROWS.get(backbone.device.type, LANE_ROWS["cpu"])
        self._lane_rows = max(lane_rows, STATE_ROWS) if backbone.kinds.recurrent else lane_rows

    # -- traces leave -----------------------------------------------------------------------------

    def steps(self, rows: Sequence[int], tokens: Sequence[int], first: Sequence[int] | None = None) -> list[Steps]:
        """What rows remember, up to so many tokens each; where `first` is given, without so many at the beginning."""
        widths = [self._sampler.options[option].k for option in self.slots.options[list(rows)]]
        return self.history.steps(self.slots.places[list(rows)], tokens, widths, first)

    def leave(self, traces: Sequence[Trace], drawn: bool = False) -> list[Trace]:
        """Take running traces out of the prefix, with what they remember. ``drawn`` says that logits are used up."""
        if not traces:
            return []
        going = {id(trace) for trace in traces}
        rows = [row for row, trace in enumerate(self.traces) if id(trace) in going]
        assert len(rows) == len(going), "a trace that does not run cannot leave"
        tokens = self.slots.tokens[rows].tolist()
        for row, count, steps in zip(rows, tokens, self.steps(rows, tokens), strict=True):
            trace = self.traces[row]
            trace.tokens, trace.steps = count, steps
            if not self.slots.answering[row]:
                trace.thinking_tokens = trace.tokens
        gone = [self.traces[row] for row in reversed(rows)]
        self._sampler.constraints.drop(gone)
        first = 0
        for lane in self.cache.lanes:
            lengths = self.slots.lengths[first : first + lane.live]
            first += lane.live
            self._leave_lane(lane, going, lengths)
        self._arrange([*gone, *self.stopped], drawn)
        return gone

    def _leave_lane(self, lane: Lane, going: Collection[int], lengths: np.ndarray) -> None:
        """Move the slots of leaving traces behind those that stay."""
        members = self._members[lane]
        leaving = [slot for slot in range(lane.live) if id(members[slot]) in going]
        if not leaving:
            return
        left = lane.live - len(leaving)
        holes = [slot for slot in leaving if slot < left]
        staying = [slot for slot in range(left, lane.live) if id(members[slot]) not in going]
        lane.swap(holes, staying, int(lengths.max()) + 1 - lane.before)
        for hole, slot in zip(holes, staying, strict=True):
            members[hole], members[slot] = members[slot], members[hole]
        lane.held += len(leaving)
        lane.live = left

    def _arrange(self, stopped: list[Trace], drawn: bool = False) -> None:
        """Bring all rows into the order of the lanes, and those that stopped behind them."""
        where = {id(trace): row for row, trace in enumerate([*self.traces, *self.stopped])}
        running = [trace for lane in self.cache.lanes for trace in self._members[lane][: lane.live]]
        order = [where[id(trace)] for trace in (*running, *stopped)]
        self.traces, self.stopped, self.running = running, stopped, {}
        for trace in running:
            self.running.setdefault(trace.request, []).append(trace)
        self.slots.version += 1
        if order == list(range(len(order))):
            return
        self.slots.reorder(order)
        places = torch.tensor(order, device=self.backbone.device)
        self.pending[: len(order)] = self.pending[places]
        if not drawn:
            self.logits[: len(running)] = self.logits[places[: len(running)]]

    def release(self) -> None:
        """Free the rows and the memory of traces that stopped."""
        self.history.free(self.slots.places[len(self.traces) : len(self.traces) + len(self.stopped)])
        self.slots.entries[len(self.traces) :] = None  # of a user's problem nothing stays behind
        self.stopped, first = [], 0
        for lane in list(self.cache.lanes):
            if lane.held:
                del self._members[lane][lane.live :]
                lane.held = 0
            if not lane.live:
                self._drop(lane)
                continue
            shortest = int(self.slots.lengths[first : first + lane.live].min()) - lane.before
            first += lane.live
            lane.resize(
                lane.live if 4 * lane.live <= 3 * lane.rows else lane.rows, lane.columns, self._unread(shortest)
            )

    def _unread(self, columns: int) -> int:
        """Of so many columns, the first that sliding layers need not store, in steps as those by which lanes grow."""
        return self.backbone.unread(columns - GROWTH) // GROWTH * GROWTH

    def _drop(self, lane: Lane) -> None:
        del self._members[lane]
        self.cache.drop(lane)
        alive = {id(other.prefix) for other in self.cache.lanes}
        self._prefixes = {ids: known for ids, known in self._prefixes.items() if id(known[0]) in alive}

    def shrink(self) -> None:
        """Give back whatever no running row needs."""
        for lane in self.cache.lanes:
            lane.resize(lane.live, lane.columns)

    # -- traces enter -----------------------------------------------------------------------------

    def shares(self, entry: Entry) -> bool:
        """Whether the traces of an entry share its prompt."""
        spared = (len(entry.traces) - 1) * len(entry.prompt.ids) * self.backbone.token_bytes // self.backbone.layers
        return spared >= self._shared_bytes or self.has_prefix(entry)

    def has_prefix(self, entry: Entry) -> bool:
        """Whether its prompt is stored already."""
        return entry.prompt.ids in self._prefixes

    def reads_first(self, entry: Entry) -> bool:
        """Whether an entry has to wait until its prompt was read in chunks, beside the running rows."""
        return bool(self.traces) and self._reads(entry) and self.reader.later(entry, self._known)

    def place(self, entries: Sequence[Entry]) -> list[Entry]:
        """Give rows to the traces of entries; returns the entries whose prompts were read for it, once for all their traces."""
        self._reserve(entries)
        unread = self._to_read(entries)
        alone = [entry for entry in unread if self.reader.has(entry) or self._known(entry)]
        if together := [entry for entry in unread if entry not in alone]:
            inputs, known = [prompt_inputs(self.backbone, entry.prompt.ids) for entry in together], iter(together)
            for lane, logits in prefill(self.backbone, self.cache, inputs):
                for row in range(lane.rows):
                    self._place_new(next(known), lane, row, logits[row])
        for entry in alone:
            self._place_alone(entry)
        for entry in entries:
            if entry not in unread and (new := _new(entry)):
                prefix, logits = self._prefixes[entry.prompt.ids]
                self._enter(entry, new, self._lane(len(new), 0, prefix), logits)
        for entry in entries:
            if resumed := [t for t in entry.traces if t.steps is not None]:
                self._place_resumed(entry, resumed)
        self._arrange([])
        return unread

    def _reads(self, entry: Entry) -> bool:
        """Whether the prompt must be read by itself: for new traces, or to be shared by resumed ones."""
        return not self.has_prefix(entry) and bool(_new(entry) or self.shares(entry))

    def _to_read(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries whose prompt must be read; of equal ones that are shared, the first."""
        unread, coming = list[Entry](), set[tuple[int, ...]]()
        for entry in entries:
            if entry.prompt.ids not in coming and self._reads(entry):
                unread.append(entry)
                if self.shares(entry):
                    coming.add(entry.prompt.ids)
        return unread

    def _known(self, entry: Entry) -> tuple[Prefix, int] | None:
        """The stored prompt that has most of its beginning in common with that of an entry, and how much, if that is worth copying."""
        least = COPIED_BYTES * self.backbone.layers // max(self.backbone.token_bytes, 1)
        if self.backbone.kinds.recurrent or len(entry.prompt.ids) < least:  # states stand behind a whole prompt alone
            return None
        whole = [ids for ids, (prefix, _) in self._prefixes.items() if not prefix.dropped]
        common = {ids: _common(ids, entry.prompt.ids) for ids in whole}
        best = max(common, key=lambda ids: common[ids], default=())
        return (self._prefixes[best][0], common[best]) if common.get(best, 0) > least else None

    def _place_alone(self, entry: Entry) -> None:
        """Rows for the new traces of an entry whose prompt is read by itself: a part of it has been, or of another one like it."""
        own = self.reader.has(entry)
        reading = self.reader.take() if own else Reading(self.backbone, self.cache, entry, self._known(entry))
        try:
            self._place_new(entry, reading.lane, 0, reading.finish())
        finally:
            reading.lane.free()

    def _place_new(self, entry: Entry, read: Lane, row: int, logits: Tensor) -> None:
        """Rows for the new traces of an entry, whose prompt stands in a row of the lane that was read."""
        new, length = _new(entry), len(entry.prompt.ids)
        if self.shares(entry):
            prefix = read.share(row, length, self.backbone.unread(length))
            self._prefixes[entry.prompt.ids] = (prefix, logits)
            lane = self._lane(max(len(new), 1), 0, prefix)
            self._enter(entry, new, lane, logits)
            return
        while new:
            lane, taken = self._open(length, len(new), read)
            at = lane.live
            self._enter(entry, new[:taken], lane, logits)
            lane.take(at, read, torch.full((taken,), row, device=self.backbone.device), length)
            new = new[taken:]

    def _open(self, length: int, wanted: int, but: Lane) -> tuple[Lane, int]:
        """A lane without a prefix, with rows for some of the wanted traces of so many tokens: one that fits, or a new one."""
        columns = rounded(length + 1)
        for lane in self.cache.lanes:
            taken = min(wanted, self._lane_rows - lane.live)
            if lane is but or lane.prefix or taken < 1 or lane.dropped > self._unread(length):
                continue
            needed = lane.columns * lane.live + columns * taken
            rows, longest = lane.live + taken, max(lane.columns, columns)
            if rows * longest <= WASTE * needed and self._affords(lane, rows, longest):
                lane.resize(rows, longest)
                return lane, taken
        taken = min(wanted, self._lane_rows)
        return self._lane(taken, columns), taken

    def _affords(self, lane: Lane, rows: int, columns: int) -> bool:
        """Whether a lane may come to have so many rows and columns, with a layer of it held twice while it is copied."""
        budget, needed = self.cache.budget, rows * self.backbone.row_bytes(columns, lane.dropped)
        copied = rows * self.backbone.row_bytes(columns) // self.backbone.sizes.parts
        return budget is None or self.cache.stored + needed - lane.nbytes + copied <= budget

    def _lane(self, rows: int, columns: int, prefix: Prefix | None = None) -> Lane:
        lane = self.cache.add(rows, columns, prefix)
        self._members[lane] = []
        return lane

    def _place_resumed(self, entry: Entry, traces: list[Trace]) -> None:
        """Read suspended traces again, behind their prompt where that is shared, in lanes that stay."""
        prefix = self._prefixes[entry.prompt.ids][0] if self.has_prefix(entry) else None
        inputs = [
            step_inputs(self.backbone, t.steps) if prefix else inputs_of(self.backbone, entry.prompt.ids, t.steps)
            for t in traces
            if t.steps is not None
        ]
        for lane, logits in prefill(self.backbone, self.cache, inputs, prefix, self._lane_rows, kept=True):
            self._members[lane] = []
            self._enter(entry, traces[: lane.rows], lane, logits)
            traces = traces[lane.rows :]

    def _enter(self, entry: Entry, traces: Sequence[Trace], lane: Lane, logits: Tensor) -> None:
        """The next rows are these traces'; logits [V] or [rows, V]. Their keys and values are in the lane already."""
        for number, trace in enumerate(traces):
            row = len(self.traces)
            option = self._sampler.option(entry.thinking, self.slots.options[:row])
            self.slots.assign(row, entry, trace, option, self._limits)
            self._sampler.constraints.add(trace, entry.constraint, bool(self.slots.waiting[row]))
            self.slots.places[row] = self.history.take()
            self.logits[row] = logits if logits.dim() == 1 else logits[number]
            if trace.steps is not None:
                self.history.restore(int(self.slots.places[row]), trace.steps)
                trace.steps = None  # a running trace remembers in the batch
            self.traces.append(trace)
            self._members[lane].append(trace)
            lane.live += 1

    def _reserve(self, entries: Sequence[Entry]) -> None:
        """Have tensors for the rows of these entries beside those that run."""
        rows = len(self.traces) + sum(len(entry.traces) for entry in entries)
        if rows > len(self.logits):
            self.logits, self.pending = (_extended(t, rows) for t in (self.logits, self.pending))
        self.slots.reserve(rows)
        self.history.reserve(rows, max(entry.thinking.k for entry in entries))

    def abandon(self, traces: Sequence[Trace]) -> None:
        """Forget an entrance that was broken off: these traces are in no row, and what they stored is free."""
        entered = {id(trace): row for row, trace in enumerate(self.traces)}
        back = [trace for trace in traces if id(trace) in entered]
        for lane in list(self.cache.lanes):
            if lane not in self._members:
                self.cache.drop(lane)
        self._arrange([])
        self.leave(back)
        for trace in back:
            trace.steps = trace.steps if trace.tokens else None
        self.release()

    # -- passes -----------------------------------------------------------------------------------

    def pieces(self) -> list[Piece]:
        """All running rows, lane by lane."""
        return [(lane, 0, lane.live) for lane in self.cache.lanes if lane.live]

    def pieces_of(self, rows: Collection[int]) -> tuple[list[int], list[Piece]]:
        """The rows, running or stopped, in the order of a pass over them, and the pieces of lanes that hold them.

        Rows between them in a lane are read as well: that costs less than moving their cache.
        """
        where = {id(trace): row for row, trace in enumerate([*self.traces, *self.stopped])}
        order, pieces, wanted = list[int](), list[Piece](), set(rows)
        for lane in self.cache.lanes:
            numbers = [where[id(trace)] for trace in self._members[lane]]
            slots = [slot for slot, row in enumerate(numbers) if row in wanted]
            if slots:
                pieces.append((lane, slots[0], slots[-1] + 1))
                order += numbers[slots[0] : slots[-1] + 1]
        return order, pieces


def _new(entry: Entry) -> list[Trace]:
    return [trace for trace in entry.traces if trace.steps is None]


def _common(some: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))


def _extended(old: Tensor, rows: int) -> Tensor:
    new = old.new_empty(rows, old.shape[1])
    new[: len(old)] = old
    return new
