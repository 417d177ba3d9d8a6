"""`trueplex train …`: read rollouts, train, and say how good the result is."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trueplex.cli.progress import Bar
from trueplex.errors import InputError, TrueplexError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.train.common.batches import Labelled
from trueplex.train.common.labels import MEASURED, MONTE_CARLO
from trueplex.train.verifier import mixed, read_labelled, train_verifier

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trueplex.train.reward import RewardRecipe
    from trueplex.train.values import Valuing


def teach(
    data: Sequence[Path], validation: Sequence[Path], model: str, device: str | None, bf16: bool | None, recipe: Any, out: Path
) -> None:  # fmt: skip
    """`trueplex train verifier`: read rollouts, train, and say how good the verifier is."""
    backbone = load(model, device, _dtype(bf16))
    traces, held = _split(data, validation, backbone)
    if recipe.labels in (MONTE_CARLO, MEASURED):
        valued = [t for t in traces if t.values is not None]
        if not valued:
            raise InputError("no trace has Monte-Carlo values. Try: `trueplex train values` on the same folders first")
        fate = "are left out" if recipe.labels == MONTE_CARLO else "are labelled by the ramp"
        log.info(f"{len(traces) - len(valued)} of {len(traces)} traces have no Monte-Carlo values and {fate}")
        traces = valued if recipe.labels == MONTE_CARLO else traces
    verifier = train_verifier(backbone, traces, held, recipe, out, ", ".join(map(str, data)))
    if verifier.card:  # of several processes, the first one wrote it
        print(json.dumps(verifier.card["validation"]))


def teach_reward(
    data: Sequence[Path], validation: Sequence[Path], model: str, device: str | None, bf16: bool | None,
    recipe: RewardRecipe, out: Path,
) -> None:  # fmt: skip
    """`trueplex train reward`: read rollouts, train, and say how good the reward model is."""
    from trueplex.train.reward import train_reward
    from trueplex.train.values import steps_of

    backbone = load(model, device, _dtype(bf16))
    traces, held = _split(data, validation, backbone)
    if recipe.kind == "process":
        for folder, valued in ((folder, steps_of(folder)) for folder in data):
            if valued and valued != (recipe.steps or valued):
                raise InputError(f"{folder} was valued behind {valued} and steps are {recipe.steps}, so none would match. Try: "
                                 f"--steps {valued}, or roll out and value anew")  # fmt: skip
        log.info(f"{sum(t.values is not None for t in traces)} of {len(traces)} traces have Monte-Carlo values; the others teach "
            "their last step alone")  # fmt: skip
    card = train_reward(backbone, traces, held, recipe, out, ", ".join(map(str, data)))
    if card:
        print(json.dumps(card["validation"]))


def appreciate(
    data: Sequence[Path],
    model: str,
    device: str | None,
    valuing: Valuing,
    most: int | None,
    rows: int | None,
    quiet: bool,
) -> None:
    """`trueplex train values`: let the model go on from prefixes of stored traces, and store how often it ends right."""
    from trueplex.train.values import asked, value

    backbone = load(model, device)
    total = sum(len(a.prefixes) for folder in data for a in asked(backbone, folder, valuing)[:most]) * valuing.samples
    with Bar(total, quiet) as bar:
        for folder in data:
            value(backbone, folder, valuing, most, rows, bar.step)


def _dtype(bf16: bool | None) -> torch.dtype | None:
    """The base model's dtype; None for what fits the device."""
    return None if bf16 is None else torch.bfloat16 if bf16 else torch.float32


def _split(
    data: Sequence[Path], validation: Sequence[Path], backbone: Backbone
) -> tuple[list[Labelled], list[Labelled]]:
    """The traces to learn from and to judge by: those of problems that have both right and wrong ones."""
    traces = [t for folder in data for t in read_labelled(folder, backbone)]
    held = [t for folder in validation for t in read_labelled(folder, backbone)]
    if not held:  # by problem, so that no problem is on both sides; by high bits, as the low ones decide splits
        held = [t for t in traces if (t.problem >> 32) % 10 == 0]
        traces = [t for t in traces if (t.problem >> 32) % 10]
    sampled, traces, held = len(traces), mixed(traces), mixed(held)
    if not held or not traces:
        raise TrueplexError("too few problems with right and wrong traces to learn and to judge by. Try: roll out more")
    log.info(
        f"{len(traces)} traces to learn from (of {sampled}: problems with both right and wrong ones), {len(held)} to judge by"
    )
    return traces, held
