"""How a policy is trained: one frozen object, validated whole, saved beside the run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.grading.calls import spelled
from trueplex.grading.kinds import BOXED, answer_kind
from trueplex.train.common.recipe import check_numbers, check_seed, check_trackers
from trueplex.train.grpo.loss import AGGREGATIONS, NORMS, Clip
from trueplex.train.grpo.rewards import Reward

TRAINABLE = ("discrete", "multiplex")
# What decides how fast a run is and what it keeps, not what it learns: may differ when it is resumed.
FREE = ("steps", "micro_tokens", "max_batch_size", "gradient_checkpointing", "keep_rollouts", "report_to")


@dataclass(frozen=True)
class PolicyRecipe:
    """How to train. The defaults are the paper's where it gives them (arXiv 2601.08808, appendix).

    Attributes:
        thinking: how rollouts think; ``discrete`` is the same training at K = 1.
        steps: batches of rollouts.
        prompts: problems a step, over all processes.
        samples: rollouts a problem: the group whose mean is the baseline.
        lr, warmup: peak learning rate, and the steps over which it rises; it is constant then.
        epochs: passes over the rollouts of a step.
        minibatches: optimizer updates a pass.
        norm: ``std`` divides advantages by the group's deviation, ``none`` does not.
        aggregation: ``token``, ``trace`` or ``constant``; see `grpo.step_weights`.
        clip: where ratios stop mattering.
        kl: weight of the divergence from the model that training began with; 0 as published.
        rank: LoRA rank; 0 trains all weights.
        target_modules: ends of the names of the layers that get LoRA; empty for all linear layers.
        rewards: reward functions or their names, summed; see `rewards.Reward`.
        max_norm: gradients are scaled down to this norm.
        most_skipped: so many updates in a row without a finite gradient end the run.
        every: steps between checkpoints, where validation is judged.
        val_samples: traces of each validation problem.
        keep_rollouts: steps whose rollouts stay on the disk.
        micro_tokens: most tokens, padding included, of one forward pass of training.
        max_batch_size: traces decoded together; None is the device's own number.
        bf16: forward passes in bfloat16, weights in float32.
        gradient_checkpointing: recompute activations in the backward pass: slower, in less memory.
        report_to: where figures are shown: ``tensorboard``, ``wandb``, ``trackio``.
        answer: what counts as an answer; see `trueplex.grading.kinds`. Guesses would reward a stray number, so the default is the box.

    Raises:
        OptionError: a value is out of range, or an option has no effect here.
    """

    thinking: Thinking = field(default_factory=Thinking)
    steps: int = 300
    prompts: int = 128
    samples: int = 8
    lr: float = 1e-6
    warmup: int = 0
    epochs: int = 1
    minibatches: int = 1
    norm: str = "std"
    aggregation: str = "token"
    clip: Clip = field(default_factory=Clip)
    kl: float = 0.0
    rank: int = 0
    target_modules: tuple[str, ...] = ()
    rewards: tuple[str | Reward, ...] = ("correct",)
    max_norm: float = 1.0
    most_skipped: int = 5
    every: int = 25
    val_samples: int = 4
    keep_rollouts: int = 20
    micro_tokens: int = 4096
    max_batch_size: int | None = None
    bf16: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    report_to: tuple[str, ...] = ("tensorboard",)
    answer: str = BOXED

    def __post_init__(self) -> None:
        check_numbers(
            self,
            ("steps", "prompts", "samples", "lr", "epochs", "minibatches", "max_norm", "most_skipped", "every", "val_samples",
             "micro_tokens", "max_batch_size"),
            ("warmup", "kl", "rank", "keep_rollouts"),
        )  # fmt: skip
        check_seed(self.seed)
        answer_kind(self.answer)
        check_trackers(self.report_to)
        if self.samples < 2:
            raise OptionError(f"samples is {self.samples}. Try: at least 2, as a trace is judged against its group")
        for name, known in (("norm", NORMS), ("aggregation", AGGREGATIONS)):
            if getattr(self, name) not in known:
                raise OptionError(f"unknown {name} {getattr(self, name)!r}. Try: one of {', '.join(known)}")
        if self.prompts % self.minibatches:
            raise OptionError(f"{self.prompts} prompts do not make {self.minibatches} even minibatches. Try: a divisor")
        if self.rank == 0 and self.target_modules:
            raise OptionError(
                "target-modules chooses layers for LoRA and rank is 0, so it has no effect here. Try: drop it or give a rank"
            )
        if not self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise OptionError(f"the rewards are {self.rewards}. Try: 'correct', or 'module:function', each once")
        self._refuse_what_has_no_gradient()

    def _refuse_what_has_no_gradient(self) -> None:
        thinking = self.thinking
        if thinking.mode not in TRAINABLE:
            raise OptionError(f"a {thinking.mode} step is not drawn token by token and has no log-probability to train on. "
                              "Try: --thinking multiplex or discrete")  # fmt: skip
        if not thinking.replacement:
            raise OptionError("samples without replacement are not independent draws, so their log-probabilities do not "
                              "add up. Try: drop --without-replacement")  # fmt: skip
        if thinking.sampling.temperature == 0 or thinking.answering.temperature == 0:
            raise OptionError("greedy rollouts of one problem are all the same. Try: a positive temperature")

    @property
    def updates(self) -> int:
        """Optimizer updates a step."""
        return self.epochs * self.minibatches

    def identity(self) -> dict[str, Any]:
        """What a run must have in common with the one that it resumes."""
        named = {name: value for name, value in asdict(self).items() if name not in FREE}
        named["rewards"] = tuple(r if isinstance(r, str) else spelled(r) for r in self.rewards)
        return {
            name: value for name, value in named.items() if (name, value) != ("answer", BOXED)
        }  # runs of 0.2 had no other
