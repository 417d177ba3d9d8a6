"""LiveBatch: the traces that are being thought, and the one decode loop.

A row of the batch is a trace: its slot in the KV cache, its next logits, its pending input and its
history. Live rows are the prefix [0, n); rows that stopped in this stride wait behind them, so
that a probe can still read their last token, and are freed by the next `advance`, which gives the
room to waiting problems. Decisions about traces are made outside, from their numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trueplex.attention import RowBlock
from trueplex.backbone import Backbone
from trueplex.engine.cache import Plan, SlotCache
from trueplex.engine.sampling import trace_key, uniforms
from trueplex.engine.thinking import Step, Thinking, choose, merged, one_hot, think
from trueplex.errors import ModelError
from trueplex.types import Prompt, Status, Steps, Trace

BLOCK = 16  # rows read together when lengths are ragged
PREFILL_TOKENS = 16384  # padded prompt tokens fed at once: bounds the memory of a prefill
HISTORY = 128  # steps of history allotted at first; doubled when full


def row_blocks(seen: np.ndarray) -> list[RowBlock]:
    """Blocks of neighbouring rows, each with the most columns that one of them sees; seen is [rows].

    Rows admitted together are neighbours and of like length, so one long trace does not make all others
    be read to its length. Empty when blocks would spare too little to pay for themselves.
    """
    blocks = [
        (first, min(first + BLOCK, len(seen)), int(seen[first : first + BLOCK].max()))
        for first in range(0, len(seen), BLOCK)
    ]
    read = sum((last - first) * columns for first, last, columns in blocks)
    return blocks if read < 0.9 * len(seen) * int(seen.max()) else []


class Rider(Protocol):
    """A query column that rides beside each trace's token, reads its KV, and leaves nothing behind."""

    @property
    def embedding(self) -> Tensor:
        """The rider's input embedding, [H]."""

    def riding(self, columns: int) -> AbstractContextManager[None]:
        """What must hold in the model while the last `columns` query columns are riders."""

    def read(self, hidden: Tensor) -> Tensor:
        """Final hidden states [B, H] of the rider's column → values [B]."""


class LiveBatch:
    """Traces being decoded together; make one with `engine.start`.

    Attributes:
        traces: the live traces, in row order.
        finished: every trace that stopped, in the order in which they stopped.
        readings: what the last rider read, for `scorable`; None if none rode.
    """

    def __init__(self, backbone: Backbone, prompts: Sequence[Prompt], paths: int, thinking: Thinking, seed: int,
                 rows: int) -> None:  # fmt: skip
        self.backbone, self.thinking, self.seed, self.paths = backbone, thinking, seed, paths
        self.rows = max(rows, paths)
        self.waiting = deque(prompts)
        self.traces: list[Trace] = []
        self.finished: list[Trace] = []
        self.readings: np.ndarray | None = None
        self._leaving: list[Trace] = []
        self._prompt_tokens: dict[int, int] = {}
        device, k = backbone.device, thinking.k
        self._cache = SlotCache(backbone.layers, 0)
        self._logits = torch.empty(self.rows, backbone.config.vocab_size, device=device)
        self._pending = torch.empty(self.rows, backbone.hidden_size, dtype=backbone.dtype, device=device)
        self._history = Step(
            torch.zeros(self.rows, HISTORY, k, dtype=torch.int32, device=device),
            torch.zeros(self.rows, HISTORY, k, device=device),
            torch.zeros(self.rows, HISTORY, k, device=device),
            torch.zeros(self.rows, HISTORY, device=device),
        )
        self._keys = np.zeros(self.rows, dtype=np.uint64)
        self._lengths = np.zeros(self.rows, dtype=np.int64)  # columns of the cache that count
        self._tokens = np.zeros(self.rows, dtype=np.int64)
        self._limits = np.zeros(self.rows, dtype=np.int64)
        self._answering = np.zeros(self.rows, dtype=bool)

    def __bool__(self) -> bool:
        return bool(self.traces or self.waiting)

    @property
    def scorable(self) -> list[Trace]:
        """The live traces and those that ended by themselves in the last stride: what a rider reads."""
        return self.traces + self._leaving

    @torch.inference_mode()
    def advance(self, stride: int, rider: Rider | None = None) -> None:
        """Grow every live trace by up to `stride` tokens; waiting problems take the freed rows first.

        A rider rides in the last forward pass and reads every trace right after its last token,
        those that ended within the stride included.

        Raises:
            ModelError: the model gave logits that are not finite.
        """
        self._leaving.clear()
        self._admit()
        self.readings = None
        for step in range(stride):
            self._sample()
            last = step == stride - 1 or not self.traces
            rows = len(self.traces) + (len(self._leaving) if rider and last else 0)
            if rows:
                self._forward(rows, rider if last else None)
            if last:
                break
        for trace, tokens in zip(self.traces, self._tokens, strict=False):
            trace.tokens = int(tokens)

    def record(self, scores: Iterable[float] | None) -> None:
        """Add a score to each of `scorable`; None, from a scorer with nothing to say yet, adds none."""
        if scores is None:
            return
        for trace, score in zip(self.scorable, scores, strict=True):
            trace.scores.append((trace.tokens, float(score)))

    @torch.inference_mode()
    def retire(self, traces: Iterable[Trace]) -> None:
        """Stop the given live traces at once; their rows are freed for the next `advance`."""
        for trace in traces:
            trace.status, trace.reason = Status.PRUNED, trace.reason or "policy"
            self._leave(self.traces.index(trace))

    # -- one step ---------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Draw the next step of every live row from its logits, remember it, and let ended rows leave."""
        n, thinking = len(self.traces), self.thinking
        draws = torch.from_numpy(uniforms(self._keys[:n], self._tokens[:n], thinking.k)).to(self.backbone.device)
        logits = self._logits[:n]
        answering = self._answering[:n]
        step = think(logits, draws, thinking.sampling, thinking.merge)
        if answering.any() and thinking.answering != thinking.sampling:
            rows = torch.from_numpy(answering).to(self.backbone.device)
            step = choose(step, think(logits, draws, thinking.answering, thinking.merge), rows)
        emitted = step.ids[:, 0].cpu().numpy()
        if not torch.isfinite(step.entropy).all():
            bad = self.traces[int((~torch.isfinite(step.entropy)).nonzero()[0])]
            raise ModelError(
                f"the logits of trace {bad.index} of problem {bad.problem.id or bad.problem.text[:40]!r} are not finite "
                f"at step {bad.tokens}; mend: load the model in float32 or bfloat16"
            )
        closing = ~answering & (emitted == self.backbone.think_end)
        ending = np.isin(emitted, list(self.backbone.ends))
        plain = answering | closing | ending
        if plain.any():
            step = one_hot(step, torch.from_numpy(plain).to(self.backbone.device))
        self._pending[:n] = merged(self.backbone.embed(step.ids), step.weights)
        self._remember(step, n)
        self._tokens[:n] += 1
        for row in np.flatnonzero(closing):
            self.traces[row].thinking_tokens = int(self._tokens[row])
        self._answering[:n] |= closing
        truncated = ~ending & (self._tokens[:n] >= self._limits[:n])
        for row in np.flatnonzero(ending | truncated)[::-1]:
            trace = self.traces[row]
            trace.status = Status.FINISHED if ending[row] else Status.TRUNCATED
            trace.reason = "end of sequence" if ending[row] else "token limit"
            self._leave(int(row))

    def _remember(self, step: Step, n: int) -> None:
        length = self._history.ids.shape[1]
        if self._tokens[:n].max() >= length:
            self._history = Step(*(torch.cat([t, torch.zeros_like(t)], dim=1) for t in self._history))
        rows = torch.arange(n, device=self.backbone.device)
        at = torch.from_numpy(self._tokens[:n]).to(self.backbone.device)
        for kept, new in zip(self._history, step, strict=True):
            kept[rows, at] = new.to(kept.dtype)

    def _forward(self, rows: int, rider: Rider | None) -> None:
        """Feed the pending inputs of the first `rows` rows, a rider behind each if there is one."""
        lengths = self._lengths[:rows]
        columns = 2 if rider else 1
        shared = int(lengths[0]) if (lengths == lengths[0]).all() else None
        # Rows of one length share one mask and one set of rotary angles.
        start = lengths[:1] if shared is not None else lengths
        positions = torch.from_numpy(start[:, None] + np.arange(columns)).to(self.backbone.device)
        seen = int(lengths.max()) + columns
        self._cache.write(Plan(0, rows, positions, seen, shared))
        blocks = () if shared is not None else row_blocks(lengths + columns)
        embeddings = self._pending[:rows, None]
        prefix = self._shared_prompt() if shared is not None else 0
        if rider is None:
            whole = shared is not None
            logits, _ = self.backbone.forward(
                embeddings, positions, self._cache, seen, whole=whole, row_blocks=blocks,
                shared_prefix=prefix,
            )  # fmt: skip
        else:
            beside = rider.embedding.to(embeddings.dtype).expand(rows, 1, -1)
            with rider.riding(1):
                logits, hidden = self.backbone.forward(
                    torch.cat([embeddings, beside], 1), positions, self._cache, seen, row_blocks=blocks,
                    shared_prefix=prefix,
                )  # fmt: skip
            self.readings = rider.read(hidden[:, 1]).float().cpu().numpy()
            for trace in chain(self.traces, self._leaving):
                trace.probe_tokens += 1
        self._logits[:rows] = logits
        self._lengths[:rows] += 1

    def _shared_prompt(self) -> int:
        """How many first columns all rows have in common: their prompt, when it is one problem's."""
        problem = self.scorable[0].problem
        alike = all(t.problem is problem for t in self.scorable)
        return self._prompt_tokens[problem.key] if alike else 0

    # -- rows come and go -------------------------------------------------------------------------

    def _leave(self, row: int) -> None:
        """Take a live row out of the prefix, keep what it remembers, and put it behind the live rows."""
        trace, last = self.traces[row], len(self.traces) - 1
        tokens = int(self._tokens[row])
        trace.tokens = tokens
        if not self._answering[row]:
            trace.thinking_tokens = tokens
        # History is fetched before the swap; a copy, as the row will be used again.
        trace.steps = Steps(*(t[row, :tokens].cpu().numpy().copy() for t in self._history))
        if row != last:
            self._swap(row, last)
        self.traces.pop()
        self._leaving.insert(0, trace)
        self.finished.append(trace)

    def _swap(self, a: int, b: int) -> None:
        self._cache.swap(a, b, int(max(self._lengths[a], self._lengths[b])) + 1)
        for array in (self._keys, self._lengths, self._tokens, self._limits, self._answering):
            array[[a, b]] = array[[b, a]]
        rows, swapped = torch.tensor([a, b]), torch.tensor([b, a])
        for tensor in (self._logits, self._pending, *self._history):
            tensor[rows] = tensor[swapped]
        self.traces[a], self.traces[b] = self.traces[b], self.traces[a]

    def _admit(self) -> None:
        """Give free rows to waiting problems, all paths of a problem together, prefilled once each."""
        while prompts := self._next_prompts():
            self._place(prompts)

    def _next_prompts(self) -> list[Prompt]:
        """Waiting prompts that fit into the free rows and, padded, into one prefill."""
        prompts: list[Prompt] = []
        free, longest = self.rows - len(self.traces), 0
        while self.waiting and (len(prompts) + 1) * self.paths <= free:
            longest = max(longest, len(self.waiting[0].ids))
            if prompts and (len(prompts) + 1) * longest > PREFILL_TOKENS:
                break
            prompts.append(self.waiting.popleft())
        return prompts

    def _place(self, prompts: list[Prompt]) -> None:
        first, m = len(self.traces), len(prompts)
        lengths = np.array([len(p.ids) for p in prompts])
        self._prefill(prompts, lengths, first)
        owners = np.repeat(np.arange(m), self.paths)
        sources = torch.from_numpy(first + owners).to(self.backbone.device)
        self._cache.copy_rows(first, sources, int(lengths.max()))
        block = slice(first, first + len(owners))
        self._logits[block] = self._logits[sources]
        self._lengths[block] = lengths[owners]
        self._tokens[block] = 0
        self._answering[block] = False
        limit = self.thinking.max_tokens or self.backbone.default_max_tokens
        self._limits[block] = np.minimum(limit, self.backbone.max_positions - 1 - lengths[owners])
        for prompt in prompts:
            self._prompt_tokens[prompt.problem.key] = len(prompt.ids)
            for index in range(self.paths):
                self._keys[len(self.traces)] = trace_key(self.seed, prompt.problem.key, index)
                self.traces.append(Trace(prompt.problem, index, self.seed))

    def _prefill(self, prompts: list[Prompt], lengths: np.ndarray, first: int) -> None:
        """Fill rows first … with the prompts, and their next logits; padding is written but never counts."""
        backbone, m = self.backbone, len(prompts)
        padded = torch.zeros(m, int(lengths.max()), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            padded[row, : lengths[row]] = torch.tensor(prompt.ids)
        embeddings = backbone.embed(padded.to(backbone.device))
        ends = torch.from_numpy(lengths - 1).to(backbone.device)
        before = embeddings.shape[1] - 1
        if before:
            positions = torch.arange(before, device=backbone.device)[None].expand(m, -1)
            self._cache.write(Plan(first, first + m, positions, before, 0))
            backbone.forward(embeddings[:, :-1], positions, self._cache, before)
        # The last token of each prompt is fed by itself, so that ragged prompts need one logit each.
        self._cache.write(Plan(first, first + m, ends[:, None], before + 1, None))
        tails = embeddings[torch.arange(m, device=backbone.device), ends][:, None]
        self._logits[first : first + m], _ = backbone.forward(tails, ends[:, None], self._cache, before + 1)
