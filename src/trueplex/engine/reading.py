"""A prompt that is read by itself: in chunks between the steps of running rows, and behind what another prompt has in common with it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from torch import Tensor

from trueplex.engine.prefill import PREFILL_TOKENS, prompt_inputs
from trueplex.engine.slots import Entry
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import Lane, LaneCache, Prefix, rounded

# Tokens whose computing takes about as long as reading the weights, which every step does: the least that a chunk has
CHUNK = {"cpu": 32, "mps": 64, "cuda": 256}
WHOLE = 8  # chunks: a shorter prompt is read at once, between two steps


class Reading:
    """A prompt in a lane of its own, which is in no batch, as far as it has been read.

    Args:
        known: a stored prompt that begins with the same tokens, and how many: these are copied.
    """

    def __init__(
        self, backbone: Backbone, cache: LaneCache, entry: Entry, known: tuple[Prefix, int] | None = None
    ) -> None:
        self.entry, self._backbone = entry, backbone
        self._inputs = prompt_inputs(backbone, entry.prompt.ids)
        self.lane = Lane(cache, 1, None, rounded(len(entry.prompt.ids)))
        self._prefix: Prefix | None = known[0] if known else None
        self._at = min(known[1], len(self._inputs) - 1) if known else 0

    @property
    def left(self) -> int:
        """Tokens before the last one that are still to be read."""
        return len(self._inputs) - 1 - self._at

    def more(self, tokens: int) -> None:
        """Read so many tokens more; the last one is left, as its logits are what the rows begin with."""
        if tokens := min(tokens, self.left):
            self._pass(tokens)
            self._at += tokens

    def finish(self) -> Tensor:
        """Read what is left; the next logits [V]."""
        while self.left:
            self.more(PREFILL_TOKENS)
        return self._pass(1)[0]

    def _pass(self, tokens: int) -> Tensor:
        if self._prefix:
            self.lane.copy(self._prefix, self._at)
            self._prefix = None
        inputs = self._inputs[None, self._at : self._at + tokens]
        logits, _ = self._backbone.decode_pass(self.lane.cache, [(self.lane, 0, 1)], np.array([self._at]), inputs)
        return logits


class Reader:
    """Which prompt is read in chunks while rows run; one at a time.

    A chunk has as many tokens as there are running rows, and at least `CHUNK`: it then costs about what their step costs, and
    two steps' time passes between two tokens of a row, however long the prompt is.

    Args:
        chunked: whether running rows must not wait for a long prompt. It takes longer until that is read, so work that
            nobody watches is done sooner without.
    """

    def __init__(self, backbone: Backbone, cache: LaneCache, chunked: bool) -> None:
        self._backbone, self._cache = backbone, cache
        self._chunk = CHUNK.get(backbone.device.type, CHUNK["cpu"])
        self._chunked = chunked and not (backbone.kinds.recurrent and not backbone.reads_on)
        self._reading: Reading | None = None

    @property
    def nbytes(self) -> int:
        """What the prompt that is being read takes, once all of it is."""
        return self._backbone.row_bytes(self._reading.lane.columns) if self._reading else 0

    def has(self, entry: Entry) -> bool:
        """Whether the prompt of this entry has been read, or a part of it."""
        own = self._reading.entry if self._reading else None
        return own is not None and (own.request, own.prompt) == (entry.request, entry.prompt)

    def later(self, entry: Entry, known: Callable[[Entry], tuple[Prefix, int] | None]) -> bool:
        """Whether an unread entry has to wait until its prompt was read in chunks, which begins here if no other is being read.

        ``known`` finds what of it is stored already.
        """
        if not self._chunked or len(entry.prompt.ids) <= WHOLE * self._chunk:
            return False
        if self._reading is None:
            self._reading = Reading(self._backbone, self._cache, entry, known(entry))
        return not self.has(entry) or self._reading.left > 0

    def more(self, rows: int) -> None:
        """Read another chunk, beside so many rows."""
        if self._reading:
            self._reading.more(max(rows, self._chunk))

    def take(self) -> Reading:
        """The prompt, as far as it has been read; another one may be next."""
        reading, self._reading = self._reading, None
        assert reading is not None, "no prompt is being read"
        return reading

    def forget(self, requests: Collection[int] | None = None) -> None:
        """Give up what was read, if it is of these requests, or whosever it is."""
        if self._reading and (requests is None or self._reading.entry.request in requests):
            self.take().lane.free()
