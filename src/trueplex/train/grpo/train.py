"""Train a model on its own rollouts: GRPO for multiplex and discrete thinking (arXiv 2601.08808).

A step: the engine solves problems with the current weights, the reward judges, and one teacher-forced pass over the
merged inputs gives the gradient. The log-probabilities of the policy that drew are that pass's own, detached, so the
ratio is 1 where nothing has moved, and no forward is done twice. Groups stay on one process; what crosses the network
is gradients and a few numbers a rollout.

Left out: an entropy bonus (0 as published), a value model, asynchronous rollouts.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from trueplex.engine.fitting import ran_out
from trueplex.errors import TrueplexError
from trueplex.files import read_json, writing
from trueplex.grading.calls import spelled
from trueplex.grading.kinds import BOXED, answer_kind
from trueplex.locks import locks
from trueplex.models.backbone import Backbone
from trueplex.models.fingerprint import fingerprint_of
from trueplex.models.prompt import make_prompt
from trueplex.solving.settings import origin
from trueplex.train.common import sharded
from trueplex.train.common.finite import check_finite
from trueplex.train.common.run import leave_together
from trueplex.train.common.state import TrainerState, last_checkpoint, seal_checkpoint
from trueplex.train.common.tracking import trackers
from trueplex.train.grpo import rewards
from trueplex.train.grpo import weights as policy_weights
from trueplex.train.grpo.batches import Rollout
from trueplex.train.grpo.journal import Journal, flat, keep
from trueplex.train.grpo.loss import Totals, advantages
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.train.grpo.run import arguments_for, claim
from trueplex.train.grpo.sampling import problems_of_step, sample, seed_of_step
from trueplex.train.grpo.update import Clock, Learner, Outcome
from trueplex.train.grpo.watch import Record, judgement, picture, record, record_of
from trueplex.types import Problem, Trace

log = logging.getLogger(__name__)

VALIDATION_SEED = 77  # the same draws at every judgement, so that what moves is the policy


class PolicyTrainer(Trainer):
    """A Trainer whose step is: rollouts, when the last ones are used up, and one update on them.

    ``engine`` thinks with the trained model's own weights. ``reference`` is a second copy of the first model, where a
    divergence from it is asked for and no adapter can be taken off.
    """

    def __init__(self, model: Any, arguments: TrainingArguments, engine: Backbone, problems: Sequence[Problem],
                 validation: Sequence[Problem], recipe: PolicyRecipe, out: Path, reference: Any) -> None:  # fmt: skip
        self.engine, self.problems, self.validation, self.recipe, self.out = engine, problems, validation, recipe, out
        self.functions = {r if isinstance(r, str) else spelled(r): rewards.load(r) for r in recipe.rewards}
        self.prompts = {p.key: make_prompt(p, engine).ids for p in problems}
        self.rollouts: list[Rollout] = []
        self.records: list[Record] = []
        self.journal: Journal | None = None
        self.failure = ""
        self.counts = {"skipped": 0, "silent": 0}
        self._skipped_in_a_row = 0
        self._outcomes: list[Outcome] = []
        self.clock = Clock()
        # One item an update: a step's problems follow from its number, not from a loader.
        updates = list(range(arguments.max_steps * arguments.world_size))
        super().__init__(model, arguments, train_dataset=updates, data_collator=lambda items: {})
        self.remove_callback(PrinterCallback)
        self.add_callback(_Judge(self))
        sharded.check(self.accelerator)
        self.learner = Learner(self.accelerator, engine, recipe, policy_weights.frozen(reference), self.clock)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        check_finite(self.model.named_parameters(), self.state.global_step // self.recipe.updates)
        super()._save_checkpoint(model, trial)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the Trainer would guess it from ids, which there are none of

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        step, update = divmod(self.state.global_step, self.recipe.updates)
        if update == 0 or not self.rollouts:
            self._collect(model, step)
        part = update % self.recipe.minibatches
        size = self.recipe.prompts // self.recipe.minibatches
        counted = [r for r in self.records if r.problem // size == part and math.isfinite(r.reward)]
        totals = Totals(len(counted), sum(r.tokens for r in counted), self.learner.most)
        outcome = self.learner.update(model, self.learner.part(self.rollouts, part), totals)
        self._note(step, outcome)
        if update == self.recipe.updates - 1:
            self._report(step)
        return torch.tensor(outcome.sums["loss"], device=self.args.device)

    def think(self, problems: Sequence[Problem], samples: int, seed: int) -> list[Trace]:
        """Traces of this process's share of the problems, with the current weights."""
        policy_weights.recompute(self.engine, False)
        mine = problems[self.args.process_index :: self.args.world_size]
        with sharded.gathered(self.model, self.accelerator):
            traces = sample(
                self.engine, mine, samples, self.recipe.thinking, seed, self.recipe.max_batch_size, self.recipe.answer
            )
        policy_weights.recompute(self.engine, self.recipe.gradient_checkpointing)
        return traces

    def _collect(self, model: Any, step: int) -> None:
        """Roll out the problems of a step, reward them, and note what the updates on them will need."""
        recipe, world = self.recipe, self.args.world_size
        self.clock.seconds.clear()
        self._outcomes.clear()
        chosen = problems_of_step(len(self.problems), recipe.prompts, recipe.seed, step)
        with self.clock("rollout"):
            traces = self.think([self.problems[i] for i in chosen], recipe.samples, seed_of_step(recipe.seed, step))
        with self.clock("grading"):
            values = rewards.grade(traces, self.functions, answer_kind(recipe.answer))
        gains = advantages(torch.tensor(values).view(-1, recipe.samples).numpy(), recipe.norm).ravel().tolist()
        self.rollouts = [
            Rollout(trace, self.prompts[trace.problem.key], self.args.process_index + world * (i // recipe.samples), value, gain)
            for i, (trace, value, gain) in enumerate(zip(traces, values, gains, strict=True))
        ]  # fmt: skip
        self.records = gather_object([record(r) for r in self.rollouts])
        if recipe.keep_rollouts:
            # The weights have moved, and version 0.2 had no name for these.
            self.engine.fingerprint = self.engine.former_fingerprint = fingerprint_of(
                sharded.full_state(self.engine.model)
            )
            keep(
                self.out,
                step + 1,
                self.rollouts,
                origin(recipe.thinking, self.engine, {"answer": recipe.answer} if recipe.answer != BOXED else None),
                recipe.keep_rollouts,
                self.args.process_index,
            )
        with self.clock("forward"):
            self.learner.look_back(model, self.rollouts)

    def _note(self, step: int, outcome: Outcome) -> None:
        """Count an update that did not act, say so, and end a run of too many."""
        self._outcomes.append(outcome)
        if outcome.silent:
            self.counts["silent"] += 1
            why = ("all rewards are equal in every group of an update" if any(math.isfinite(r.reward) for r in self.records)
                   else "no rollout could be judged: the grader cannot read the answers of its problem, or no reward can tell")  # fmt: skip
            log.warning(f"step {step + 1}: {why}, so there is nothing to learn from; the update is skipped")
        self._skipped_in_a_row = 0 if outcome.finite else self._skipped_in_a_row + 1
        if not outcome.finite:
            self.counts["skipped"] += 1
            log.warning(f"step {step + 1}: the loss or its gradient is not finite; the update is skipped")
        if self._skipped_in_a_row >= self.recipe.most_skipped:
            self.failure = (f"{self._skipped_in_a_row} updates in a row had no finite gradient; the run stopped with a "
                            "checkpoint. Try: a lower --lr, or without --bf16")  # fmt: skip
            self.control.should_save = self.control.should_training_stop = True

    def _report(self, step: int) -> None:
        seconds = dict(self.clock.seconds)
        sums: Counter[str] = Counter()
        for outcome in self._outcomes:
            sums.update(outcome.sums)
        slots, steps = max(1.0, sums["slots"]), max(1.0, sums["steps"])
        own = sum(r.trace.tokens for r in self.rollouts)
        figures = {
            "step": step + 1, **picture(self.records), "loss": sums["loss"] / self.recipe.updates,
            "gradient": max(o.norm for o in self._outcomes), "lr": self._get_learning_rate(),
            "clipped": sums["clipped"] / slots, "drift": sums["drift"] / steps,
            **({"kl": sums["kl"] / steps} if self.recipe.kl else {}), **self.counts,
            "seconds": {**seconds, "all": sum(seconds.values())}, "rollout_tokens_a_second": own / seconds["rollout"],
        }  # fmt: skip
        if self.journal:
            self.journal.step(figures)
        reward = figures["reward"]
        log.info(f"step {step + 1}/{self.recipe.steps}: reward {'–' if reward is None else f'{reward:.3f}'}, "
                 f"{figures['tokens']:.0f} tokens, entropy {figures['entropy']:.3f}, {sum(seconds.values()):.1f} s (rollout "
                 f"{seconds['rollout']:.1f}, forward {seconds['forward']:.1f}, backward {seconds.get('backward', 0):.1f})")  # fmt: skip

    def judge(self) -> None:
        """Judge the current weights on validation."""
        step = self.state.global_step // self.recipe.updates
        with self.clock("validation"):
            traces = self.think(self.validation, self.recipe.val_samples, VALIDATION_SEED)
            rewards.grade(traces, {}, answer_kind(self.recipe.answer))
        world, first = self.args.world_size, self.args.process_index
        records = gather_object(
            [record_of(t, first + world * (i // self.recipe.val_samples)) for i, t in enumerate(traces)]
        )
        found, best = judgement(records), False
        if self.journal:
            best = step > 0 and found["right"] > max((j["right"] for j in self.journal.validation.rows), default=0.0)
        best = any(gather_object([best]))
        if best:  # before it is noted: a kill in between has it judged and kept again
            policy_weights.save(self.engine, self.accelerator.unwrap_model(self.model), self.out / policy_weights.BEST,
                                self.args.process_index == 0)  # fmt: skip
        if self.journal:
            self.journal.judge({"step": step, **found}, self.rollouts)
            self.log({f"eval_{name}": value for name, value in flat(found)})
            log.info(f"step {step}: validation {100 * found['right']:.1f} ± {100 * found['error']:.1f} % right"
                     + (", the best so far" if best else ""))  # fmt: skip


class _Judge(TrainerCallback):
    """Opens the journal at the step that a run begins at, and judges there and at every checkpoint."""

    def __init__(self, trainer: PolicyTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        own, step = self.trainer, state.global_step // self.trainer.recipe.updates
        if state.is_world_process_zero:
            own.journal = Journal(own.out, step)
            own.counts |= {name: row[name] for row in own.journal.metrics.rows[-1:] for name in own.counts}
        judged = [own.journal is not None and step in {j["step"] for j in own.journal.validation.rows}]
        if not gather_object(judged)[0]:
            own.judge()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.journal and state.global_step % self.trainer.recipe.updates == 0:
            self.trainer.log(dict(flat(self.trainer.journal.metrics.rows[-1])))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir), state.global_step)
        self.trainer.judge()


@locks("out")
def train_policy(backbone: Backbone, problems: Sequence[Problem], validation: Sequence[Problem], recipe: PolicyRecipe,
                 out: str | Path, reference: Backbone | None = None) -> Path:  # fmt: skip
    """Train, checkpointing under `out`/checkpoints and resuming from there; the folder of what was learned.

    That is `out`/model, which `--model` takes, or with LoRA the PEFT adapter `out`/adapter; what validated best on the
    way, if better than the start, is in `out`/best. ``reference`` must be a second copy of the model when `kl` is
    positive and all weights are trained.

    Raises:
        InputError: problems cannot be graded or do not fit the model, or the run in `out` had another recipe.
        OptionError: the prompts cannot be shared evenly by the processes, or a reward cannot be found.
        StoreError: what an earlier run left in `out` cannot be read.
        TrueplexError: memory ran out, too many updates in a row had no finite gradient, or the weights are not finite.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    problems = list({p.key: p for p in problems}.values())
    _check_problems(problems, validation, recipe)
    arguments = arguments_for(recipe, out, backbone.device.type == "cpu")
    claim(out, recipe, backbone, problems, validation, arguments.process_index == 0)
    model = policy_weights.trainable(backbone, recipe)
    trainer = PolicyTrainer(model, arguments, backbone, problems, validation, recipe, out, reference)
    _train(trainer)
    _check_weights(trainer)
    folder = policy_weights.save(backbone, model, out, arguments.process_index == 0)
    policy_weights.release(backbone, model, recipe)
    del trainer
    leave_together(arguments)
    return folder


def _check_problems(problems: Sequence[Problem], validation: Sequence[Problem], recipe: PolicyRecipe) -> None:
    rewards.check(problems, recipe.rewards)
    rewards.check(validation, ("correct",))
    problems_of_step(len(problems), recipe.prompts, recipe.seed, 0)


def _train(trainer: PolicyTrainer) -> None:
    """Train from the last whole checkpoint. Raises TrueplexError when memory runs out or a run has failed."""
    last = last_checkpoint(trainer.out / "checkpoints")
    resumed = read_json(Path(last) / TRAINER_STATE_NAME, TrainerState).global_step if last else 0
    for callback in trackers(trainer.recipe.report_to, trainer.out, trainer.args, resumed):
        trainer.add_callback(callback)
    try:
        with writing(trainer.out):
            trainer.train(resume_from_checkpoint=last)
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise TrueplexError("out of memory in the optimizer's step, which keeps two numbers a weight. Try: --rank N in another "
                            "--out folder, or a smaller model") from error  # fmt: skip
    if trainer.failure:
        raise TrueplexError(trainer.failure)


def _check_weights(trainer: PolicyTrainer) -> None:
    """Refuse weights that are not finite, or not the same on all processes."""
    check_finite(trainer.model.named_parameters(), trainer.state.global_step // trainer.recipe.updates)
    state = fingerprint_of(sharded.full_state(trainer.engine.model))
    if len(set(gather_object([state]))) > 1:
        raise TrueplexError(
            "ranks diverged: their weights differ, so nothing was saved. Try: report it, with the options"
        )
