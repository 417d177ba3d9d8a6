"""LiveBatch: the traces that are being thought, and the one decode loop.

A row of the batch is a trace: its slot in the KV cache, its next logits, its pending input and its
history. Live rows are the prefix [0, n); rows that stopped in this stride wait behind them, so
that a probe can still read their last token, and are freed by the next `advance`, which gives the
room to waiting problems. Decisions about traces are made outside, from their numbers.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.history import History
from trueplex.engine.limits import StopStrings
from trueplex.engine.prefill import inputs_of, prefill, prompt_inputs
from trueplex.engine.sampling import log_softmax, trace_key, uniforms
from trueplex.engine.slots import Group, Rows
from trueplex.engine.thinking import Step, Thinking, choose, merged, multiplex, one_hot, think, widened
from trueplex.errors import ModelError
from trueplex.models.attention import BLOCKS_ON_ACCELERATORS, row_blocks
from trueplex.models.backbone import Backbone
from trueplex.models.cache import Plan, SlotCache
from trueplex.types import Prompt, Status, Steps, Trace


class ProbeColumn(Protocol):
    """A query column that rides beside each trace's token, reads its KV, and leaves nothing behind."""

    @property
    def embedding(self) -> Tensor:
        """The probe's input embedding, [H]."""

    def probing(self, columns: int) -> AbstractContextManager[None]:
        """What must hold in the model while the last `columns` query columns are probes."""

    def read(self, hidden: Tensor) -> Tensor:
        """Final hidden states [B, H] of the probe's column → values [B]."""


class LiveBatch:
    """Traces being decoded together; make one with `engine.start`.

    Attributes:
        traces: the live traces, in row order.
        finished: every trace that stopped, in the order in which they stopped.
        readings: what the last probe read, for `scorable`; None if none rode.
        prompt_tokens: by problem, how many tokens of its prompt were read: once for all traces that enter together.
        deadline: the moment of `time.monotonic` at which every trace is truncated.
    """

    def __init__(self, backbone: Backbone, groups: Iterable[Group], thinking: Thinking, rows: int,
                 together: bool = True) -> None:  # fmt: skip
        self.backbone, self.thinking, self.rows, self.together = backbone, thinking, rows, together
        self.deadline = float("inf")
        self.waiting = deque(groups)
        self.traces: list[Trace] = []
        self.finished: list[Trace] = []
        self.readings: np.ndarray | None = None
        self.prompt_tokens: Counter[int] = Counter()
        self._leaving: list[Trace] = []
        self._lengths_of_prompts: dict[int, int] = {}
        self._moving = False  # rows are changing places: what belongs to which trace cannot be told
        self._stops = StopStrings(backbone.tokenizer, thinking.ending.stop) if thinking.ending.stop else None
        self._draws = thinking.draws(backbone.config.vocab_size)
        device = backbone.device
        self._most_blocks = None if device.type == "cpu" else BLOCKS_ON_ACCELERATORS
        self._cache = SlotCache(backbone.layers, 0)
        self._logits = torch.empty(self.rows, backbone.config.vocab_size, device=device)
        self._pending = torch.empty(self.rows, backbone.hidden_size, dtype=backbone.dtype, device=device)
        self._history = History(self.rows, thinking.k, device)
        self._rows = Rows(self.rows)

    def __bool__(self) -> bool:
        return bool(self.traces or self.waiting)

    @property
    def scorable(self) -> list[Trace]:
        """The live traces and those that ended by themselves in the last stride: what a probe reads."""
        return self.traces + self._leaving

    @torch.inference_mode()
    def advance(self, stride: int, probe: ProbeColumn | None = None) -> None:
        """Grow every live trace by up to `stride` tokens; waiting problems take the freed rows first.

        A probe rides in the last forward pass and reads every trace right after its last token,
        those that ended within the stride included.

        Raises:
            ModelError: the model gave logits that are not finite.
        """
        self.admit()
        self.readings = None
        for step in range(stride):
            self._sample()
            last = step == stride - 1 or not self.traces
            rows = len(self.traces) + (len(self._leaving) if probe and last else 0)
            if rows:
                self._forward(rows, probe if last else None)
            if last:
                break
        for trace, tokens in zip(self.traces, self._rows.tokens, strict=False):
            trace.tokens = int(tokens)

    def add(self, prompt: Prompt, traces: list[Trace]) -> None:
        """Let more traces of a problem enter before all others that wait."""
        assert len(traces) <= self.rows or not self.together, (len(traces), self.rows)
        self.waiting.appendleft(Group(prompt, traces))

    def so_far(self) -> Iterator[Steps]:
        """What each of `scorable` remembers, up to its last token."""
        traces = self.scorable
        yield from self._history.steps(range(len(traces)), [trace.tokens for trace in traces])

    def record(self, scores: Iterable[float] | None) -> None:
        """Add a score to each of `scorable`; None, from a scorer with nothing to say yet, adds none."""
        if scores is None:
            return
        for trace, score in zip(self.scorable, scores, strict=True):
            trace.scores.append((trace.tokens, float(score)))

    @torch.inference_mode()
    def retire(self, traces: Iterable[Trace]) -> None:
        """Stop the given live traces at once; their rows are freed for the next `advance`."""
        stopped = list(traces)
        for trace in stopped:
            trace.status, trace.reason = Status.PRUNED, trace.reason or "policy"
        self._leave(stopped)

    @torch.inference_mode()
    def halt(self, reason: str) -> None:
        """Truncate every live trace at once, and begin no other. One that has no token yet never was."""
        self.waiting.clear()
        stopped = [t for t in self.traces if t.tokens]
        for trace in stopped:
            trace.status, trace.reason = Status.TRUNCATED, reason
        self._leave(stopped)
        self.traces.clear()

    def snapshot(self) -> list[Trace]:
        """The live traces as they stood after the last whole stride, steps and all, to go on from later.

        May be called at any moment, also when an interrupt broke an `advance`. Empty in the short
        moments when rows change places.
        """
        rows = [] if self._moving else [row for row, trace in enumerate(self.traces) if trace.tokens]
        kept = self._history.steps(rows, [self.traces[row].tokens for row in rows])
        return [self._begun(self.traces[row], steps) for row, steps in zip(rows, kept, strict=True)]

    @staticmethod
    def _begun(live: Trace, steps: Steps) -> Trace:
        trace = replace(live, scores=list(live.scores), steps=steps)
        if not 0 < trace.thinking_tokens <= trace.tokens:  # thinks still, or was closed within a stride that broke off
            trace.thinking_tokens, trace.closing = 0, ""
        return trace

    # -- one step ---------------------------------------------------------------------------------

    def _sample(self) -> None:
        """Draw the next step of every live row from its logits, remember it, and let ended rows leave."""
        n = len(self.traces)
        draws = torch.from_numpy(uniforms(self._rows.keys[:n], self._rows.tokens[:n], self._draws)).to(
            self.backbone.device
        )
        logits, answering = self._logits[:n], self._rows.answering[:n]
        step = self._choose(logits, draws, answering)
        self._refuse_infinite(logits)
        emitted = step.ids[:, 0].cpu().numpy()
        closing = ~answering & (emitted == self.backbone.think_end)
        ending = np.isin(emitted, list(self.backbone.ends))
        if (closing | ending).any():
            rows = self._places(closing | ending)
            step = choose(step, one_hot(Step(*(t[rows] for t in step))), rows)
        step, forced = self._close(step, logits, ~answering & ~closing & ~ending)
        self._pending[:n] = merged(self.backbone.embed(step.ids), step.weights)
        self._history.remember(step, self._rows.tokens[:n])
        self._rows.tokens[:n] += 1
        for row in np.flatnonzero(closing | forced):
            trace = self.traces[row]
            trace.closing = trace.closing or "model"
            trace.thinking_tokens = int(self._rows.tokens[row])
        self._rows.answering[:n] |= closing | forced
        self._end(n, ending)

    def _choose(self, logits: Tensor, draws: Tensor, answering: np.ndarray) -> Step:
        if not answering.any():
            return think(logits, draws, self.thinking)
        rows, k = self._places(answering), self.thinking.k
        answer = widened(multiplex(logits[rows], draws[rows, :1], self.thinking.answering), k)
        return answer if answering.all() else choose(think(logits, draws, self.thinking), answer, rows)

    def _places(self, mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.flatnonzero(mask)).to(self.backbone.device)

    def _refuse_infinite(self, logits: Tensor) -> None:
        wrong = ~torch.isfinite(logits[:, : self.backbone.vocabulary]).all(-1)
        if wrong.any():
            bad = self.traces[int(wrong.nonzero()[0])]
            raise ModelError(
                f"the logits of trace {bad.index} of problem {bad.problem.id or bad.problem.text[:40]!r} are not finite "
                f"at step {int(self._rows.tokens[self.traces.index(bad)])}. Try: load the model in float32 or bfloat16"
            )

    def _close(self, step: Step, logits: Tensor, thinking: np.ndarray) -> tuple[Step, np.ndarray]:
        """Write ``</think>`` where a budget or a cold stop says so, and tell in which rows."""
        n, rules = len(thinking), self.thinking.ending
        if not rules.closes:
            return step, np.zeros(n, dtype=bool)
        self._rows.cold[:n], cold = rules.cold(self._rows.cold[:n], step.entropy.cpu().numpy())
        forced = thinking & (cold | (self._rows.tokens[:n] + 1 >= self._rows.budgets[:n]))
        if not forced.any():
            return step, forced
        for row in np.flatnonzero(forced):
            self.traces[row].closing = "cold stop" if cold[row] else "thinking budget"
        assert self.backbone.think_end is not None
        rows = self._places(forced)
        logps = log_softmax(logits[rows], self.thinking.sampling.temperature)[:, self.backbone.think_end, None]
        wide = [t[rows] for t in step]
        written = Step(torch.full_like(wide[0], self.backbone.think_end), wide[1], logps.expand_as(wide[2]), *wide[3:])
        return choose(step, one_hot(written), rows), forced

    def _end(self, n: int, ending: np.ndarray) -> None:
        """Let rows leave that ended or reached a limit."""
        stopped = (
            self._stops.ended(self._history.last_ids(self._rows.tokens[:n], self._stops.reach))
            if self._stops
            else np.zeros(n, dtype=bool)
        )
        full, late = self._rows.tokens[:n] >= self._rows.limits[:n], time.monotonic() > self._rows.deadlines[:n]
        rows = np.flatnonzero(ending | stopped | full | late)
        leaving = [self.traces[row] for row in rows]
        for row, trace in zip(rows, leaving, strict=True):
            trace.status = Status.FINISHED if ending[row] or stopped[row] else Status.TRUNCATED
            reasons = (
                ("end of sequence", ending),
                ("stop string", stopped),
                ("token limit", full),
                ("time limit", late),
            )
            trace.reason = next(name for name, where in reasons if where[row])
        self._leave(leaving)

    def _forward(self, rows: int, probe: ProbeColumn | None) -> None:
        """Feed the pending inputs of the first `rows` rows, a probe behind each if there is one."""
        lengths = self._rows.lengths[:rows]
        columns = 2 if probe else 1
        shared = int(lengths[0]) if (lengths == lengths[0]).all() else None
        # Rows of one length share one mask and one set of rotary angles.
        start = lengths[:1] if shared is not None else lengths
        positions = torch.from_numpy(start[:, None] + np.arange(columns)).to(self.backbone.device)
        seen = int(lengths.max()) + columns
        self._cache.write(Plan(0, rows, positions, seen, shared))
        blocks = () if shared is not None else row_blocks(lengths + columns, self._most_blocks)
        embeddings = self._pending[:rows, None]
        prefix = self._shared_prompt() if shared is not None else 0
        if probe is None:
            whole = shared is not None
            logits, _ = self.backbone.forward(
                embeddings, positions, self._cache, seen, whole=whole, row_blocks=blocks,
                shared_prefix=prefix,
            )  # fmt: skip
        else:
            beside = probe.embedding.to(embeddings.dtype).expand(rows, 1, -1)
            with probe.probing(1):
                logits, hidden = self.backbone.forward(
                    torch.cat([embeddings, beside], 1), positions, self._cache, seen, row_blocks=blocks,
                    shared_prefix=prefix,
                )  # fmt: skip
            self.readings = probe.read(hidden[:, 1]).float().cpu().numpy()
            for trace in chain(self.traces, self._leaving):
                trace.probe_tokens += 1
        self._logits[:rows] = logits
        self._rows.lengths[:rows] += 1

    def _shared_prompt(self) -> int:
        """How many first columns all rows have in common: their prompt, when it is one problem's."""
        problem = self.scorable[0].problem
        alike = all(t.problem is problem for t in self.scorable)
        return self._lengths_of_prompts[problem.key] if alike else 0

    # -- rows come and go -------------------------------------------------------------------------

    def _leave(self, traces: Sequence[Trace]) -> None:
        """Take live traces out of the prefix, keep what they remember, and put their rows behind the live ones.

        All in one move: where each row costs a dozen small kernels, many that leave together would cost a step.
        """
        if not traces:
            return
        self._moving = True
        going = {id(trace) for trace in traces}
        rows = [row for row, trace in enumerate(self.traces) if id(trace) in going]
        assert len(rows) == len(going), "a trace that does not live cannot leave"
        tokens = self._rows.tokens[rows].tolist()
        for row, count, steps in zip(rows, tokens, self._history.steps(rows, tokens), strict=True):  # before the swap
            trace = self.traces[row]
            trace.tokens, trace.steps = count, steps
            if not self._rows.answering[row]:
                trace.thinking_tokens = trace.tokens
        self.finished.extend(self.traces[row] for row in reversed(rows))
        left = len(self.traces) - len(rows)
        staying = [row for row in range(left, len(self.traces)) if id(self.traces[row]) not in going]
        self._swap([row for row in rows if row < left], staying)
        self._leaving[:0] = self.traces[left:]
        del self.traces[left:]
        self._moving = False

    def _swap(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Exchange rows pair by pair; no row is in two pairs."""
        if not some:
            return
        rows, new = [*some, *others], [*others, *some]
        self._rows.swap(rows, new)
        places, sources = torch.tensor([rows, new], device=self.backbone.device)
        self._cache.swap(places, sources, int(self._rows.lengths[rows].max()) + 1)
        for tensor in (self._logits, self._pending):
            tensor[places] = tensor[sources]
        self._history.swap(places, sources)
        moved = [self.traces[row] for row in new]
        for row, trace in zip(rows, moved, strict=True):
            self.traces[row] = trace

    @torch.inference_mode()
    def admit(self) -> list[int]:
        """Give free rows to waiting traces, and tell the problems of those that enter; `advance` begins with it.

        Traces that stopped in the last stride give their rows away here.
        """
        self._leaving.clear()
        groups: list[Group] = []
        free = self.rows - len(self.traces)
        while self.waiting and free and (len(self.waiting[0].traces) <= free or not self.together):
            groups.append(self.waiting[0].split(free))
            free -= len(groups[-1].traces)
            if not self.waiting[0].traces:
                self.waiting.popleft()
        if groups:
            self._moving = True
            self._place(groups)
            self._moving = False
        return [group.prompt.problem.key for group in groups]

    def _place(self, groups: list[Group]) -> None:
        """Prefill each problem's prompt once for all its new traces, and each begun trace by itself."""
        first = len(self.traces)
        new = [(g.prompt, [t for t in g.traces if t.steps is None]) for g in groups]
        new = [(prompt, traces) for prompt, traces in new if traces]
        if new:
            logits = prefill(self.backbone, self._cache, [prompt_inputs(self.backbone, p.ids) for p, _ in new], first)
            for prompt, _ in new:
                self.prompt_tokens[prompt.problem.key] += len(prompt.ids)
            owners = torch.repeat_interleave(torch.tensor([len(traces) for _, traces in new])).to(self.backbone.device)
            self._cache.copy_rows(first, first + owners, max(len(p.ids) for p, _ in new))
            self._logits[first : first + len(owners)] = logits[owners]
            for prompt, traces in new:
                for trace in traces:
                    self._seat(prompt, trace)
        begun = [(g.prompt, t) for g in groups for t in g.traces if t.steps is not None]
        if begun:
            first = len(self.traces)
            inputs = [inputs_of(self.backbone, p.ids, t.steps) for p, t in begun if t.steps is not None]
            self._logits[first : first + len(begun)] = prefill(self.backbone, self._cache, inputs, first)
            for prompt, trace in begun:
                self._seat(prompt, trace)

    def _seat(self, prompt: Prompt, trace: Trace) -> None:
        """The next row is this trace's; its keys and values are in the cache already."""
        row, rules, steps = len(self.traces), self.thinking.ending, trace.steps
        room = self.backbone.max_positions - 1 - len(prompt.ids)
        key = trace_key(trace.seed, prompt.problem.key, trace.index)
        self._rows.seat(row, key, len(prompt.ids), trace, rules, room, self.backbone.default_max_tokens, self.deadline)
        if steps is not None:
            self._history.restore(row, steps)
            trace.steps = None  # a live trace remembers in the batch
        self._lengths_of_prompts[prompt.problem.key] = len(prompt.ids)
        self.traces.append(trace)
