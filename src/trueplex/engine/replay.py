"""A stored trace read again: the log-probabilities of what it drew, by one pass without a cache, its logits a few columns at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.prefill import inputs_of
from trueplex.engine.sampling import log_softmax
from trueplex.models.backbone import Backbone
from trueplex.models.head import LOGITS, log_probs
from trueplex.types import Steps


@torch.inference_mode()
def replay(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, temperature: float = 1.0) -> Tensor:
    """Log-probs [T, K] float32 of the stored ids, by one full teacher-forced pass without a cache (law 3)."""
    temperatures = torch.full((len(steps),), temperature, device=backbone.device)
    ids = torch.from_numpy(steps.ids.astype(np.int64)).to(backbone.device)
    with backbone.lock:
        hidden = _hidden(backbone, prompt_ids, steps)
        return log_probs(backbone.head, hidden, ids, temperatures, backbone.vocabulary)


@torch.inference_mode()
def likeliest(
    backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, at: Sequence[int], count: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The ids and log-probs [n, count] of the most likely tokens at the steps `at`, by a pass like that of `replay`."""
    ids, logps = [], []
    with backbone.lock:
        hidden = _hidden(backbone, prompt_ids, steps)[torch.tensor(at, device=backbone.device)]
        for part in hidden.split(max(1, LOGITS // backbone.vocabulary)):
            logits = backbone.head(part)[:, : backbone.vocabulary].float()
            top = log_softmax(logits, temperature).topk(min(count, backbone.vocabulary), dim=-1)
            ids.append(top.indices)
            logps.append(top.values)
    return torch.cat(ids), torch.cat(logps)


def _hidden(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps) -> Tensor:
    """The last hidden states [T, H] that each step was drawn from."""
    inputs = inputs_of(backbone, prompt_ids, steps)
    positions = torch.arange(len(inputs), device=backbone.device)[None]
    _, hidden = backbone.forward(inputs[None], positions, None, len(inputs))
    return hidden[0, len(prompt_ids) - 1 : -1]
