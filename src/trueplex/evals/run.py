"""`trueplex eval`: sample every problem once, store the traces, and compute every figure from them."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from trueplex.backbone import Backbone
from trueplex.evals.summary import summarise
from trueplex.pipeline import Scorer
from trueplex.settings import Settings, configuration
from trueplex.store import read_traces
from trueplex.train.rollouts import rollout
from trueplex.types import Problem

RESULTS = "results.json"


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code: versions and hardware."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip


def evaluate(
    backbone: Backbone, suites: Mapping[str, Sequence[Problem]], settings: Settings, out: Path, scorer: Scorer | None,
    progress: Callable[[int, int], None], say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Traces of each suite under `out`/SUITE (resumable), figures in `out`/results.json, which is returned."""
    figures = {}
    for name, problems in suites.items():
        path = rollout(backbone, problems, settings, out / name, scorer, progress, say)
        figures[name] = summarise(trace for trace, _ in read_traces(path, say))
    result = {"config": configuration(settings, backbone), "machine": machine(), "suites": figures}
    write_results(result, out)
    return result


def write_results(result: dict[str, Any], out: Path) -> None:
    """Write `out`/results.json, whole or not at all; lists of numbers on one line, for people."""
    out.mkdir(parents=True, exist_ok=True)
    text = re.sub(r"\[[\s\d.,-]+\]", lambda m: "[" + ", ".join(m[0][1:-1].replace(",", " ").split()) + "]",
                  json.dumps(result, indent=1))  # fmt: skip
    temporary = out / (RESULTS + ".tmp")
    temporary.write_text(text + "\n")
    temporary.replace(out / RESULTS)
