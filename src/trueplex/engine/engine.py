"""Where decoding starts, and how a stored trace is read again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.backbone import Backbone
from trueplex.engine.live import LiveBatch
from trueplex.engine.sampling import log_softmax
from trueplex.engine.thinking import Thinking, merged
from trueplex.errors import OptionError
from trueplex.types import Prompt, Steps

ROWS = {"cpu": 64, "mps": 64, "cuda": 256}  # traces decoded together unless the caller says


def start(backbone: Backbone, prompts: Sequence[Prompt], paths: int, thinking: Thinking, seed: int = 0,
          rows: int | None = None) -> LiveBatch:  # fmt: skip
    """A live batch that will grow `paths` traces of each prompt, at most `rows` (or `paths`) at once.

    Raises:
        OptionError: `paths` or `rows` is below 1.
    """
    if paths < 1:
        raise OptionError(f"paths is {paths}; mend: at least 1")
    if rows is not None and rows < 1:
        raise OptionError(f"rows is {rows}; mend: at least 1")
    rows = min(rows or ROWS.get(backbone.device.type, 64), paths * max(1, len(prompts)))
    return LiveBatch(backbone, prompts, paths, thinking, seed, rows)


def inputs_of(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps) -> Tensor:
    """The inputs [P + T, H] that the model read: the prompt's embeddings, then each step's merge."""
    device = backbone.device
    prompt = backbone.embed(torch.tensor(prompt_ids, device=device))
    ids = torch.from_numpy(steps.ids.astype(np.int64)).to(device)
    weights = torch.from_numpy(steps.weights).to(device)
    return torch.cat([prompt, merged(backbone.embed(ids), weights)])


@torch.inference_mode()
def replay(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, temperature: float = 1.0) -> Tensor:
    """Log-probs [T, K] float32 of the stored ids, by one full teacher-forced pass without a cache (law 3)."""
    inputs = inputs_of(backbone, prompt_ids, steps)
    positions = torch.arange(len(inputs), device=backbone.device)[None]
    output = backbone.model(
        inputs_embeds=inputs[None],
        attention_mask=backbone.masks(positions, len(inputs)),
        position_ids=positions,
        use_cache=False,
    )
    logits = output.logits[0, len(prompt_ids) - 1 : -1, :].float()
    if backbone.padded:
        logits[:, backbone.vocabulary :] = float("-inf")
    ids = torch.from_numpy(steps.ids.astype(np.int64)).to(backbone.device)
    return log_softmax(logits, temperature).gather(-1, ids)
