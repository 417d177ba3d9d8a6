"""`trueplex train verifier`, `reward` and `values`: what learns from stored traces. Others stand in train_fitted.py and train_policy.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from trueplex.cli import first_verifier, train_fitted, train_policy
from trueplex.cli.first_verifier import ProblemOptions
from trueplex.cli.groups import KeepBase, LimitOptions, MaxBatchSize, ModelOptions, Quiet, Reread, Seed, ThinkingOptions
from trueplex.cli.options import Within, check_count, command, listed
from trueplex.errors import InputError, OptionError, TrueplexError

if TYPE_CHECKING:
    import torch

    from trueplex.models.backbone import Backbone
    from trueplex.train.common.batches import Labelled

log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, suggest_commands=False, help="Train what scores traces, and the model itself.")

VERIFIER_EXAMPLE = "trueplex train verifier --model ./my-model --problems train.jsonl --n 600 --out my-model/verifier"
REWARD_EXAMPLE = "trueplex train reward --kind outcome --model ./my-model --data rollouts/ --out runs/outcome"
VALUES_EXAMPLE = "trueplex train values --model ./my-model --data rollouts/ --n 300"

Folders = Annotated[
    list[Path], typer.Option(help="Folders of rollouts; the values are stored in them. Can be repeated.")
]
STEPS = "Where the steps of a text end: 'lines' or 'paragraphs'."


@dataclass(frozen=True)
class TraceOptions:
    """What is learned from and judged by, and where the result goes."""

    PANEL: ClassVar[str] = "Data"

    out: Annotated[Path, typer.Option(help="Folder for the result; an interrupted run is resumed there.")]
    data: Annotated[list[Path] | None, typer.Option(help="Folders of rollouts to learn from; can be repeated.", show_default=False)] = None  # fmt: skip
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="Folders of rollouts to judge by; can be repeated.", show_default="a tenth of the problems"),
    ] = None
    answer: Reread = None
    traces: Annotated[int | None, typer.Option(help="Most traces to learn from, in the order of the folders.", show_default="all"), Within(1)] = None  # fmt: skip
    balanced: Annotated[bool, typer.Option("--balanced", help="As many right as wrong traces of every problem.")] = False  # fmt: skip

    @property
    def names(self) -> str:
        """The folders that are learned from, as one text."""
        return ", ".join(map(str, self.data or ()))

    def read(self, backbone: Backbone) -> tuple[list[Labelled], list[Labelled]]:
        """The traces to learn from and to judge by: those of problems that have both right and wrong ones.

        Raises:
            TrueplexError: no such problem is left on one of the sides.
        """
        from trueplex.train.verifier import mixed, read_labelled

        if not self.data:
            raise OptionError(
                "there is nothing to learn from. Try: --data FOLDER of rollouts (`trueplex rollout` makes them)"
            )
        traces = [t for folder in self.data for t in read_labelled(folder, backbone, self.answer)]
        held = [t for folder in self.validation or () for t in read_labelled(folder, backbone, self.answer)]
        if not held:  # by problem, so that no problem is on both sides; by high bits, as the low ones decide splits
            held = [t for t in traces if (t.problem >> 32) % 10 == 0]
            traces = [t for t in traces if (t.problem >> 32) % 10]
        sampled, traces, held = len(traces), mixed(traces)[: self.traces], mixed(held)
        if not held or not traces:
            raise TrueplexError(
                "too few problems with right and wrong traces to learn and to judge by. Try: roll out more"
            )
        log.info(f"{len(traces)} traces to learn from (of {sampled}; only problems with both right and wrong ones are used), {len(held)} to "
                 "judge by")  # fmt: skip
        return traces, held


@dataclass(frozen=True)
class ScheduleOptions:
    """How long and how fast is trained."""

    PANEL: ClassVar[str] = "Training"

    epochs: Annotated[float, typer.Option(help="Passes over the traces.")] = 1.0
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3
    batch: Annotated[int, typer.Option(help="Traces per step, over all processes."), Within(1)] = 32
    every: Annotated[int, typer.Option(help="Steps between checkpoints, where validation is judged."), Within(1)] = 250
    patience: Annotated[
        int,
        typer.Option(
            help="Stop after this many checkpoints without improvement, and keep the best; 0 never stops early."
        ),
    ] = 0
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16",
            help="The base model in bfloat16; what is learned stays in float32.",
            show_default="as --dtype",
        ),
    ] = None
    report_to: Annotated[list[str] | None, typer.Option(help="Where figures are shown: tensorboard, wandb or trackio; can be repeated.", show_default="nowhere")] = None  # fmt: skip
    seed: Seed = 0  # fmt: skip

    @property
    def dtype(self) -> torch.dtype | None:
        """The base model's dtype; None for what fits the device."""
        import torch

        return None if self.bf16 is None else torch.bfloat16 if self.bf16 else torch.float32


@dataclass(frozen=True)
class VerifierOptions:
    """What a verifier is, and what it learns."""

    PANEL: ClassVar[str] = "Verifier"

    rank: Annotated[int, typer.Option(help="LoRA rank; 0 trains the probe token and the head only.")] = 16
    target_modules: Annotated[
        str | None,
        typer.Option(
            help="Layers that get LoRA, separated by commas, e.g. 'q_proj,v_proj'.", show_default="all linear layers"
        ),
    ] = None
    start: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a verifier to go on from, e.g. on a policy's new rollouts.",
            show_default="starts from scratch",
        ),
    ] = None
    hard_negatives: Annotated[bool, typer.Option("--hard-negatives", help="A wrong trace counts by how many traces share its answer.")] = False  # fmt: skip
    spread: Annotated[bool, typer.Option("--spread", help="Draw one position in each of as many equal parts of a trace.")] = False  # fmt: skip
    probe_tokens: Annotated[int, typer.Option(help="Tokens of a probe, M: 1 as in OTV, 4 as in STOP. The later ones see the earlier ones.")] = 1  # fmt: skip
    probe_repeated: Annotated[
        bool,
        typer.Option("--probe-repeated", help="One learned token M times, as in STOP, instead of M learned tokens."),
    ] = False
    probe_pool: Annotated[
        str,
        typer.Option(help="What the head reads: 'last' (the last probe token) or 'learned' (a learned mean of all)."),
    ] = "last"
    positions: Annotated[str, typer.Option(help="Positions probed per trace and step, or 'all'.")] = "32"
    labels: Annotated[
        str,
        typer.Option(
            help="Pseudo-labels: ramp (as in the paper), constant, final, power, monte-carlo (after `trueplex train values`), measured: monte-carlo where there are values, ramp elsewhere, or soft: elsewhere what valued traces of that outcome were worth there."
        ),
    ] = "ramp"
    loss: Annotated[str, typer.Option(help="'mse' (as in the paper) or 'bce'.")] = "mse"
    ranking: Annotated[
        float, typer.Option(help="Weight of a ranking loss between right and wrong traces of a problem.")
    ] = 0.0
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass: slower, in less memory.")] = False  # fmt: skip
    standardise: Annotated[bool, typer.Option("--standardise/--no-standardise", help="Let the head read states centred and scaled by what a few traces give.")] = True  # fmt: skip
    keep_base: KeepBase = None

    def recipe(self, schedule: ScheduleOptions, balanced: bool, memory: float | None) -> Any:
        """The recipe. Raises OptionError where an option is out of range or could not act."""
        from trueplex.train.verifier import Recipe

        check_count("--positions", self.positions)
        if self.positions != "all" and not self.positions.isdecimal():
            raise OptionError(f"positions is {self.positions!r}. Try: a number, or 'all'")
        # By position: rank, target modules, positions, batch, epochs, lr, seed, labels, loss, ranking, balanced, patience,
        # steps between checkpoints, gradient checkpointing, trackers, start, hard negatives, spread, probe tokens, whether repeated, pool,
        # memory, whether the head's inputs are standardised.
        return Recipe(self.rank, listed("--target-modules", self.target_modules), None if self.positions == "all" else int(self.positions),
                      schedule.batch, schedule.epochs, schedule.lr, schedule.seed, self.labels, self.loss, self.ranking,
                      balanced, schedule.patience, schedule.every, self.gradient_checkpointing,
                      tuple(schedule.report_to or ()), str(self.start or ""), self.hard_negatives, self.spread,
                      self.probe_tokens, self.probe_repeated, self.probe_pool, memory, self.standardise)  # fmt: skip


@command(app, VERIFIER_EXAMPLE)
def verifier(
    traces: TraceOptions, model: ModelOptions, which: VerifierOptions, schedule: ScheduleOptions,
    source: ProblemOptions, thinking: ThinkingOptions, limits: LimitOptions,
) -> None:  # fmt: skip
    """Train a one-token verifier for a model from its graded traces, or from nothing but --problems. Also runs under torchrun."""
    from trueplex.train.common.labels import VALUED
    from trueplex.train.verifier import train_verifier
    from trueplex.verify.kept import keep_reads

    recipe = which.recipe(schedule, traces.balanced, model.memory)
    if source.problems is not None:
        if traces.data or traces.validation or which.keep_base or traces.traces is not None:
            raise OptionError("--problems are rolled out first, and --data, --validation, --traces and --keep-base are for rollouts that are there. "
                              "Try: give one of them")  # fmt: skip
        if which.labels in VALUED:
            raise OptionError(
                f"labels {which.labels} need values of rollouts. Try: `trueplex rollout`, `trueplex train values`, then --data"
            )
        first_verifier.make(source, model, recipe, schedule.dtype, traces.out, thinking, limits, traces.answer)
        return
    first_verifier.refuse_unused(source, thinking, limits)
    if not traces.data:
        raise OptionError(
            "there is nothing to learn from. Try: --problems FILE.jsonl with answers, or --data FOLDER of rollouts"
        )
    backbone = model.load(schedule.dtype)
    learned, held = traces.read(backbone)
    learned = _valued(learned, which.labels)
    if which.keep_base:
        keep_reads(backbone, which.keep_base, sum(map(len, (*learned, *held))))
    trained = train_verifier(backbone, learned, held, recipe, traces.out, traces.names)
    if trained.card:  # of several processes, the first one wrote it
        print(json.dumps(trained.card["validation"]))


def _valued(traces: list[Labelled], labels: str) -> list[Labelled]:
    """The traces that these labels can be given to. Raises InputError when values are needed and none has any."""
    from trueplex.train.common.labels import MEASURED, MONTE_CARLO, SOFT, VALUED

    if labels not in VALUED:
        return traces
    valued = [t for t in traces if t.values is not None]
    if not valued:
        raise InputError("no trace has Monte-Carlo values. Try: `trueplex train values` on the same folders first")
    fate = {
        MONTE_CARLO: "are skipped",
        MEASURED: "are labelled by the ramp",
        SOFT: "are labelled by what the valued ones of their outcome were worth",
    }[labels]
    log.info(f"{len(traces) - len(valued)} of {len(traces)} traces have no Monte-Carlo values and {fate}")
    return valued if labels == MONTE_CARLO else traces


@dataclass(frozen=True)
class RewardOptions:
    """What a reward model is."""

    PANEL: ClassVar[str] = "Reward model"

    kind: Annotated[
        str,
        typer.Option(
            help="'outcome', 'process' (in Math-Shepherd's form, after `trueplex train values`) or 'generative' (GenRM)."
        ),
    ]
    rank: Annotated[int, typer.Option(help="LoRA rank, merged into the weights at the end; 0 trains all weights.")] = 16
    steps: Annotated[str | None, typer.Option(help=f"{STEPS} For process models.", show_default="lines")] = None  # fmt: skip


@command(app, REWARD_EXAMPLE)
def reward(traces: TraceOptions, model: ModelOptions, which: RewardOptions, schedule: ScheduleOptions) -> None:
    """Train a reward model of the base model's size on graded traces: a verifier's rivals. Also runs under torchrun."""
    from trueplex.train.reward import RewardRecipe, train_reward

    # By position: kind, rank, batch, epochs, lr, seed, steps, balanced, patience, steps between checkpoints, trackers.
    recipe = RewardRecipe(which.kind, which.rank, schedule.batch, schedule.epochs, schedule.lr, schedule.seed, which.steps,
                          traces.balanced, schedule.patience, schedule.every, tuple(schedule.report_to or ()))  # fmt: skip
    backbone = model.reader(schedule.dtype)
    learned, held = traces.read(backbone)
    if which.kind == "process":
        _check_steps(traces.data or (), which.steps)
        log.info(f"{sum(t.values is not None for t in learned)} of {len(learned)} traces have Monte-Carlo values; of the others only the "
                 "last step is used")  # fmt: skip
    card = train_reward(backbone, learned, held, recipe, traces.out, traces.names)
    if card:
        print(json.dumps(card["validation"]))


def _check_steps(folders: Sequence[Path], steps: str | None) -> None:
    """Raise InputError when values of a folder stand where no step of the reward model ends."""
    from trueplex.train.values import steps_of

    for folder, valued in ((folder, steps_of(folder)) for folder in folders):
        if valued and valued != (steps or valued):
            raise InputError(f"the values in {folder} stand at the ends of {valued} and steps are {steps}, so none would match. Try: "
                             f"--steps {valued}, or roll out and value again")  # fmt: skip


@dataclass(frozen=True)
class ValueOptions:
    """Which prefixes are valued, and how precisely."""

    PANEL: ClassVar[str] = "What is valued"

    traces: Annotated[
        int, typer.Option(help="Most traces valued per problem that has right and wrong ones, alternately of both.")
    ] = 6
    prefixes: Annotated[
        int, typer.Option(help="Most prefixes valued per trace, spread evenly over the ends of its steps.")
    ] = 4
    samples: Annotated[int, typer.Option(help="Continuations per prefix.")] = 4
    steps: Annotated[str, typer.Option(help=STEPS)] = "lines"
    n: Annotated[
        int | None,
        typer.Option(
            help="Most problems valued per folder, in its order; more can be valued later.", show_default="all"
        ),
        Within(1),
    ] = None
    max_batch_size: MaxBatchSize = None
    seed: Seed = 0
    quiet: Quiet = False  # fmt: skip


@command(app, VALUES_EXAMPLE)
def values(data: Folders, model: ModelOptions, which: ValueOptions) -> None:
    """Estimate how often the model reaches the right answer from prefixes of stored traces, by sampling. Resumable."""
    from trueplex.cli.progress import Bar
    from trueplex.train.values import Valuing, asked, value

    valuing = Valuing(which.traces, which.prefixes, which.samples, which.steps, which.seed)
    backbone = model.load()
    total = sum(len(a.prefixes) for folder in data for a in asked(backbone, folder, valuing)[: which.n]) * which.samples
    with Bar(total, which.quiet) as bar:
        for folder in data:
            value(backbone, folder, valuing, which.n, which.max_batch_size, bar.step)


command(app, train_policy.EXAMPLE)(train_policy.policy)
command(app, train_fitted.LINEAR_EXAMPLE)(train_fitted.linear)
command(app, train_fitted.COMBINED_EXAMPLE)(train_fitted.combined)
