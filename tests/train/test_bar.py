"""What a training says beside its bar."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from trueplex.train.common.bar import Bar, sentence

JUDGED = {"eval_within_auroc@0.25": 0.5, "eval_within_auroc@1.0": 0.8417, "eval_ece@1.0": 0.1, "eval_brier@1.0": 0.18}


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"loss": 0.09506, "grad_norm": 0.13, "learning_rate": 9.297e-4}, "step 50/248: loss 0.0951, learning rate 0.00093"),
        (JUDGED, "step 50/248, on validation: AUROC within problems 0.50 at 25%, 0.84 at the end; calibration error 0.10; Brier score 0.18"),
        ({"eval_within_auroc@1.0": math.nan}, "step 50/248, on validation: no problem has both right and wrong traces"),
        ({"train_runtime": 5.4, "train_loss": 0.1, "epoch": 1.0}, ""),
    ],
)  # fmt: skip
def test_figures_are_said_in_a_sentence(figures: dict[str, float], said: str) -> None:
    assert sentence(figures, 50, 248) == said


def test_it_stands_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    bar, state = Bar(), SimpleNamespace(is_world_process_zero=True, max_steps=248, global_step=50)
    bar.on_train_begin(None, state, None)
    bar.on_log(None, state, None, logs=JUDGED)
    bar.on_train_end(None, state, None)
    out, err = capsys.readouterr()
    assert out == "" and "0.84 at the end" in err
