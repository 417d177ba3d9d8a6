"""Batch: the traces that are being thought, whatever requests they belong to, and the one decode step.

A row of the batch is a trace (`engine.rows`). Decisions about traces are made outside, from their numbers; what is
decided here is only who enters and who is suspended, as far as the memory goes (`engine.admission`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from trueplex.clock import now
from trueplex.engine.admission import Admission, reopen
from trueplex.engine.fitting import ran_out
from trueplex.engine.interrupts import uninterrupted
from trueplex.engine.limits import StopStrings
from trueplex.engine.look import Look
from trueplex.engine.memory import Memory, free_share, gib
from trueplex.engine.probing import ProbeColumn
from trueplex.engine.rows import Rows
from trueplex.engine.slots import Entry
from trueplex.engine.step import Sampler
from trueplex.engine.thinking import merged
from trueplex.errors import ModelError
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import Piece
from trueplex.types import Status, Steps, Stop, Trace

log = logging.getLogger(__name__)

ROWS = {"cpu": 64, "mps": 64, "cuda": 256}  # traces decoded together unless the caller says
AT_LEAST = 256  # tokens: a smaller cache is none
SMALLER = 0.75  # of what was stored when the device ran out of memory: the budget from then on
Wants = Callable[[Trace], bool]
Probes = Mapping[ProbeColumn, Wants]  # which traces each probe reads, asked when the stride ends


class Batch:
    """Traces being decoded together; `submit` them, then `admit`, `make_room` and `advance` in turn.

    Args:
        rows: traces decoded together, at most; None is the device's own number. Traces that must enter together and
            are more raise it.
        memory: the most bytes of KV; None is the backbone's own, or a share of what is free.
        chunked: read long prompts in chunks, one after every step, so that running traces do not wait for them (`engine.reading`).

    Attributes:
        prompt_tokens: by request, how many tokens of its prompt were read: once for all traces that enter together.
    """

    def __init__(self, backbone: Backbone, rows: int | None = None, memory: int | None = None, chunked: bool = False) -> None:  # fmt: skip
        self.backbone = backbone
        self.prompt_tokens: Counter[int] = Counter()
        self._readings = np.zeros(0)  # of all rows, NaN where no probe read
        self._stops = lru_cache(64)(partial(StopStrings, backbone.tokenizer))  # by strings
        self._sample = Sampler(backbone)
        budget = memory or backbone.memory or free_share(backbone.device)
        self._rows = Rows(backbone, self._sample, budget, chunked)
        self._memory = Memory(backbone, self._rows, budget)
        self._admission = Admission(self._rows, self._memory, rows or ROWS.get(backbone.device.type, ROWS["cpu"]))

    def __bool__(self) -> bool:
        return bool(self.traces or self._admission.waiting)

    @property
    def traces(self) -> list[Trace]:
        """The running traces, in row order."""
        return self._rows.traces

    @property
    def running(self) -> Mapping[int, Sequence[Trace]]:
        """The same by request."""
        return self._rows.running

    @property
    def stopped(self) -> list[Trace]:
        """Those that stopped since the last `admit`, behind the running ones."""
        return self._rows.stopped

    @property
    def waiting(self) -> Sequence[Entry]:
        """What waits for rows, in order."""
        return self._admission.waiting

    @property
    def suspended(self) -> list[Trace]:
        """Those that wait because the memory did not suffice, with their steps."""
        return self._admission.suspended

    @property
    def rows(self) -> int:
        """Traces decoded together, at most."""
        return self._admission.most

    @rows.setter
    def rows(self, most: int) -> None:
        self._admission.most = most

    @property
    def cache_bytes(self) -> int:
        """What the KV cache holds, in bytes."""
        return self._rows.cache.stored

    @property
    def budget(self) -> int | None:
        """The most bytes that the KV cache may hold; None is no limit."""
        return self._memory.budget

    @property
    def peak_bytes(self) -> int:
        """The most that it ever held, copies in the making included."""
        return self._rows.cache.peak

    # -- requests come and go ---------------------------------------------------------------------

    def check(self, entry: Entry) -> None:
        """Raise InputError when not even one of its traces fits into the memory."""
        self._memory.check(entry)

    def submit(self, entry: Entry, first: bool = False) -> None:
        """Let an entry wait for rows, behind all others or before them. Raises InputError as `check` does."""
        self._admission.submit(entry, first)

    def withdraw(self, requests: Collection[int], reason: str) -> list[Trace]:
        """Forget what waits of these requests; the traces among it that were suspended for memory end, and are returned."""
        return self._admission.withdraw(requests, reason)

    @torch.inference_mode()
    def admit(self, ready: Callable[[int], bool] = lambda request: True) -> list[int]:
        """Give free rows to waiting entries of requests that are ready, as far as the memory goes; returns their requests.

        Traces that stopped give their rows and memory away here.
        """
        self._rows.release()
        entering = self._admission.entering(ready)
        if entering:
            self._memory.make_room(0)
            with uninterrupted():
                try:
                    read = self._rows.place(entering)
                except (MemoryError, RuntimeError) as error:
                    self._give_up(entering, error)
                    return self.admit(ready)
            for entry in read:
                self.prompt_tokens[entry.request] += len(entry.prompt.ids)
        return [entry.request for entry in entering]

    @torch.inference_mode()
    def release(self) -> None:
        """Give away the rows and memory of traces that stopped; `admit` does so as well."""
        with uninterrupted():
            self._rows.release()

    @torch.inference_mode()
    def make_room(self, stride: int) -> None:
        """Suspend the youngest traces until the others can grow by a stride within the memory; they come again by themselves."""
        with uninterrupted():
            self._admission.make_room(stride)

    # -- decoding ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def advance(self, stride: int, probes: Probes | None = None) -> list[Trace]:
        """Grow every running trace by up to `stride` tokens; returns those that stopped, in that order.

        Each probe reads the traces that it wants right after their last token, those that stopped within the stride
        included: in the last forward pass where one probe wants every row and no layer has states, else in a pass of its own,
        which leaves the cache as it was. When the device runs out of memory, all traces are suspended as they stood before, the
        budget becomes smaller, and none has stopped.

        Raises:
            ModelError: the model gave logits that are not finite, or the memory does not suffice for one trace.
        """
        before = [(trace, trace.tokens) for trace in self.traces]
        try:
            return self._advance(stride, probes)
        except (MemoryError, RuntimeError) as error:
            self._retreat(before, error)
            return []

    def _advance(self, stride: int, probes: Probes | None) -> list[Trace]:
        stopped: list[Trace] = []
        self._readings = np.zeros(0)
        for step in range(stride):
            with uninterrupted():
                stopped += self._step()
            last = step == stride - 1 or not self.traces
            if last and probes:
                self._forward_and_read(probes)
            elif self.traces:
                self._forward()
            with uninterrupted():
                self._rows.reader.more(len(self.traces))
            if last:
                break
        for trace, tokens in zip(self.traces, self._rows.slots.tokens.tolist(), strict=False):
            trace.tokens = tokens
        return stopped

    @torch.inference_mode()
    def stop(self, stops: Iterable[Stop]) -> list[Trace]:
        """Stop running traces at once; their rows are free from the next `admit` on. One without a token never was."""
        leaving = []
        for stop in stops:
            stop.trace.status, stop.trace.reason = stop.status, stop.reason
            leaving.append(stop.trace)
        with uninterrupted():
            return [trace for trace in self._rows.leave(leaving) if trace.tokens]

    def look(self, wants: Wants) -> Look:
        """Those of the traces that run or have just stopped that are wanted, for scorers."""
        return Look(self, [row for row, trace in enumerate(self.traces + self.stopped) if wants(trace)])

    def steps(self, rows: Sequence[int], tokens: Sequence[int], first: Sequence[int] | None = None) -> list[Steps]:
        """What running or just stopped rows remember, up to so many tokens each; without so many at the beginning."""
        return self._rows.steps(rows, tokens, first)

    def snapshot(self) -> list[Trace]:
        """The traces as they stood after the last whole stride, steps and all, to be resumed later.

        May be called at any moment, also when an interrupt broke an `advance`.
        """
        rows = [row for row, trace in enumerate(self.traces) if trace.tokens]
        kept = self.steps(rows, [self.traces[row].tokens for row in rows])
        running = [(self.traces[row], steps) for row, steps in zip(rows, kept, strict=True)]
        taken = [replace(trace, scores=list(trace.scores), steps=steps) for trace, steps in running]
        return [*map(reopen, taken), *self.suspended]

    # -- out of memory ----------------------------------------------------------------------------

    def _retreat(self, before: Sequence[tuple[Trace, int]], error: Exception) -> None:
        """Suspend all traces as they stood before a stride, those that stopped within it included, and go on with less."""
        stored, entries = self.cache_bytes, self._admission.entries([trace for trace, _ in before])
        self._rows.reader.forget()
        self._rows.leave(list(self.traces), drawn=True)
        for trace, tokens in before:
            assert trace.steps is not None
            trace.tokens, trace.status, trace.reason = tokens, Status.RUNNING, ""
            trace.steps = trace.steps.first(tokens) if tokens else None
            reopen(trace)
        self._rows.release()
        self._smaller(stored, error)
        self._admission.suspend([trace for trace, _ in before], entries)

    def _give_up(self, entering: Sequence[Entry], error: Exception) -> None:
        """Let entries wait again that could not be placed; a smaller budget also reads fewer prompts at once."""
        stored = self.cache_bytes if self.traces else (self._memory.budget or 0)
        self._rows.reader.forget()
        self._rows.abandon([trace for entry in entering for trace in entry.traces])
        self._smaller(stored, error)
        self._admission.waiting.extendleft(reversed(entering))

    def _smaller(self, stored: int, error: Exception) -> None:
        """Lower the budget below `stored` bytes after an error that says that memory ran out; any other one is raised."""
        if not ran_out(error):
            raise error
        budget = int(SMALLER * min(stored, self._memory.budget or stored))
        if budget < self.backbone.row_bytes(AT_LEAST):
            raise ModelError("the device ran out of memory even with a minimal KV cache. Try: a smaller model, --quantize "
                             "int8, or fewer --max-tokens") from error  # fmt: skip
        log.warning(f"the device ran out of memory: continuing with at most {gib(budget)} of KV cache")
        self._memory.budget = self._rows.cache.budget = budget
        self.backbone.give_back()

    # -- one step ---------------------------------------------------------------------------------

    def _step(self) -> list[Trace]:
        """Draw the next step of every running row, remember it, and let rows leave that ended or reached a limit."""
        n, slots = len(self.traces), self._rows.slots
        drawn = self._sample(self._rows.logits[:n], slots, self.traces)
        self._rows.pending[:n] = merged(self.backbone.embed(drawn.step.ids), drawn.step.weights)
        _, tokens, places = self._sample.resident(slots, n)
        self._rows.history.remember(drawn.step, places, tokens, int(slots.tokens[:n].max()))
        slots.tokens[:n] += 1
        self._sample.resident.count()
        for row in np.flatnonzero(drawn.closed):
            trace = self.traces[row]
            trace.closing = "model" if not drawn.forced[row] else "cold stop" if drawn.cold[row] else "thinking budget"
            trace.thinking_tokens = int(slots.tokens[row])
        slots.turn(drawn.closed, drawn.opened)
        return self._end(n, drawn.ended)

    def _end(self, n: int, ended: np.ndarray) -> list[Trace]:
        slots = self._rows.slots
        strings = self._stop_strings(n)
        full, late = slots.tokens[:n] >= slots.limits[:n], now() > slots.deadlines[:n]
        reasons = (("end of sequence", ended), ("stop string", strings), ("token limit", full), ("time limit", late))
        rows = np.flatnonzero(ended | strings | full | late)
        leaving = [self.traces[row] for row in rows]
        for row, trace in zip(rows, leaving, strict=True):
            trace.status = Status.FINISHED if ended[row] or strings[row] else Status.TRUNCATED
            trace.reason = next(name for name, where in reasons if where[row])
        return self._rows.leave(leaving, drawn=True)

    def _stop_strings(self, n: int) -> np.ndarray:
        """Which of the first n rows end in one of their stop strings."""
        found = np.zeros(n, dtype=bool)
        if not any(option.ending.stop for option in self._sample.options):
            return found
        options = self._rows.slots.options[:n]
        for option in np.unique(options).tolist():
            strings = self._sample.options[option].ending.stop
            if strings:
                criteria = self._stops(strings)
                rows = np.flatnonzero(options == option)
                slots = self._rows.slots
                last = self._rows.history.last_ids(slots.places[rows], slots.tokens[rows], criteria.reach)
                found[rows] = criteria.ended(last)
        return found

    def _forward_and_read(self, probes: Probes) -> None:
        """The last pass of a stride, with what the probes read."""
        traces = self.traces + self.stopped
        self._readings = np.full(len(traces), np.nan)
        wanted = {probe: [row for row, t in enumerate(traces) if wants(t)] for probe, wants in probes.items()}
        probe = next(iter(probes))
        others = any(wanted[other] for other in probes if other is not probe)
        if len(wanted[probe]) == len(traces) and not others and not self.backbone.kinds.recurrent:
            self._forward(probe, stopped=True)
            return
        self._forward(stopped=True)
        for probe, rows in wanted.items():
            if rows:
                self._read(probe, rows)

    def _forward(self, probe: ProbeColumn | None = None, stopped: bool = False) -> None:
        """Feed the pending inputs of the running rows, with what has just stopped as well, a probe behind each if there is one."""
        rows, n = self._rows, len(self.traces)
        order: list[int] | None = None  # of the rows, as they are
        pieces = rows.pieces()
        if stopped and self.stopped:
            order, pieces = rows.pieces_of(range(n + len(self.stopped)))
        taken = slice(n) if order is None else order
        embeddings = rows.pending[taken][:, None]
        if probe is not None:
            beside = probe.embeddings.to(embeddings.dtype).expand(len(embeddings), -1, -1)
            beside = pad(beside, (0, embeddings.shape[-1] - beside.shape[-1]))
            with self.backbone.lock, probe.probing(beside.shape[1]):
                logits, hidden = self._pass(pieces, taken, torch.cat([embeddings, beside], 1), probe)
            self._note(probe, range(n) if order is None else order, hidden[:, 1:])
        else:
            logits, _ = self._pass(pieces, taken, embeddings)
        if order is None:
            rows.logits[:n] = logits
        else:
            running = [at for at, row in enumerate(order) if row < n]
            rows.logits[:n] = logits[running]  # a pass goes lane by lane, as running rows do
        rows.slots.lengths[taken] += 1

    def _read(self, probe: ProbeColumn, rows: Sequence[int]) -> None:
        """What a probe reads of these rows, in a pass of its own that writes nothing that counts."""
        order, pieces = self._rows.pieces_of(rows)
        beside = probe.embeddings.to(self.backbone.dtype).expand(len(order), -1, -1)
        with self.backbone.lock, probe.probing(beside.shape[1]):
            _, hidden = self._pass(pieces, order, beside, probe, kept=False)
        at = [order.index(row) for row in rows]
        self._note(probe, rows, hidden[at])

    def _note(self, probe: ProbeColumn, rows: Sequence[int], hidden: Tensor) -> None:
        self._readings[list(rows)] = probe.read(hidden).float().cpu().numpy()
        traces = self.traces + self.stopped
        for row in rows:
            traces[row].probe_tokens += hidden.shape[1]

    def _pass(
        self, pieces: Sequence[Piece], rows: slice | Sequence[int], inputs: Tensor, probe: ProbeColumn | None = None,
        kept: bool = True,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One forward pass over pieces of lanes: inputs [B, q, ...] behind what counts → logits [B, V], hidden [B, q, H]."""
        starts = self._rows.slots.lengths[rows]
        return self.backbone.decode_pass(
            self._rows.cache, pieces, starts, inputs, kept, True if probe is None else probe
        )
