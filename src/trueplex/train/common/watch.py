"""A judge at checkpoints: validation is logged, the best weights are kept, and a run that no longer improves is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import TrainerCallback

from trueplex.files import damaged, write_text
from trueplex.train.common.batches import Labelled
from trueplex.train.common.state import NUMBER, as_line, read_lines, read_weights, seal_checkpoint, write_weights

JUDGED_BY = "within_auroc@1.0"
WATCHED = 2000  # about so many validation traces are judged at every checkpoint; all of them at the end


class Watch(TrainerCallback):
    """Judge whenever a checkpoint is due, keep the best weights, and stop when patience is at its end."""

    def __init__(self, judge: Callable[[], dict[str, float]], weights: nn.Module, out: Path, patience: int) -> None:
        self.judge, self.weights, self.patience = judge, weights, patience
        self.path, self.best = out / "validation.jsonl", out / "best.safetensors"
        self.log: Callable[[dict[str, float]], None] = lambda figures: None  # where figures are tracked

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir), state.global_step)
        control.should_training_stop = self.ends_at(state.global_step, args) or control.should_training_stop

    def ends_at(self, step: int, args: Any) -> bool:
        """Judge a checkpoint, unless that was done before a kill; whether patience is at its end, told to all processes."""
        ends = [args.process_index == 0 and self._ends_at(step)]
        if args.world_size > 1:  # all processes stop, or none
            broadcast_object_list(ends)
        return ends[0]

    def _rows(self) -> list[dict[str, Any]]:
        rows = read_lines(self.path, {JUDGED_BY: (*NUMBER, NoneType)})
        return [row | {JUDGED_BY: math.nan if row[JUDGED_BY] is None else row[JUDGED_BY]} for row in rows]

    def _ends_at(self, step: int) -> bool:
        rows = self._rows()
        if step not in [row["step"] for row in rows]:
            rows = self._judged(step, rows)
        until = [row for row in rows if row["step"] <= step]
        return self.patience > 0 and len(until) - 1 - _best(until) >= self.patience

    def _judged(self, step: int, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows with one for this step: its figures are logged, and it is kept if it is the best."""
        figures = self.judge()
        rows = [*rows, {"step": step, **figures}]
        if self.patience and _best(rows) == len(rows) - 1:
            # Before it is noted: a kill in between has it judged and kept again.
            write_weights(self.best, self.weights.state_dict())
        write_text(self.path, "".join(map(as_line, rows)))
        self.log({f"eval_{name}": value for name, value in figures.items()})
        return rows

    def restore(self) -> None:
        """Give the weights what was best, where that was kept.

        Raises:
            StoreError: the best weights cannot be read, or are not those of this model.
        """
        if self.patience and self.best.exists():
            state, own = read_weights(self.best), self.weights.state_dict()
            if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in own.items()}:
                raise damaged(self.best, "it holds the weights of another model")
            self.weights.load_state_dict(state)


def _best(rows: Sequence[dict[str, Any]]) -> int:
    return max(range(len(rows)), key=lambda i: (rows[i][JUDGED_BY], -i))


def watched(validation: Sequence[Labelled]) -> list[Labelled]:
    """About `WATCHED` traces: whole problems, spread over all, as they come folder by folder."""
    problems = list(dict.fromkeys(t.problem for t in validation))
    chosen = set(problems[:: max(1, round(len(validation) / WATCHED))])
    return [t for t in validation if t.problem in chosen]
