"""`trueplex train policy`: gather problems, train the model on its own rollouts, and say where the result is."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from trueplex.cli.groups import LimitOptions, MaxBatchSize, ModelOptions, Quiet, Seed, ThinkingOptions
from trueplex.cli.options import Within, listed
from trueplex.errors import OptionError

if TYPE_CHECKING:
    from trueplex.grading.kinds import AnswerKind
    from trueplex.types import Problem

log = logging.getLogger(__name__)

EXAMPLE = "trueplex train policy --model Qwen/Qwen3-1.7B --data problems.jsonl --rank 32 --lr 1e-5 --out runs/policy"
HELD = 10  # without validation data, one problem in so many is held back


@dataclass(frozen=True)
class PolicyDataOptions:
    """Problems to learn from and to judge by, and where the result goes."""

    PANEL: ClassVar[str] = "Data"

    data: Annotated[
        str,
        typer.Option(
            help="What to learn from: 'reference' (all suites), suites separated by commas, or FILE.jsonl with answers."
        ),
    ]
    out: Annotated[Path, typer.Option(help="Folder for the run; an interrupted one is resumed there.")]
    validation: Annotated[
        str | None,
        typer.Option(
            help="What to judge by, in the form of --data.",
            show_default="the suites' validation split, or a tenth of the file",
        ),
    ] = None
    problems: Annotated[int, typer.Option(help="Most problems to learn from."), Within(1)] = 4000
    val_problems: Annotated[int, typer.Option(help="Most problems to judge by."), Within(1)] = 120
    val_samples: Annotated[int, typer.Option(help="Traces of each validation problem.")] = 4
    keep_rollouts: Annotated[int, typer.Option(help="Keep the rollouts of this many last steps on the disk.")] = 20  # fmt: skip

    def read(self, seed: int, answer: str) -> tuple[list[Problem], list[Problem]]:
        """The problems to learn from and to judge by. Raises OptionError when none is left to judge by."""
        from trueplex.data.embedded import tasks
        from trueplex.grading.kinds import answer_kind

        kind = answer_kind(answer)
        problems = gather(self.data, "train", self.problems, seed, kind)
        judging = gather(self.validation or self.data, "validation", self.val_problems, 0, kind)
        suites = {"reference", *tasks.SUITES}
        if self.validation is None and not {name.strip() for name in self.data.split(",")} <= suites:
            # A file has no splits: by high bits, as the low ones decide the suites' splits.
            judging = [p for p in problems if (p.key >> 32) % HELD == 0]
            if not judging and len(problems) > 1:  # a short file: chance left none
                judging = [min(problems, key=lambda p: p.key >> 32)]
            held = {p.key for p in judging}
            problems, judging = [p for p in problems if p.key not in held], judging[: self.val_problems]
        if not judging:
            raise OptionError("no problem is left to judge by. Try: give --validation, or more problems")
        return problems, judging


def gather(data: str, split: str, n: int, seed: int, kind: AnswerKind) -> list[Problem]:
    """`n` problems of suites or files given by commas, as many of each."""
    from trueplex.data.suites import problems_of

    names = [name for part in data.split(",") if (name := part.strip())]
    if not names:
        raise OptionError("data is empty. Try: 'reference', suites separated by commas, or FILE.jsonl")
    return [
        p for name in names for p in problems_of(name, None, -(-n // len(names)), seed, default_split=split, kind=kind)
    ]


@dataclass(frozen=True)
class ObjectiveOptions:
    """What is maximised (GRPO)."""

    PANEL: ClassVar[str] = "Objective"

    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="'correct' (the grader's verdict), or 'module:function' with TRL's signature; can be repeated, rewards are summed.",
            show_default="correct",
        ),
    ] = None
    answer: Annotated[str, typer.Option(help="What counts as an answer, as in `trueplex solve`. Guesses would reward a stray number.")] = "boxed"  # fmt: skip
    norm: Annotated[
        str,
        typer.Option(
            help="Divide advantages by the group's standard deviation ('std') or not ('none', as in Dr. GRPO)."
        ),
    ] = "std"
    aggregation: Annotated[
        str,
        typer.Option(
            help="What has equal weight in the loss: every 'token' (as in the paper), every 'trace', or 'constant' (no length bias)."
        ),
    ] = "token"
    clip: Annotated[float, typer.Option(help="Lower clip of the ratio, at 1 − this.")] = 0.2
    clip_high: Annotated[float, typer.Option(help="Upper clip of the ratio, at 1 + this.")] = 0.2
    dual_clip: Annotated[float, typer.Option(help="Cap of the ratio where the advantage is negative; 0 for none.")] = (
        3.0
    )
    kl: Annotated[float, typer.Option(help="Weight of the KL divergence from the model that training started with.")] = 0.0  # fmt: skip


@dataclass(frozen=True)
class UpdateOptions:
    """How long, how fast and in how much memory is trained."""

    PANEL: ClassVar[str] = "Training"

    steps: Annotated[int, typer.Option(help="Batches of rollouts.")] = 300
    prompts: Annotated[int, typer.Option(help="Problems per step, over all processes.")] = 128
    samples: Annotated[int, typer.Option(help="Rollouts per problem: the group that is compared.")] = 8
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-6
    warmup: Annotated[int, typer.Option(help="Steps over which the learning rate rises.")] = 0
    epochs: Annotated[int, typer.Option(help="Passes over the rollouts of a step.")] = 1
    minibatches: Annotated[int, typer.Option(help="Optimizer updates per pass."), Within(1)] = 1
    rank: Annotated[int, typer.Option(help="LoRA rank; 0 trains all weights.")] = 0
    target_modules: Annotated[
        str | None, typer.Option(help="Layers that get LoRA, separated by commas.", show_default="all linear layers")
    ] = None
    max_norm: Annotated[float, typer.Option(help="Clip gradients to this norm.")] = 1.0
    most_skipped: Annotated[
        int, typer.Option(help="End the run after this many updates in a row without a finite gradient.")
    ] = 5
    every: Annotated[int, typer.Option(help="Steps between checkpoints, where validation is judged.")] = 25
    micro_tokens: Annotated[
        int, typer.Option(help="Most tokens of one forward pass of training; on CPU about 1024 is fastest.")
    ] = 4096
    max_batch_size: MaxBatchSize = None
    bf16: Annotated[
        bool,
        typer.Option(
            "--bf16",
            help="Forward passes in bfloat16, what is learned in float32; beside --rank the base model has the precision of --dtype.",
        ),
    ] = False
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing", help="Recompute activations in the backward pass: slower, in less memory."
        ),
    ] = False
    report_to: Annotated[list[str] | None, typer.Option(help="Where figures are shown: tensorboard, wandb or trackio; can be repeated.", show_default="tensorboard")] = None  # fmt: skip
    seed: Seed = 0
    quiet: Quiet = False  # fmt: skip


def policy(
    data: PolicyDataOptions, model: ModelOptions, thinking: ThinkingOptions, limits: LimitOptions,
    objective: ObjectiveOptions, update: UpdateOptions,
) -> None:  # fmt: skip
    """Train the model itself on its own rollouts, by GRPO. Also runs under torchrun."""
    import torch

    from trueplex.train.grpo import rewards
    from trueplex.train.grpo.train import train_policy

    asked = thinking.build(limits)
    recipe = recipe_of(data, asked.resolved(tagged=True), objective, update)
    problems, judging = data.read(update.seed, objective.answer)
    rewards.check(problems, recipe.rewards)  # before the model is loaded
    backbone = model.load(None if recipe.rank else torch.float32)
    recipe = replace(recipe, thinking=asked.resolved(backbone.markers is not None))
    limits.check(backbone)
    reference = model.load(torch.float32) if recipe.kl and not recipe.rank else None
    if update.quiet:
        logging.getLogger("trueplex").setLevel(logging.WARNING)
    print(train_policy(backbone, problems, judging, recipe, data.out, reference))


def recipe_of(data: PolicyDataOptions, thinking: Any, objective: ObjectiveOptions, update: UpdateOptions) -> Any:
    """The options as the recipe that is trained by. Raises OptionError where one is out of range or could not act."""
    from trueplex.train.grpo.loss import Clip
    from trueplex.train.grpo.recipe import PolicyRecipe

    clip = Clip(objective.clip, objective.clip_high, objective.dual_clip or None)
    # By position, in the order of the recipe's fields.
    return PolicyRecipe(
        thinking, update.steps, update.prompts, update.samples, update.lr, update.warmup, update.epochs,
        update.minibatches, objective.norm, objective.aggregation, clip, objective.kl, update.rank,
        listed("--target-modules", update.target_modules), tuple(objective.reward or ("correct",)), update.max_norm, update.most_skipped,
        update.every, data.val_samples, data.keep_rollouts, update.micro_tokens, update.max_batch_size, update.bf16,
        update.gradient_checkpointing, update.seed, tuple(update.report_to or ("tensorboard",)), objective.answer,
    )  # fmt: skip
