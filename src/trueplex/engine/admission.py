"""Who waits for rows and memory, who enters next, and who is suspended for the others to go on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from trueplex.engine.memory import Memory, gib
from trueplex.engine.rows import Rows
from trueplex.engine.slots import Entry
from trueplex.types import Status, Trace

log = logging.getLogger(__name__)


class Admission:
    """First come, first served, as far as rows and memory go; suspended traces come before all others.

    Args:
        most: traces decoded together, at most. Traces that must enter together and are more raise it.
    """

    def __init__(self, rows: Rows, memory: Memory, most: int) -> None:
        self._rows, self._memory, self.most = rows, memory, most
        self.waiting: deque[Entry] = deque()

    @property
    def suspended(self) -> list[Trace]:
        """Those that wait because the memory did not suffice, with their steps."""
        return [trace for entry in self.waiting if entry.suspended for trace in entry.traces]

    def submit(self, entry: Entry, first: bool = False) -> None:
        """Let an entry wait behind all others or before them. Raises InputError when not even one trace of it fits."""
        self._memory.check(entry)
        if entry.together:
            self.most = max(self.most, len(entry.traces))
        if first:
            self.waiting.appendleft(entry)
        else:
            self.waiting.append(entry)

    def withdraw(self, requests: Collection[int], reason: str) -> list[Trace]:
        """Forget what waits of these requests; the traces among it that were suspended for memory end, and are returned."""
        self._rows.reader.forget(requests)
        suspended = [trace for trace in self.suspended if trace.request in requests]
        for trace in suspended:
            trace.status, trace.reason = Status.TRUNCATED, reason
            if not trace.closing:
                trace.thinking_tokens = trace.tokens
        self.waiting = deque(entry for entry in self.waiting if entry.request not in requests)
        return suspended

    def entering(self, ready: Callable[[int], bool]) -> list[Entry]:
        """Take out what may enter now of the entries whose requests are ready.

        A long prompt may have to be read first, beside the running rows; rows and memory are kept for its traces meanwhile.
        """
        entering, read, kept, free = list[Entry](), list[Entry](), list[Entry](), self.most - len(self._rows.traces)
        while self.waiting and free:
            entry = self.waiting.popleft()
            if not ready(entry.request):
                kept.append(entry)
                continue
            idle = not self._rows.traces and not entering
            fits = min(free, self._memory.room(entry, [*entering, *read]))
            if fits < len(entry.traces) and entry.together:
                if not idle:
                    kept.append(entry)
                    break  # who came later may not overtake
                log.warning(f"{len(entry.traces)} paths that are compared with each other do not fit into "
                            f"{gib(self._memory.budget or 0)} of KV cache: comparing {max(fits, 1)} at a time")  # fmt: skip
            if fits and self._rows.reads_first(entry):
                kept.append(entry)
                if self._rows.reader.has(entry):
                    read.append(entry)
                    free -= fits
                continue
            if fits := max(fits, int(idle)):  # one fits, as `submit` saw
                entering.append(entry.split(fits))
                free -= fits
            if entry.traces:
                kept.append(entry)
                break
        self.waiting.extendleft(reversed(kept))
        return entering

    def make_room(self, tokens: int) -> None:
        """Suspend the youngest traces until the others can grow by so many tokens within the memory.

        Traces of a request that compares them are suspended together, unless no other request runs. Before all, a prompt that
        is being read is given up: it came last.
        """
        if self._memory.over(tokens):
            self._rows.reader.forget()
        while len(self._rows.traces) > 1 and self._memory.over(tokens):
            traces, slots = self._rows.traces, self._rows.slots
            row = int(slots.entered[: len(traces)].argmax())
            leaving = [traces[row]]
            if slots.entries[row].together:
                all_of_it = [trace for trace in traces if trace.request == traces[row].request]
                leaving = all_of_it if len(all_of_it) < len(traces) else leaving
            entries = self.entries(leaving)
            for trace in self._rows.leave(leaving):
                reopen(trace)
            self._rows.release()
            self.suspend(leaving, entries)
        self._memory.make_room(tokens)

    def entries(self, traces: Sequence[Trace]) -> dict[int, Entry]:
        """The entries that traces which run or have just stopped came with, by their ids."""
        own, rows = {id(trace) for trace in traces}, [*self._rows.traces, *self._rows.stopped]
        return {id(t): e for t, e in zip(rows, self._rows.slots.entries, strict=False) if id(t) in own}

    def suspend(self, traces: Sequence[Trace], entries: Mapping[int, Entry]) -> None:
        """Let traces that have left, whose entries are given by their ids, wait before all others, request by request."""
        waiting: dict[int, Entry] = {}
        for trace in sorted(traces, key=lambda t: (t.steps is not None, t.index)):
            came = entries[id(trace)]
            own = replace(came, traces=[], together=False, suspended=True)
            waiting.setdefault(came.request, own).traces.append(trace)
        self.waiting.extendleft(reversed(waiting.values()))


def reopen(trace: Trace) -> Trace:
    """A trace that left before its end thinks still, unless its thinking was closed before."""
    closed = trace.closing and 0 < trace.thinking_tokens <= trace.tokens
    if trace.closing != "prompt" and not closed:
        trace.thinking_tokens, trace.closing = 0, ""
    return trace
