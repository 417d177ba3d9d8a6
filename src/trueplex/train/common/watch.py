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

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint that a kill left unjudged is judged now."""
        judged = [row["step"] for row in self._rows()]
        if state.global_step and state.global_step not in judged:
            self.on_save(args, state, control, **kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir), state.global_step)
        stop = [state.is_world_process_zero and self._judge(state.global_step)]
        if args.world_size > 1:  # all processes stop, or none
            broadcast_object_list(stop)
        control.should_training_stop = stop[0] or control.should_training_stop

    def _rows(self) -> list[dict[str, Any]]:
        rows = read_lines(self.path, {JUDGED_BY: (*NUMBER, NoneType)})
        return [row | {JUDGED_BY: math.nan if row[JUDGED_BY] is None else row[JUDGED_BY]} for row in rows]

    def _judge(self, step: int) -> bool:
        """Log the figures of this checkpoint, keep it if it is the best; True when patience is at its end."""
        figures = self.judge()
        # A resumed run may come here again.
        records = [*(r for r in self._rows() if r["step"] < step), {"step": step, **figures}]
        best = max(range(len(records)), key=lambda i: (records[i][JUDGED_BY], -i))
        if self.patience and best == len(records) - 1:
            # Before it is noted: a kill in between has it judged and kept again.
            write_weights(self.best, self.weights.state_dict())
        write_text(self.path, "".join(map(as_line, records)))
        self.log({f"eval_{name}": value for name, value in figures.items()})
        return self.patience > 0 and len(records) - 1 - best >= self.patience

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


def watched(validation: Sequence[Labelled]) -> list[Labelled]:
    """About `WATCHED` traces: whole problems, spread over all, as they come folder by folder."""
    problems = list(dict.fromkeys(t.problem for t in validation))
    chosen = set(problems[:: max(1, round(len(validation) / WATCHED))])
    return [t for t in validation if t.problem in chosen]
