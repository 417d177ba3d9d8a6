"""Where a run's figures are shown while it runs: TensorBoard, Weights & Biases or trackio, by transformers' own callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from trueplex.errors import MissingExtra, OptionError


def trackers(names: Sequence[str], out: Path, arguments: TrainingArguments, step: int) -> list[TrainerCallback]:
    """The callbacks that report a run; none on processes other than the first.

    TensorBoard's files stand in `out`/tensorboard, and what a killed run wrote after ``step`` (of the optimizer) is
    forgotten.

    Raises:
        MissingExtra: TensorBoard is not installed.
        OptionError: another tracker is not installed.
    """
    if arguments.process_index:
        return []
    found: list[TrainerCallback] = []
    for name in names:
        if name == "tensorboard":
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtra("tensorboard", "train") from error
            found.append(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)))
        else:
            try:
                found.append(get_reporting_integration_callbacks([name])[0]())
            except (RuntimeError, ImportError) as error:
                raise OptionError(f"report-to names {name}, which is not installed. Try: pip install {name}") from error
    return found
