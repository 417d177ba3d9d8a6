"""A stored trace read again: the log-probabilities of what it drew, by one pass without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.prefill import inputs_of
from trueplex.engine.sampling import log_softmax
from trueplex.models.backbone import Backbone
from trueplex.types import Steps


@torch.inference_mode()
def replay(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, temperature: float = 1.0,
           answer_temperature: float | None = None, thinking_tokens: int | None = None) -> Tensor:  # fmt: skip
    """Log-probs [T, K] float32 of the stored ids, by one full teacher-forced pass without a cache (law 3).

    Steps from ``thinking_tokens`` on are read at ``answer_temperature`` where one is given.
    """
    ids = torch.from_numpy(steps.ids.astype(np.int64)).to(backbone.device)
    return _logps(backbone, prompt_ids, steps, temperature, answer_temperature, thinking_tokens).gather(-1, ids)


@torch.inference_mode()
def likeliest(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, count: int, temperature: float = 1.0,
              answer_temperature: float | None = None, thinking_tokens: int | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The ids and log-probs [T, count] of the most likely tokens at every stored step, by the same pass as `replay`."""
    found = _logps(backbone, prompt_ids, steps, temperature, answer_temperature, thinking_tokens)
    top = found.topk(min(count, backbone.vocabulary), dim=-1)
    return top.indices, top.values


def _logps(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, temperature: float,
           answer_temperature: float | None, thinking_tokens: int | None) -> Tensor:  # fmt: skip
    """Log-probs [T, V] float32 of every token at every stored step."""
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
    logps = log_softmax(logits, temperature)
    if answer_temperature is not None and thinking_tokens is not None:
        logps[thinking_tokens:] = log_softmax(logits[thinking_tokens:], answer_temperature)
    return logps
