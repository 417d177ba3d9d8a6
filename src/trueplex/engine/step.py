"""One step of every row: drawn by groups of rows that follow like options, then closed or ended where a rule says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.constraint import Constraint, Constraints
from trueplex.engine.distribution import Distribution
from trueplex.engine.random import uniforms_on
from trueplex.engine.resident import Resident
from trueplex.engine.sampling import Sampling
from trueplex.engine.slots import Slots
from trueplex.engine.thinking import Step, Thinking, choose, multiplex, one_hot, retold, think, widened
from trueplex.errors import ModelError
from trueplex.models.backbone import Backbone
from trueplex.models.markers import completed
from trueplex.types import Trace


@dataclass(slots=True, frozen=True)
class Group:
    """Rows that are drawn alike, by these options; ``places`` [n], their numbers on the model's device, is None for all rows."""

    thinking: Thinking
    answering: bool
    places: Tensor | None = None


@dataclass(slots=True, frozen=True)
class Drawn:
    """A step of B rows, and what it does to them; all arrays [B] bool.

    ``closed``: thinking closes with it, be it that the model closed it, a budget (``forced``) or a cold stop (``cold`` as
    well). ``opened``: the model opens its thinking. ``ended``: its token ends the sequence.
    """

    step: Step
    closed: np.ndarray
    opened: np.ndarray
    forced: np.ndarray
    cold: np.ndarray
    ended: np.ndarray


class Sampler:
    """Draws the next step of all rows of a batch, whatever options each follows."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.options: list[Thinking] = []
        self._ends = np.array(sorted(backbone.ends), dtype=np.int64)
        self._groups: list[Group] = []
        self._grouped = (-1, -1)  # the version and the number of rows that `_groups` is of
        self._width, self._closes = 1, False
        self._markers = backbone.markers
        self.resident = Resident(backbone.device)
        self.constraints = Constraints(backbone.markers)

    def option(self, thinking: Thinking, used: np.ndarray) -> int:
        """The number of these options; equal ones share it, and those that no row follows, of the numbers `used`, give theirs away."""
        if thinking not in self.options:
            free = next((i for i in range(len(self.options)) if i not in used), len(self.options))
            self.options[free : free + 1] = [thinking]
        return self.options.index(thinking)

    def __call__(self, logits: Tensor, slots: Slots, traces: Sequence[Trace]) -> Drawn:
        """The next step from logits [B, V] of the rows of `traces`.

        Raises:
            ModelError: logits are not finite.
        """
        n = len(traces)
        constrained = self.constraints.rows(traces, slots)
        step = self._draw_within(logits, slots, n, constrained) if constrained else self._draw(logits, slots, n)
        emitted, entropy = _carried(step)
        self._refuse_infinite(entropy, slots, traces)
        thinking = ~slots.answering[:n]
        recent = slots.emit(emitted)
        nothing = np.zeros(n, dtype=bool)
        closed = thinking & completed(recent, self._markers.end) if self._markers else nothing
        opened = slots.waiting[:n] & completed(recent, self._markers.start) if self._markers else nothing
        ended = np.isin(emitted, self._ends) & (slots.written[:n] == 0)
        self.constraints.take(constrained, emitted, opened)
        if (closed | ended).any():  # what the model closes or ends with is one token, whatever else was drawn
            rows = self._places(closed | ended)
            step = choose(step, one_hot(Step(*(t[rows] for t in step))), rows)
        forced = self._forced(entropy, slots, thinking & ~closed & ~ended)
        if forced.any():
            step, forced = self._write(step, logits, slots, forced)
        return Drawn(step, closed | forced, opened, forced, slots.cooled[:n].copy(), ended)

    # -- drawing ----------------------------------------------------------------------------------

    def _draw(self, logits: Tensor, slots: Slots, n: int) -> Step:
        if self._grouped != (slots.version, n):
            self._regroup(slots, n)
        steps = [widened(self._drawn(group, logits, slots, n), self._width) for group in self._groups]
        if self._groups[0].places is None:
            return steps[0]
        whole = Step(*(t.new_empty(n, *t.shape[1:]) for t in steps[0]))
        for group, step in zip(self._groups, steps, strict=True):
            for out, part in zip(whole, step, strict=True):
                out.index_copy_(0, group.places, part.to(out.dtype))  # type: ignore[arg-type]
        return whole

    def _draw_within(self, logits: Tensor, slots: Slots, n: int, rows: Mapping[int, Constraint]) -> Step:
        """A draw within constraints. What is remembered of it is what the model itself said, so that it can be replayed."""
        step = self._draw(self.constraints.masked(logits, rows, slots), slots, n)
        for option in np.unique(slots.options[list(rows)]).tolist():
            own = torch.tensor([r for r in rows if slots.options[r] == option], device=logits.device)
            thinking = self.options[option]
            sampling = thinking.answering if self._markers else thinking.sampling
            step = choose(step, retold(Step(*(t[own] for t in step)), logits[own], sampling), own)
        return step

    def _drawn(self, group: Group, logits: Tensor, slots: Slots, n: int) -> Step:
        keys, tokens, _ = self.resident(slots, n)
        if group.places is not None:
            keys, tokens = keys[group.places], tokens[group.places]
        wanted = 1 if group.answering else group.thinking.draws(self.backbone.config.vocab_size)
        draws = uniforms_on(keys, tokens, wanted)
        own = logits if group.places is None else logits[group.places]
        return multiplex(own, draws, group.thinking.answering) if group.answering else think(own, draws, group.thinking)

    def _regroup(self, slots: Slots, n: int) -> None:
        """Find the groups anew: rows have come, gone, changed places or begun to answer.

        Where a row ends has no part in how it is drawn, nor has how it thought once it answers.
        """
        names = 2 * slots.options[:n] + slots.answering[:n]
        alike: dict[Thinking | Sampling, list[int]] = {}
        for name in np.unique(names).tolist():
            thinking = self.options[name // 2]
            alike.setdefault(thinking.answering if name % 2 else thinking.drawing, []).append(name)
        self._groups = []
        for own in alike.values():
            places = None if len(alike) == 1 else self._places(np.isin(names, own))
            self._groups.append(Group(self.options[own[0] // 2], bool(own[0] % 2), places))
        followed = [self.options[option] for option in np.unique(slots.options[:n]).tolist()]
        self._width = max(thinking.k for thinking in followed)
        self._closes = any(thinking.ending.closes for thinking in followed)
        self._grouped = (slots.version, n)

    def _refuse_infinite(self, entropy: np.ndarray, slots: Slots, traces: Sequence[Trace]) -> None:
        finite = np.isfinite(entropy)  # of the whole distribution: one logit that is not finite spoils it
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            problem = traces[row].problem
            raise ModelError(
                f"the logits of trace {traces[row].index} of problem {problem.id or problem.text[:40]!r} are not finite "
                f"at step {int(slots.tokens[row])}. Try: load the model in float32 or bfloat16"
            )

    # -- closing ----------------------------------------------------------------------------------

    def _forced(self, entropy: np.ndarray, slots: Slots, thinking: np.ndarray) -> np.ndarray:
        """The thinking rows [B] bool in which the closing marker is to be written, or is being written."""
        n = len(thinking)
        if self._markers is None or not self._closes:
            return np.zeros(n, dtype=bool)
        cold = thinking & slots.cool(entropy)
        begun = slots.written[:n] > 0
        slots.cooled[:n] |= cold & ~begun
        return thinking & (cold | begun | (slots.tokens[:n] + len(self._markers.end[0]) >= slots.budgets[:n]))

    def _write(self, step: Step, logits: Tensor, slots: Slots, forced: np.ndarray) -> tuple[Step, np.ndarray]:
        """The step with the marker's next id in the forced rows [B] bool, and the rows where that was its last."""
        assert self._markers is not None
        n, end = len(forced), np.array(self._markers.end[0])
        for option in np.unique(slots.options[:n][forced]).tolist():
            chosen = np.flatnonzero(forced & (slots.options[:n] == option))
            rows, written = (torch.from_numpy(a).to(self.backbone.device) for a in (chosen, end[slots.written[chosen]]))
            logps = Distribution(logits[rows], self.options[option].sampling.temperature).logps(written[:, None])
            ids, weights, old, entropy, confidence = (t[rows] for t in step)
            closing = Step(written[:, None].expand_as(ids), weights, logps.expand_as(old), entropy, confidence)
            step = choose(step, one_hot(closing), rows)
            slots.recent[chosen, -1] = end[slots.written[chosen]]
        slots.written[:n] += forced
        whole = slots.written[:n] == len(end)
        slots.written[:n][whole] = 0
        return step, whole

    def _places(self, mask: np.ndarray) -> Tensor:
        return torch.from_numpy(np.flatnonzero(mask)).to(self.backbone.device)


def _carried(step: Step) -> tuple[np.ndarray, np.ndarray]:
    """The emitted ids [B] int64 and the entropies [B] float32 of a step: what decides of rows, in one transfer."""
    both = torch.stack([step.ids[:, 0], step.entropy.contiguous().view(torch.int32).long()]).cpu().numpy()
    return both[0], both[1].astype(np.int32).view(np.float32)
