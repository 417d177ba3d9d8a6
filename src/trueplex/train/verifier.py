"""Train a One-Token verifier on stored rollouts with pseudo-labels (arXiv 2603.01025).

Every trace is read once by the frozen base; then probes at chosen positions read its KV in one
pass. By default the label of a probe runs linearly from 0.5 at the first generated token to 1 at the last of
a right trace, to 0 of a wrong one, and the loss is the mean squared error.

Runs under `torchrun` too: each process takes its share of every batch, and the first one writes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from tqdm.auto import tqdm
from transformers import TrainingArguments

from trueplex.data.traces import read_traces
from trueplex.errors import InputError, OptionError
from trueplex.evals.metrics import calibration, within_auroc
from trueplex.locks import locks
from trueplex.models.backbone import Backbone
from trueplex.solving.answering import Again
from trueplex.solving.settings import origin
from trueplex.train.common.batches import Labelled, Order, Probed, Probes, collate
from trueplex.train.common.footprint import GIB, Footprint
from trueplex.train.common.labels import MONTE_CARLO, SOFT, Worth, known
from trueplex.train.common.memory import OrderedTrainer
from trueplex.train.common.recipe import check_numbers, check_seed, check_trackers
from trueplex.train.common.run import about, arguments_for, dtype_of, leave_together, run
from trueplex.train.common.state import last_checkpoint
from trueplex.train.common.watch import Watch, watched
from trueplex.train.values import read_values
from trueplex.types import Status
from trueplex.verify.lora import left_out
from trueplex.verify.one_token import OneTokenVerifier, ProbeShape
from trueplex.verify.probe import ROWS, base_pass, probe_pass, score_shares

log = logging.getLogger(__name__)

LOSSES = ("mse", "bce")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        rank: LoRA rank; 0 trains the probe token and the head alone.
        target_modules: ends of the names of the linear layers that get LoRA; empty for all of them.
        positions: probes a trace a step, drawn anew each epoch, the last token always; None for every token.
        batch_size: traces a step, over all processes.
        labels: ``ramp`` (the paper's), ``constant``, ``final``, ``power``, ``monte-carlo``, ``measured`` or ``soft``.
        loss: ``mse`` (the paper's) or ``bce``, both against the soft label.
        start: folder of a verifier to begin from; empty starts from scratch.
        hard_negatives: a wrong trace counts by how many of its problem's traces share its answer, 1 on average.
        spread: positions are drawn one in each of as many equal parts of a trace.
        probe_tokens: M, how many tokens a probe has: 1 as in OTV, 4 as in STOP.
        probe_repeated: one embedding M times instead of M.
        probe_pool: what the head reads: the ``last`` token, or a ``learned`` mean of all.
        ranking: weight of a loss on pairs, a right and a wrong trace of one problem at the same share of both.
        balanced: as many right as wrong traces of every problem, drawn anew each epoch.
        patience: stop after so many checkpoints without a better AUROC within problems on validation, and
            keep the best; 0 trains to the end.
        every: steps between checkpoints.
        gradient_checkpointing: recompute activations in the backward pass: slower, in less memory.
        report_to: where figures are shown: ``tensorboard``, ``wandb``, ``trackio``.
        memory: most GiB that a pass over a batch may take beside the weights; a batch is read in parts that fit. None:
            a batch is read whole, and in parts once memory has run out.
        standardise: the head reads states centred and scaled by what a few traces give before it learns (`OneTokenVerifier.standardise`);
            not where it goes on from a ``start``.

    Raises:
        OptionError: a value is out of range, or an option has no effect here.
    """

    rank: int = 16
    target_modules: tuple[str, ...] = ()
    positions: int | None = 32
    batch_size: int = 32
    epochs: float = 1.0
    lr: float = 1e-3
    seed: int = 0
    labels: str = "ramp"
    loss: str = "mse"
    ranking: float = 0.0
    balanced: bool = False
    patience: int = 0
    every: int = 250
    gradient_checkpointing: bool = False
    report_to: tuple[str, ...] = ()
    start: str = ""
    hard_negatives: bool = False
    spread: bool = False
    probe_tokens: int = 1
    probe_repeated: bool = False
    probe_pool: str = "last"
    memory: float | None = None
    standardise: bool = True

    @property
    def shape(self) -> ProbeShape:
        return ProbeShape(self.probe_tokens, self.probe_repeated, self.probe_pool)

    def __post_init__(self) -> None:
        check_numbers(
            self, ("positions", "batch_size", "epochs", "lr", "every", "memory"), ("rank", "ranking", "patience")
        )
        check_seed(self.seed)
        check_trackers(self.report_to)
        known(self.labels)
        assert self.shape  # which refuses what cannot be
        if self.loss not in LOSSES:
            raise OptionError(f"unknown loss {self.loss!r}. Try: one of {', '.join(LOSSES)}")
        if self.spread and self.positions in (None, 1):
            raise OptionError("spread acts on positions that are drawn. Try: --positions 32")
        if self.rank == 0 and self.target_modules:
            raise OptionError(
                "with rank 0 no layer gets LoRA, so target-modules has no effect here. Try: drop it or raise the rank"
            )
        if self.ranking and self.positions is None:
            raise OptionError("ranking compares traces at the same shares. Try: give a number of positions")
        if self.labels == "final" and self.positions != 1:
            raise OptionError("final labels ask the last token alone. Try: --positions 1")


def read_labelled(path: str | Path, backbone: Backbone, answer: str | None = None) -> list[Labelled]:
    """The traces of a store, or of a rollout folder, that a verifier can learn from.

    Traces whose answer the grader could not judge are left out and counted, never taken as wrong. With an
    ``answer`` kind they are read and graded anew.

    Raises:
        StoreError: the traces are another model's.
        InputError: all are right, or all are wrong: there is nothing to tell apart.
    """
    again = Again(backbone, answer) if answer else None
    traces, ungraded, values = [], 0, read_values(path) if Path(path).is_dir() else {}
    for trace, prompt in read_traces(path, origin(None, backbone)):
        if again:
            again(trace)
        ungraded += trace.correct is None and trace.status in (Status.FINISHED, Status.TRUNCATED)
        if trace.correct is not None and trace.tokens > 0:
            assert trace.steps is not None
            valued = values.get((trace.problem.text, trace.seed, trace.index))
            traces.append(
                Labelled(
                    prompt, trace.steps, trace.correct, trace.problem.key, trace.problem.text, valued, trace.answer
                )
            )
    if ungraded:
        log.warning(f"{path}: {ungraded} traces have an answer that could not be graded; they are left out")
    right = sum(t.correct for t in traces)
    if right in (0, len(traces)):
        raise InputError(f"{path} holds {len(traces)} gradable traces, {right} right. Try: roll out problems of which "
                         "some paths are right and some wrong")  # fmt: skip
    return traces


def mixed(traces: Sequence[Labelled]) -> list[Labelled]:
    """The traces of problems that have both right and wrong ones.

    The others teach which problems are hard, not which path of a problem to trust.
    """
    outcomes: dict[int, set[bool]] = {}
    for trace in traces:
        outcomes.setdefault(trace.problem, set()).add(trace.correct)
    return [t for t in traces if len(outcomes[t.problem]) == 2]


def by_hardness(traces: Sequence[Labelled]) -> list[Labelled]:
    """The traces, each wrong one weighing as many of its problem's traces as share its answer; 1 on average of a problem's.

    An answer that many wrong traces share is what a vote falls for. A trace without an answer is alone with it.
    """
    shared: Counter[tuple[int, str | None]] = Counter((t.problem, t.answer) for t in traces if not t.correct)
    wrong: Counter[int] = Counter(t.problem for t in traces if not t.correct)
    total: Counter[int] = Counter()
    for t in traces:
        if not t.correct:
            total[t.problem] += shared[t.problem, t.answer] if t.answer is not None else 1

    def weight(t: Labelled) -> float:
        return (shared[t.problem, t.answer] if t.answer is not None else 1) * wrong[t.problem] / total[t.problem]

    return [t if t.correct else replace(t, weight=weight(t)) for t in traces]


class ProbeTask(nn.Module):
    """The loss as one module: base pass, probe pass, loss."""

    def __init__(self, verifier: OneTokenVerifier, recipe: Recipe) -> None:
        super().__init__()
        self.verifier, self.recipe = verifier, recipe
        self._layers = (
            (_recomputing_layers(verifier),) if recipe.gradient_checkpointing else ()
        )  # no submodules of the task

    def forward(self, inputs: Tensor, columns: Tensor, labels: Tensor, weights: Tensor, correct: Tensor,
                problems: Tensor) -> dict[str, Tensor]:  # fmt: skip
        verifier = self.verifier
        self._recompute(False)
        base = base_pass(verifier.backbone, inputs)
        self._recompute(True)
        logits = probe_pass(verifier, base, columns)
        if self.recipe.loss == "mse":
            each = (torch.sigmoid(logits) - labels) ** 2
        else:
            each = binary_cross_entropy_with_logits(logits, labels, reduction="none")
        loss = (each * weights).sum() / weights.sum()
        if self.recipe.ranking:
            loss = loss + self.recipe.ranking * ranking_loss(logits, correct, problems)
        return {"loss": loss, "logits": logits}

    def counts(self, batch: dict[str, Tensor]) -> float:
        return float(batch["weights"].sum())

    def _recompute(self, on: bool) -> None:
        """A layer in training mode recomputes its activations; it then drops the cache of the base pass, too."""
        for layers in self._layers:
            for layer in layers:
                layer.training = on

    def release(self) -> None:
        """Leave the base model as it was."""
        if self._layers:
            self.verifier.backbone.model.gradient_checkpointing_disable()
            self.verifier.backbone.model.eval()


def _recomputing_layers(verifier: OneTokenVerifier) -> list[nn.Module]:
    """The layers of transformers that can recompute their activations, with the LoRA that was active in the forward pass."""
    model = verifier.backbone.model
    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": verifier.recomputing})
    return [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]


def ranking_loss(logits: Tensor, correct: Tensor, problems: Tensor) -> Tensor:
    """Mean of softplus(wrong − right) over all pairs of one problem, probe by probe; logits [B, M]. 0 without pairs."""
    pairs = (problems[:, None] == problems[None, :]) & correct[:, None] & ~correct[None, :]
    right, wrong = pairs.nonzero(as_tuple=True)
    if not len(right):
        return logits.sum() * 0.0
    return softplus(logits[wrong] - logits[right]).mean()


SHARES = (0.25, 0.5, 0.75, 1.0)  # of a trace, where a verifier is judged while it learns


def quality(verifier: OneTokenVerifier, traces: Sequence[Labelled], rows: int = ROWS) -> dict[str, float]:
    """AUROC within problems at a quarter, half, three quarters and the end of the given traces; calibration at the end.

    ``rows`` traces are read together.
    """
    with tqdm(total=len(traces), desc="judging traces", delay=2.0, leave=False, disable=None) as bar:
        table = score_shares(verifier, [(t.prompt, t.steps) for t in traces], SHARES, rows, bar.update)
    problems, correct = [t.problem for t in traces], [t.correct for t in traces]
    ranked = {
        f"within_auroc@{share}": within_auroc(problems, correct, table[:, i].tolist()) for i, share in enumerate(SHARES)
    }
    calibrated = calibration(table[:, -1], np.array(correct))
    return ranked | {"ece@1.0": calibrated["ece"], "brier@1.0": calibrated["brier"]}


@locks("out")
def train_verifier(
    backbone: Backbone, train: Sequence[Labelled], validation: Sequence[Labelled], recipe: Recipe, out: str | Path,
    data: str = "",
) -> OneTokenVerifier:  # fmt: skip
    """Train, checkpointing under `out`/checkpoints and resuming from there, and write the verifier to `out`.

    The base keeps its dtype, and the verifier learns in float32 beside it. A resumed run ends in the weights that an
    uninterrupted one would have had.

    Raises:
        InputError: no trace could be compared with another, ``monte-carlo`` labels of traces that were not valued, or
            the run in `out` had another recipe.
        OptionError: the batch cannot be shared evenly by the processes, or the longest trace does not fit ``memory``.
        TrueplexError: memory ran out, or the weights are not finite.
        StoreError: what an earlier run left in `out` cannot be read.
    """
    out = Path(out)
    _check_values(train, recipe)
    torch.manual_seed(recipe.seed)
    verifier = OneTokenVerifier(backbone, recipe.rank, targets=recipe.target_modules, shape=recipe.shape)
    if recipe.start:
        verifier.begin_from(OneTokenVerifier.load(recipe.start, backbone))
    if recipe.hard_negatives:
        train = by_hardness(train)
    if recipe.rank and (missed := left_out(backbone.model)):
        log.info(missed)
    arguments = arguments_for(recipe, out, backbone.device.type == "cpu", about(backbone, train, validation))
    probes = Probes(train, recipe.positions, recipe.seed, together=recipe.ranking > 0, spread=recipe.spread)
    order = Order(probes, recipe.batch_size, recipe.balanced)
    if not len(order):
        raise InputError(
            "no problem has both right and wrong traces, so none can be balanced. Try: roll out more paths"
        )
    parts, rows = _within(backbone, [*train, *validation], recipe, arguments)
    watch = Watch(lambda: quality(verifier, watched(validation), rows), verifier, out, recipe.patience)
    task, batch_of = ProbeTask(verifier, recipe), collate(backbone, recipe.labels, _worth(train, recipe))
    if recipe.standardise and not recipe.start and last_checkpoint(out / "checkpoints") is None:
        standardise(verifier, probes, batch_of, rows)
    with verifier.attached():
        run(OrderedTrainer(task, arguments, train_dataset=probes, callbacks=[watch], order=order, collate=batch_of,
                           divisible=not recipe.ranking, parts=parts), watch, out, recipe.report_to)  # fmt: skip  # pairs are compared across a batch
    task.release()
    if arguments.process_index == 0:
        verifier.fold()
        measured = quality(verifier.eval(), validation, rows)
        verifier.save(out, {"data": data, "traces": len(train), "dtype": dtype_of(backbone), "recipe": asdict(recipe),
                            "validation": measured})  # fmt: skip
    leave_together(arguments)
    return verifier


STANDARD = 64  # traces that the head's inputs are standardised by


@torch.no_grad()
def standardise(
    verifier: OneTokenVerifier, probes: Probes, batch_of: Callable[[list[Probed]], dict[str, Tensor]], rows: int
) -> None:
    """Standardise what the head reads by probes of some traces, the same in every process; ``rows`` are read together at most."""
    chosen = np.random.default_rng(probes.seed).permutation(len(probes))[:STANDARD].tolist()
    seen: list[Tensor] = []
    hook = verifier.probe.register_forward_pre_hook(lambda probe, given: seen.append(given[0].flatten(0, -3)))
    together = min(rows, 8)
    try:
        for first in range(0, len(chosen), together):
            batch = batch_of([probes[number] for number in chosen[first : first + together]])
            inputs, columns = (batch[name].to(verifier.backbone.device) for name in ("inputs", "columns"))
            probe_pass(verifier, base_pass(verifier.backbone, inputs), columns)
    finally:
        hook.remove()
    verifier.standardise(torch.cat(seen))


def _worth(train: Sequence[Labelled], recipe: Recipe) -> Worth | None:
    """What traces of each outcome were worth, where the labels ask for it."""
    if recipe.labels != SOFT:
        return None
    return Worth.of((len(t.steps), t.correct, t.values) for t in train if t.values is not None)


def _check_values(train: Sequence[Labelled], recipe: Recipe) -> None:
    unvalued = sum(t.values is None for t in train)
    if recipe.labels == MONTE_CARLO and unvalued:
        raise InputError(
            f"{unvalued} of {len(train)} traces have no Monte-Carlo values. Try: `trueplex train values`, or leave them out"
        )


def _within(
    backbone: Backbone, traces: Sequence[Labelled], recipe: Recipe, arguments: TrainingArguments
) -> tuple[Callable[[Sequence[Probed]], int], int]:
    """How many parts a batch takes within the budget of memory, and how many traces are scored together.

    Raises:
        OptionError: the longest trace does not fit; or a batch, where it cannot be split.
    """
    if recipe.memory is None:
        return lambda batch: 1, ROWS
    budget, footprint = int(recipe.memory * GIB), Footprint.of(backbone, recipe.gradient_checkpointing)
    longest = max(traces, key=len)
    whole = bool(recipe.ranking) or arguments.world_size > 1
    footprint.check(len(longest), recipe.positions or len(longest.steps),
                    arguments.per_device_train_batch_size if whole else 1, budget)  # fmt: skip
    rows = min(ROWS, max(1, budget // footprint.row(len(longest), len(SHARES), learning=False)))
    return lambda batch: footprint.parts([(len(p.trace), len(p.positions)) for p in batch], budget), rows
