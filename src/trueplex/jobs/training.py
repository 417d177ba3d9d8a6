"""`trueplex train …`: read rollouts, train, and say how good the result is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trueplex.backbone import load
from trueplex.errors import TrueplexError
from trueplex.session import say
from trueplex.train.verifier import mixed, read_labelled, train_verifier


def teach(
    data: Sequence[Path], validation: Sequence[Path], model: str, device: str | None, recipe: Any, out: Path
) -> None:
    """`trueplex train verifier`: read rollouts, train, and say how good the verifier is."""
    backbone = load(model, device)
    traces = [t for folder in data for t in read_labelled(folder, backbone, say)]
    held = [t for folder in validation for t in read_labelled(folder, backbone, say)]
    if not held:  # by problem, so that no problem is on both sides; by high bits, as the low ones decide splits
        held = [t for t in traces if (t.problem >> 32) % 10 == 0]
        traces = [t for t in traces if (t.problem >> 32) % 10]
    sampled, traces, held = len(traces), mixed(traces), mixed(held)
    if not held or not traces:
        raise TrueplexError(
            "too few problems with right and wrong traces to learn and to judge by; mend: roll out more"
        )
    say(
        f"{len(traces)} traces to learn from (of {sampled}: problems with both right and wrong ones), {len(held)} to judge by"
    )
    verifier = train_verifier(backbone, traces, held, recipe, out, ", ".join(map(str, data)))
    if verifier.card:  # of several processes, the first one wrote it
        print(json.dumps(verifier.card["validation"]))
