"""One update of a policy: micro-batches forward, GRPO's loss, backward, and the gradient looked at before it acts."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from trueplex.engine.fitting import ran_out
from trueplex.errors import TrueplexError
from trueplex.models.backbone import Backbone
from trueplex.train.common.sharded import sharded_modules
from trueplex.train.grpo.batches import Rollout, collate, micro_batches
from trueplex.train.grpo.loss import Totals, kl, kl_penalty, policy_loss, step_weights, surrogate
from trueplex.train.grpo.reading import log_probs
from trueplex.train.grpo.recipe import PolicyRecipe

SUMMED = ("loss", "slots", "clipped", "drift", "kl", "steps")


@dataclass
class Clock:
    """Seconds by part of a step; a part that runs out of memory says how to need less."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            raise TrueplexError(
                f"out of memory in the {part} ({str(error).splitlines()[0][:120]}). Try: a smaller --max-batch-size for rollouts; fewer "
                "--micro-tokens or --gradient-checkpointing for training; the same command resumes from the last checkpoint, if there is one"
            ) from error
        finally:
            self.seconds[part] += time.perf_counter() - started


@dataclass
class Outcome:
    """What an update came to, over all processes: sums by name, the gradient's norm, and whether it may act.

    ``silent``: no rollout of the update had anything to learn from; ``finite`` False: its gradient was not.
    """

    sums: dict[str, float]
    norm: float
    silent: bool
    finite: bool


class Learner:
    """The model that learns, how its log-probabilities are read, and what an update does to its gradients."""

    def __init__(self, accelerator: Accelerator, engine: Backbone, recipe: PolicyRecipe, reference: Any, clock: Clock
                 ) -> None:  # fmt: skip
        self.accelerator, self.engine, self.recipe, self.clock = accelerator, engine, recipe, clock
        self.reference = reference
        self.most = recipe.thinking.ending.most(engine.default_max_tokens)

    def part(self, rollouts: Sequence[Rollout], number: int) -> list[Rollout]:
        """The rollouts of a minibatch: neighbouring problems of the step, wherever they were rolled out."""
        size = self.recipe.prompts // self.recipe.minibatches
        return [r for r in rollouts if r.number // size == number]

    def _telling(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Those that have a gradient: an advantage, or a divergence to hold down."""
        return [r for r in rollouts if r.advantage != 0 or (self.recipe.kl and math.isfinite(r.reward))]

    def _micro_batches(
        self, model: Any, rollouts: Sequence[Rollout], spare: Sequence[Rollout]
    ) -> list[tuple[list[Rollout], bool]]:
        """Micro-batches of this process, and whether each counts.

        There is at least one where another process has any, as their gradients are to meet, and where weights are
        sharded there are as many as anyone's, as their forwards are. One that is only there to meet holds a spare
        rollout and weighs nothing.
        """
        own = micro_batches(rollouts, self.recipe.micro_tokens)
        most = max(gather_object([len(own)]))
        wanted = most if sharded_modules(model) else min(most, max(1, len(own)))
        return [(micro, True) for micro in own] + [([min(spare, key=len)], False)] * (wanted - len(own))

    @torch.no_grad()
    def look_back(self, model: Any, rollouts: Sequence[Rollout]) -> None:
        """Note the log-probabilities of policies that will have gone when they are needed.

        The first minibatch needs none of the policy that drew: its own first forward is by that policy.
        """
        size = self.recipe.prompts // self.recipe.minibatches
        later = [r for r in self._telling(rollouts) if r.number >= size]
        if self.recipe.minibatches > 1:
            for micro, counts in self._micro_batches(model, later, rollouts):
                for rollout, values in zip(micro, self._read(model, micro), strict=True):
                    rollout.old = values if counts else rollout.old
        if self.recipe.kl:
            with self._first_weights(model) as first:
                for micro, counts in self._micro_batches(model, self._telling(rollouts), rollouts):
                    for rollout, values in zip(micro, self._read(first, micro), strict=True):
                        rollout.reference = values if counts else rollout.reference

    def _read(self, model: Any, micro: Sequence[Rollout]) -> list[Tensor]:
        batch = collate(micro, self.recipe.thinking, self.engine.device)
        return batch.gather(log_probs(model, batch))

    @contextlib.contextmanager
    def _first_weights(self, model: Any) -> Iterator[Any]:
        """The model as it was before training: its second copy, or itself without its adapter."""
        if self.reference is not None:
            yield self.reference
        else:
            with self.accelerator.unwrap_model(model).disable_adapter():
                yield model

    def update(self, model: Any, rollouts: Sequence[Rollout], totals: Totals) -> Outcome:
        """Leave the gradient of a minibatch's loss in the model, clipped; or none, where it must not act.

        ``rollouts`` are this process's, ``totals`` count those of all.
        """
        telling, sums = self._telling(rollouts), dict.fromkeys(SUMMED, 0.0)
        micro = self._micro_batches(model, telling, rollouts)
        for number, (chosen, counts) in enumerate(micro):
            last = number == len(micro) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.clock("forward"):
                    loss = self._loss(model, chosen, totals, sums, counts)
                with self.clock("backward"):
                    self.accelerator.backward(
                        loss * self.accelerator.num_processes
                    )  # gradients are averaged, not summed
        reduced = self.accelerator.reduce(torch.tensor(list(sums.values()), dtype=torch.float64), "sum").tolist()
        sums = dict(zip(sums, reduced, strict=True))
        norm = self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.max_norm) if micro else 0.0
        norm = float(norm)
        finite = math.isfinite(norm) and math.isfinite(sums["loss"])
        if not micro or not finite:  # without gradients the optimizer leaves weights and moments as they are
            for parameter in model.parameters():
                parameter.grad = None
        return Outcome(sums, norm, silent=not micro, finite=finite)

    def _loss(
        self, model: Any, chosen: Sequence[Rollout], totals: Totals, sums: dict[str, float], counts: bool
    ) -> Tensor:
        """The share of a micro-batch in the loss of the update; adds to `sums`."""
        recipe, batch = self.recipe, collate(chosen, self.recipe.thinking, self.engine.device)
        new = log_probs(model, batch)
        if chosen[0].old is None:  # nothing has moved since they were drawn
            old = new.detach()
            if recipe.epochs > 1:
                for rollout, values in zip(chosen, batch.gather(old), strict=True):
                    rollout.old = values
        else:
            old = batch.scatter([r.old for r in chosen if r.old is not None])
        gains = torch.tensor([r.advantage for r in chosen], device=new.device, dtype=torch.float32)
        slot_loss, clipped = surrogate(new, old, gains, recipe.clip)
        if recipe.kl and counts:
            reference = batch.scatter([r.reference for r in chosen if r.reference is not None])
            slot_loss = slot_loss + recipe.kl * kl_penalty(new, old, reference)
        weights = step_weights([r.trace.tokens for r in chosen], recipe.aggregation, totals).to(new.device)
        loss = policy_loss(slot_loss, batch.drawn, weights * counts)
        if counts:
            drawn, apart = batch.drawn, kl(new.detach(), old)
            sums["loss"] += loss.item()
            sums["slots"] += int(drawn.sum())
            sums["steps"] += sum(r.trace.tokens for r in chosen)
            sums["clipped"] += int((clipped & drawn).sum())
            sums["drift"] += float(apart[drawn].sum())
            sums["kl"] += float(kl(new.detach(), reference)[drawn].sum()) if recipe.kl else 0.0
        return loss
