"""The budget of KV: what rows need now and next, how many more fit, and what is free on a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import psutil
import torch

from trueplex.engine.rows import Rows
from trueplex.engine.slots import Entry
from trueplex.errors import InputError
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import Lane, rounded

SHARE = {"cuda": 0.8, "cpu": 0.5}  # of the memory that is free when a batch is made: the default budget
AHEAD = (
    256  # tokens by which all rows must still be able to grow before another one enters: else it would soon leave again
)
PROBES = 8  # columns behind a row's end that probes may write


def free_share(device: torch.device) -> int | None:
    """The default budget in bytes on this device; None where what is free is unknown."""
    if device.type == "cuda":
        return int(SHARE["cuda"] * torch.cuda.mem_get_info(device)[0])
    return int(SHARE["cpu"] * psutil.virtual_memory().available) if device.type == "cpu" else None


def gib(nbytes: float) -> str:
    return f"{nbytes / 2**30:.2f} GiB"


class Memory:
    """What the rows of a batch need of a budget of KV, in bytes; a budget of None is never spent."""

    def __init__(self, backbone: Backbone, rows: Rows, budget: int | None) -> None:
        self._backbone, self._rows, self.budget = backbone, rows, budget

    def grown(self, tokens: int) -> int:
        """What is stored when every running row has grown by so many tokens, and a layer of the largest lane twice."""
        lanes, row = self._lanes(tokens), self._backbone.row_bytes
        moving = max((lane.live * row(columns) for lane, columns in lanes), default=0) // self._backbone.sizes.parts
        prefixes = {id(lane.prefix): lane.prefix.nbytes for lane, _ in lanes if lane.live and lane.prefix}
        rows = sum(lane.live * row(columns, lane.dropped) for lane, columns in lanes)
        return rows + sum(prefixes.values()) + self._rows.reader.nbytes + moving

    def _lanes(self, tokens: int) -> list[tuple[Lane, int]]:
        """The lanes, and the columns that each will have."""
        slots, needs, first = self._rows.slots, list[tuple[Lane, int]](), 0
        for lane in self._rows.cache.lanes:
            own = slice(first, first + lane.live)
            first += lane.live
            ends = np.minimum(slots.lengths[own] + tokens, slots.prompts[own] + slots.limits[own])
            columns = rounded(int(ends.max()) + PROBES - lane.before) if lane.live else 0
            needs.append((lane, max(columns, lane.columns)))
        return needs

    def over(self, tokens: int) -> bool:
        """Whether rows that grow by so many tokens pass the budget."""
        return self.budget is not None and self.grown(tokens) > self.budget

    def room(self, entry: Entry, entering: Sequence[Entry]) -> int:
        """How many traces of an entry fit beside the running rows and those that enter now, with some tokens to grow."""
        if self.budget is None:
            return len(entry.traces)
        free = self.budget - self.grown(AHEAD)
        for other in entering:
            fixed, each = self._needs(other)
            free -= fixed + each * len(other.traces)
        fixed, each = self._needs(entry)
        return max(0, min(len(entry.traces), (free - fixed) // each))

    def _needs(self, entry: Entry) -> tuple[int, int]:
        """Bytes that an entry needs once, and for each of its traces."""
        prompt, begun = len(entry.prompt.ids), max(t.tokens for t in entry.traces)
        shared = self._rows.shares(entry)
        limit = max(self._limit(entry), begun)
        own = min(begun + AHEAD, limit) + PROBES + (0 if shared else prompt)
        each, row = self._backbone.row_bytes(rounded(own)), self._backbone.row_bytes
        reading = 0 if self._rows.reader.has(entry) else row(rounded(prompt))
        read = 0 if self._rows.has_prefix(entry) else reading + (row(prompt) if shared else 0)
        return read + each * len(entry.traces) // self._backbone.sizes.parts, each

    def _limit(self, entry: Entry) -> int:
        remaining = self._backbone.max_positions - 1 - len(entry.prompt.ids)
        most, _ = entry.thinking.ending.limits(np.array([remaining]), self._backbone.default_max_tokens)
        return int(most[0])

    def check(self, entry: Entry) -> None:
        """Raise InputError, with the figures, when not even one trace of an entry fits at its full length."""
        if self.budget is None:
            return
        prompt, limit = len(entry.prompt.ids), self._limit(entry)
        needed = self._backbone.row_bytes(rounded(prompt + limit + PROBES)) + self._backbone.row_bytes(rounded(prompt))
        needed += needed // self._backbone.sizes.parts
        if needed > self.budget:
            raise InputError(
                f"one path of up to {limit:,} tokens behind a prompt of {prompt:,} needs {gib(needed)} of KV cache, and the budget is "
                f"{gib(self.budget)}. Try: fewer --max-tokens, or more --memory"
            )

    def make_room(self, tokens: int) -> None:
        """Give back what no running row needs, where rows that grow by so many tokens would pass the budget."""
        lanes = self._rows.cache.lanes
        if self.budget is not None and any(lane.rows > lane.live for lane in lanes) and self._wasteful(lanes, tokens):
            self._rows.shrink()

    def _wasteful(self, lanes: Sequence[Lane], tokens: int) -> bool:
        spare = sum((lane.rows - lane.live) * self._backbone.row_bytes(lane.columns, lane.dropped) for lane in lanes)
        return self.budget is not None and self.grown(tokens) + 2 * spare > self.budget
