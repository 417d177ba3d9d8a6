"""Run by torchrun: greedy and sampled tokens of a model that the processes share, written by each to a file of its own.

torchrun --nproc-per-node 2 tests/models/sharing.py MODEL OUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Stopped, stream
from trueplex.solving.settings import Settings
from trueplex.types import Problem

WAYS = {"greedy": Thinking("discrete", sampling=Sampling(0), ending=Ending(20)), "multiplex": Thinking("multiplex", 3, ending=Ending(20)),
        "late": Thinking("discrete", ending=Ending(400, max_seconds=0.2))}  # fmt: skip
PROBLEMS = [Problem("What is 2 + 2?"), Problem("Ann has 12 apples.")]


def tokens(backbone: Backbone, way: str) -> list[list[Any]]:
    """What every trace drew, and why it stopped."""
    settings = Settings(paths=2, thinking=WAYS[way], verifier="none", select="majority", seed=6)
    traces = [e.trace for e in stream(backbone, PROBLEMS, settings) if isinstance(e, Stopped)]
    return sorted([t.problem.text, t.index, t.reason, t.steps.ids.tolist() if t.steps else []] for t in traces)


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, out = sys.argv[1:]
    backbone = load(model, "cpu", torch.float32, device_map="tp")
    found = {"fingerprint": backbone.fingerprint, **{way: tokens(backbone, way) for way in WAYS}}
    (Path(out) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
    os._exit(0)  # gloo's threads can abort an interpreter that ends by itself
