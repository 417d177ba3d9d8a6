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
    logps = log_softmax(logits, temperature)
    if answer_temperature is not None and thinking_tokens is not None:
        logps[thinking_tokens:] = log_softmax(logits[thinking_tokens:], answer_temperature)
    return logps.gather(-1, ids)


AT_ONCE = 256  # steps whose logits are held together: a large vocabulary takes a megabyte a step


@torch.inference_mode()
def likeliest(
    backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, at: Sequence[int], count: int, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The ids and log-probs [n, count] of the most likely tokens at the steps `at`, by passes like that of `replay`."""
    inputs = inputs_of(backbone, prompt_ids, steps)
    positions = torch.arange(len(inputs), device=backbone.device)[None]
    ids, logps = [], []
    for first in range(0, len(at), AT_ONCE):
        wanted = torch.tensor(at[first : first + AT_ONCE], device=backbone.device) + len(prompt_ids) - 1
        output = backbone.model(
            inputs_embeds=inputs[None], attention_mask=backbone.masks(positions, len(inputs)), position_ids=positions,
            use_cache=False, logits_to_keep=wanted,
        )  # fmt: skip
        top = log_softmax(output.logits[0, :, : backbone.vocabulary], temperature).topk(
            min(count, backbone.vocabulary), dim=-1
        )
        ids.append(top.indices)
        logps.append(top.values)
    return torch.cat(ids), torch.cat(logps)
