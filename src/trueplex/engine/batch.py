"""Batch: the traces that are being thought, whatever requests they belong to, and the one decode step.

A row of the batch is a trace: its slot in the KV cache, its next logits, its pending input and its
history. Running rows are the prefix [0, n); rows that stopped since the last `admit` stand behind them, so
that a probe can still read their last token, and are free from the next `admit` on. Decisions about
traces are made outside, from their numbers.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trueplex.clock import now
from trueplex.engine.history import History
from trueplex.engine.interrupts import uninterrupted
from trueplex.engine.limits import StopStrings
from trueplex.engine.prefill import inputs_of, prefill, prompt_inputs
from trueplex.engine.probing import ProbeColumn
from trueplex.engine.slots import Entry, Limits, Slots
from trueplex.engine.step import Sampler
from trueplex.engine.thinking import merged
from trueplex.models.attention import BLOCKS_ON_ACCELERATORS, row_blocks
from trueplex.models.backbone import Backbone
from trueplex.models.cache import Plan, SlotCache
from trueplex.types import Status, Steps, Stop, Trace

ROWS = {"cpu": 64, "mps": 64, "cuda": 256}  # traces decoded together unless the caller says
Wants = Callable[[Trace], bool]
Probes = Mapping[ProbeColumn, Wants]  # which traces each probe reads, asked when the stride ends


class Batch:
    """Traces being decoded together; `submit` them, then `admit` and `advance` in turn.

    Args:
        rows: traces decoded together, at most; None is the device's own number. Traces that must enter together and
            are more raise it.

    Attributes:
        traces: the running traces, in row order.
        stopped: those that stopped since the last `admit`, in the order of their rows, behind the running ones.
        waiting: what waits for rows, first come, first served.
        prompt_tokens: by request, how many tokens of its prompt were read: once for all traces that enter together.
    """

    def __init__(self, backbone: Backbone, rows: int | None = None) -> None:
        self.backbone = backbone
        self.rows = rows or ROWS.get(backbone.device.type, ROWS["cpu"])
        self.waiting: deque[Entry] = deque()
        self.traces: list[Trace] = []
        self.stopped: list[Trace] = []
        self.prompt_tokens: Counter[int] = Counter()
        self._readings = np.zeros(0)  # of all rows, NaN where no probe read
        self._stops: dict[tuple[str, ...], StopStrings] = {}
        self._limits = Limits(backbone.max_positions, backbone.default_max_tokens)
        device = backbone.device
        self._most_blocks = None if device.type == "cpu" else BLOCKS_ON_ACCELERATORS
        self._cache = SlotCache(backbone.layers, 0)
        self._sample = Sampler(backbone)
        self._slots, self._history = Slots(backbone.markers), History(device)
        self._logits = torch.empty(0, backbone.config.vocab_size, device=device)
        self._pending = torch.empty(0, backbone.hidden_size, dtype=backbone.dtype, device=device)

    def __bool__(self) -> bool:
        return bool(self.traces or self.waiting)

    @property
    def cache_bytes(self) -> int:
        """What the KV cache holds, in bytes."""
        return self._cache.nbytes()

    # -- requests come and go ---------------------------------------------------------------------

    def submit(self, entry: Entry, first: bool = False) -> None:
        """Let an entry wait for rows, behind all others or before them."""
        if entry.together:
            self.rows = max(self.rows, len(entry.traces))
        if first:
            self.waiting.appendleft(entry)
        else:
            self.waiting.append(entry)

    def withdraw(self, requests: Collection[int]) -> None:
        """Forget what waits of these requests."""
        self.waiting = deque(entry for entry in self.waiting if entry.request not in requests)

    @torch.inference_mode()
    def admit(self, ready: Callable[[int], bool] = lambda request: True) -> list[int]:
        """Give free rows to waiting entries of requests that are ready; returns the requests of those that enter.

        Traces that stopped give their rows away here.
        """
        self.stopped.clear()
        entering, kept, free = list[Entry](), list[Entry](), self.rows - len(self.traces)
        while self.waiting and free:
            entry = self.waiting.popleft()
            if not ready(entry.request):
                kept.append(entry)
            elif entry.together and len(entry.traces) > free:
                kept.append(entry)
                break  # who came later may not overtake
            else:
                entering.append(entry.split(free))
                free -= len(entering[-1].traces)
                if entry.traces:
                    kept.append(entry)
        self.waiting.extendleft(reversed(kept))
        if entering:
            with uninterrupted():
                self._reserve(entering)
                self._place(entering)
        return [entry.request for entry in entering]

    # -- decoding ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def advance(self, stride: int, probes: Probes | None = None) -> list[Trace]:
        """Grow every running trace by up to `stride` tokens; returns those that stopped, in that order.

        Each probe reads the traces that it wants right after their last token, those that stopped within the stride
        included: in the last forward pass where one probe wants every row, else in a pass of its own, which leaves
        the cache as it was.

        Raises:
            ModelError: the model gave logits that are not finite.
        """
        stopped: list[Trace] = []
        self._readings = np.zeros(0)
        for step in range(stride):
            with uninterrupted():
                stopped += self._step()
            last = step == stride - 1 or not self.traces
            if last and probes:
                self._forward_and_read(probes)
            elif self.traces:
                self._forward(len(self.traces), None)
            if last:
                break
        for trace, tokens in zip(self.traces, self._slots.tokens, strict=False):
            trace.tokens = int(tokens)
        return stopped

    @torch.inference_mode()
    def stop(self, stops: Iterable[Stop]) -> list[Trace]:
        """Stop running traces at once; their rows are free from the next `admit` on. One without a token never was."""
        leaving = []
        for stop in stops:
            stop.trace.status, stop.trace.reason = stop.status, stop.reason
            leaving.append(stop.trace)
        with uninterrupted():
            return [trace for trace in self._leave(leaving) if trace.tokens]

    def look(self, wants: Wants) -> Look:
        """Those of the traces that run or have just stopped that are wanted, for scorers."""
        return Look(self, [row for row, trace in enumerate(self.traces + self.stopped) if wants(trace)])

    def snapshot(self) -> list[Trace]:
        """The running traces as they stood after the last whole stride, steps and all, to be resumed later.

        May be called at any moment, also when an interrupt broke an `advance`.
        """
        rows = [row for row, trace in enumerate(self.traces) if trace.tokens]
        kept = self._steps(rows, [self.traces[row].tokens for row in rows])
        return [_suspended(self.traces[row], steps) for row, steps in zip(rows, kept, strict=True)]

    # -- one step ---------------------------------------------------------------------------------

    def _step(self) -> list[Trace]:
        """Draw the next step of every running row, remember it, and let rows leave that ended or reached a limit."""
        n, slots = len(self.traces), self._slots
        drawn = self._sample(self._logits[:n], slots, self.traces)
        self._pending[:n] = merged(self.backbone.embed(drawn.step.ids), drawn.step.weights)
        self._history.remember(drawn.step, slots.tokens[:n])
        slots.tokens[:n] += 1
        for row in np.flatnonzero(drawn.closed):
            trace = self.traces[row]
            trace.closing = "model" if not drawn.forced[row] else "cold stop" if drawn.cold[row] else "thinking budget"
            trace.thinking_tokens = int(slots.tokens[row])
        slots.turn(drawn.closed, drawn.opened)
        return self._end(n, drawn.ended)

    def _end(self, n: int, ended: np.ndarray) -> list[Trace]:
        slots = self._slots
        strings = self._stop_strings(n)
        full, late = slots.tokens[:n] >= slots.limits[:n], now() > slots.deadlines[:n]
        reasons = (("end of sequence", ended), ("stop string", strings), ("token limit", full), ("time limit", late))
        rows = np.flatnonzero(ended | strings | full | late)
        leaving = [self.traces[row] for row in rows]
        for row, trace in zip(rows, leaving, strict=True):
            trace.status = Status.FINISHED if ended[row] or strings[row] else Status.TRUNCATED
            trace.reason = next(name for name, where in reasons if where[row])
        return self._leave(leaving)

    def _stop_strings(self, n: int) -> np.ndarray:
        """Which of the first n rows end in one of their stop strings."""
        found = np.zeros(n, dtype=bool)
        if not any(option.ending.stop for option in self._sample.options):
            return found
        options = self._slots.options[:n]
        for option in np.unique(options).tolist():
            strings = self._sample.options[option].ending.stop
            if strings:
                if strings not in self._stops:
                    self._stops[strings] = StopStrings(self.backbone.tokenizer, strings)
                criteria = self._stops[strings]
                rows = np.flatnonzero(options == option)
                found[rows] = criteria.ended(self._history.last_ids(rows, self._slots.tokens[rows], criteria.reach))
        return found

    def _forward_and_read(self, probes: Probes) -> None:
        """The last pass of a stride, with what the probes read."""
        traces = self.traces + self.stopped
        self._readings = np.full(len(traces), np.nan)
        wanted = {probe: [row for row, t in enumerate(traces) if wants(t)] for probe, wants in probes.items()}
        probe = next(iter(probes))
        if len(wanted[probe]) == len(traces) and not any(wanted[other] for other in probes if other is not probe):
            self._forward(len(traces), probe)
            return
        self._forward(len(traces), None)
        for probe, rows in wanted.items():
            if rows:
                self._read(probe, rows)

    def _forward(self, rows: int, probe: ProbeColumn | None) -> None:
        """Feed the pending inputs of the first `rows` rows, a probe behind each if there is one."""
        embeddings = self._pending[:rows, None]
        if probe is None:
            self._logits[:rows], _ = self._pass(slice(0, rows), embeddings)
        else:
            beside = probe.embedding.to(embeddings.dtype).expand(rows, 1, -1)
            with probe.probing(1):
                self._logits[:rows], hidden = self._pass(slice(0, rows), torch.cat([embeddings, beside], 1))
            self._note(probe, range(rows), hidden[:, 1])
        self._slots.lengths[:rows] += 1

    def _read(self, probe: ProbeColumn, rows: Sequence[int]) -> None:
        """What a probe reads of these rows, in a pass of its own that writes nothing that counts."""
        span = slice(rows[0], rows[-1] + 1)  # neighbours, mostly: a row between costs less than moving its cache
        beside = probe.embedding.to(self._pending.dtype).expand(span.stop - span.start, 1, -1)
        with probe.probing(1):
            _, hidden = self._pass(span, beside)
        self._note(probe, rows, hidden[torch.tensor(rows, device=hidden.device) - span.start, 0])

    def _note(self, probe: ProbeColumn, rows: Sequence[int], hidden: Tensor) -> None:
        self._readings[list(rows)] = probe.read(hidden).float().cpu().numpy()
        traces = self.traces + self.stopped
        for row in rows:
            traces[row].probe_tokens += 1

    def _pass(self, rows: slice, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """One forward pass of neighbouring rows: inputs [B, q, H] behind what counts → logits [B, V], hidden [B, q, H]."""
        lengths, columns = self._slots.lengths[rows], embeddings.shape[1]
        shared = int(lengths[0]) if (lengths == lengths[0]).all() else None
        # Rows of one length share one mask and one set of rotary angles.
        start = lengths[:1] if shared is not None else lengths
        positions = torch.from_numpy(start[:, None] + np.arange(columns)).to(self.backbone.device)
        seen = int(lengths.max()) + columns
        self._cache.write(Plan(rows.start, rows.stop, positions, seen, shared))
        return self.backbone.forward(
            embeddings, positions, self._cache, seen, whole=shared is not None and columns == 1,
            row_blocks=() if shared is not None else row_blocks(lengths + columns, self._most_blocks),
            shared_prefix=self._shared_prompt(rows) if shared is not None else 0,
        )  # fmt: skip

    def _shared_prompt(self, rows: slice) -> int:
        """How many first columns all rows have in common: their prompt, when it is one request's."""
        requests = self._slots.requests[rows]
        return int(self._slots.prompts[rows.start]) if (requests == requests[0]).all() else 0

    # -- rows come and go -------------------------------------------------------------------------

    def _steps(self, rows: Sequence[int], tokens: Sequence[int]) -> list[Steps]:
        widths = [self._sample.options[option].k for option in self._slots.options[list(rows)]]
        return self._history.steps(rows, tokens, widths)

    def _leave(self, traces: Sequence[Trace]) -> list[Trace]:
        """Take running traces out of the prefix, keep what they remember, and put their rows behind the running ones.

        All in one move: where each row costs a dozen small kernels, many that leave together would cost a step.
        """
        if not traces:
            return []
        going = {id(trace) for trace in traces}
        rows = [row for row, trace in enumerate(self.traces) if id(trace) in going]
        assert len(rows) == len(going), "a trace that does not run cannot leave"
        tokens = self._slots.tokens[rows].tolist()
        for row, count, steps in zip(rows, tokens, self._steps(rows, tokens), strict=True):  # before the swap
            trace = self.traces[row]
            trace.tokens, trace.steps = count, steps
            if not self._slots.answering[row]:
                trace.thinking_tokens = trace.tokens
        gone = [self.traces[row] for row in reversed(rows)]
        left = len(self.traces) - len(rows)
        staying = [row for row in range(left, len(self.traces)) if id(self.traces[row]) not in going]
        self._swap([row for row in rows if row < left], staying)
        self.stopped[:0] = self.traces[left:]
        del self.traces[left:]
        self._slots.version += 1
        return gone

    def _swap(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Exchange rows pair by pair; no row is in two pairs."""
        if not some:
            return
        rows, new = [*some, *others], [*others, *some]
        self._slots.swap(rows, new)
        places, sources = torch.tensor([rows, new], device=self.backbone.device)
        self._cache.swap(places, sources, int(self._slots.lengths[rows].max()) + 1)
        for tensor in (self._logits, self._pending):
            tensor[places] = tensor[sources]
        self._history.swap(places, sources)
        moved = [self.traces[row] for row in new]
        for row, trace in zip(rows, moved, strict=True):
            self.traces[row] = trace

    def _reserve(self, entries: Sequence[Entry]) -> None:
        """Have tensors for the rows of these entries beside those that run."""
        rows = len(self.traces) + sum(len(entry.traces) for entry in entries)
        if rows > len(self._logits):
            rows = min(self.rows, max(rows, 2 * len(self._logits)))
            self._logits, self._pending = (_extended(t, rows) for t in (self._logits, self._pending))
        self._slots.reserve(rows)
        self._history.reserve(rows, max(entry.thinking.k for entry in entries))

    def _place(self, entries: list[Entry]) -> None:
        """Prefill each prompt once for all its new traces, and each suspended trace by itself."""
        first = len(self.traces)
        new = [(entry, [t for t in entry.traces if t.steps is None]) for entry in entries]
        new = [(entry, traces) for entry, traces in new if traces]
        if new:
            inputs = [prompt_inputs(self.backbone, entry.prompt.ids) for entry, _ in new]
            logits = prefill(self.backbone, self._cache, inputs, first)
            for entry, _ in new:
                self.prompt_tokens[entry.request] += len(entry.prompt.ids)
            owners = torch.repeat_interleave(torch.tensor([len(traces) for _, traces in new])).to(self.backbone.device)
            self._cache.copy_rows(first, first + owners, max(len(entry.prompt.ids) for entry, _ in new))
            self._logits[first : first + len(owners)] = logits[owners]
            for entry, traces in new:
                for trace in traces:
                    self._assign(entry, trace)
        resumed = [(entry, t) for entry in entries for t in entry.traces if t.steps is not None]
        if resumed:
            first = len(self.traces)
            inputs = [inputs_of(self.backbone, e.prompt.ids, t.steps) for e, t in resumed if t.steps is not None]
            self._logits[first : first + len(resumed)] = prefill(self.backbone, self._cache, inputs, first)
            for entry, trace in resumed:
                self._assign(entry, trace)

    def _assign(self, entry: Entry, trace: Trace) -> None:
        """The next row is this trace's; its keys and values are in the cache already."""
        row = len(self.traces)
        self._slots.assign(row, entry, trace, self._sample.option(entry.thinking), self._limits)
        if trace.steps is not None:
            self._history.restore(row, trace.steps)
            trace.steps = None  # a running trace remembers in the batch
        self.traces.append(trace)


class Look:
    """What scorers see: traces that run or have just stopped.

    Attributes:
        traces: those to score, in order.
        readings: what the last probe read of each [n] float64, None where none did.
    """

    def __init__(self, batch: Batch, rows: Sequence[int]) -> None:
        self._batch, self._rows = batch, rows
        traces = batch.traces + batch.stopped
        self.traces = [traces[row] for row in rows]
        readings = batch._readings[list(rows)] if len(batch._readings) == len(traces) else np.zeros(0)
        self.readings = readings if len(readings) and not np.isnan(readings).any() else None

    def steps(self) -> Iterator[Steps]:
        """What each trace remembers, up to its last token."""
        yield from self._batch._steps(self._rows, [trace.tokens for trace in self.traces])


def _suspended(running: Trace, steps: Steps) -> Trace:
    trace = replace(running, scores=list(running.scores), steps=steps)
    if (
        trace.closing != "prompt" and not 0 < trace.thinking_tokens <= trace.tokens
    ):  # thinks still, or was closed within a stride that broke off
        trace.thinking_tokens, trace.closing = 0, ""
    return trace


def _extended(old: Tensor, rows: int) -> Tensor:
    new = old.new_empty(rows, old.shape[1])
    new[: len(old)] = old
    return new
