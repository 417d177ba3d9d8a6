"""The progress of a training on standard error: a bar, and what was measured in sentences."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback

RANKED = "eval_within_auroc@"  # and the share of a trace
JUDGED = {"eval_ece@1.0": "calibration error", "eval_brier@1.0": "Brier score"}


class Bar(ProgressCallback):
    """transformers' bar, beside which a line says what its dictionary of figures would have said on standard output."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        said = sentence(logs or {}, state.global_step, state.max_steps)
        if said and state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.write(said, file=sys.stderr)


def sentence(figures: Mapping[str, float], step: int, steps: int) -> str:
    """What was measured at a step of so many; empty where nothing of it is for readers."""
    if "loss" in figures:
        return f"step {step}/{steps}: loss {figures['loss']:.4f}, learning rate {figures['learning_rate']:.2g}"
    shares = {name.removeprefix(RANKED): value for name, value in figures.items() if name.startswith(RANKED)}
    if not shares:
        return ""
    if all(map(math.isnan, shares.values())):
        ranked = "no problem has both right and wrong traces"
    else:
        ranked = "AUROC within problems " + ", ".join(
            f"{value:.2f} at {float(share):.0%}".replace("at 100%", "at the end") for share, value in shares.items()
        )
    others = "".join(f"; {name} {figures[key]:.2f}" for key, name in JUDGED.items() if key in figures)
    return f"step {step}/{steps}, on validation: {ranked}{others}"
