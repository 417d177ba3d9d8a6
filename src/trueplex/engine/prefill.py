"""Reading what stands before the next step: prompts, and the merged thoughts of traces that were begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.thinking import merged
from trueplex.models.backbone import Backbone
from trueplex.models.cache import Plan, SlotCache
from trueplex.types import Steps

PREFILL_TOKENS = 16384  # padded tokens fed at once: bounds the memory of a prefill


def prompt_inputs(backbone: Backbone, prompt_ids: Sequence[int]) -> Tensor:
    """The inputs [P, H] of a prompt."""
    return backbone.embed(torch.tensor(prompt_ids, device=backbone.device))


def inputs_of(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps) -> Tensor:
    """The inputs [P + T, H] that the model read: the prompt's embeddings, then each step's merge."""
    ids = torch.from_numpy(steps.ids.astype(np.int64)).to(backbone.device)
    weights = torch.from_numpy(steps.weights).to(backbone.device)
    return torch.cat([prompt_inputs(backbone, prompt_ids), merged(backbone.embed(ids), weights)])


def prefill(backbone: Backbone, cache: SlotCache, inputs: Sequence[Tensor], first: int) -> Tensor:
    """Fill rows first … of the cache with the inputs, [L, H] each; returns their next logits [B, V].

    Padding is written behind each row but never counts.
    """
    return torch.cat([_fill(backbone, cache, chunk, first + at) for at, chunk in _chunks(inputs)])


def _chunks(inputs: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
    """Neighbours that, padded, fit into one forward pass, each chunk with the number of its first."""
    at, chunk = 0, [inputs[0]]
    for number, row in enumerate(inputs[1:], 1):
        if (len(chunk) + 1) * max(len(r) for r in (*chunk, row)) > PREFILL_TOKENS:
            yield at, chunk
            at, chunk = number, []
        chunk.append(row)
    yield at, chunk


def _fill(backbone: Backbone, cache: SlotCache, inputs: list[Tensor], first: int) -> Tensor:
    rows, device = len(inputs), backbone.device
    ends = torch.tensor([len(row) - 1 for row in inputs], device=device)
    padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    before = padded.shape[1] - 1
    if before:
        positions = torch.arange(before, device=device)[None].expand(rows, -1)
        cache.write(Plan(first, first + rows, positions, before, 0))
        backbone.forward(padded[:, :-1], positions, cache, before)
    # The last input of each row is fed by itself, so that ragged rows need one logit each.
    cache.write(Plan(first, first + rows, ends[:, None], before + 1, None))
    last = padded[torch.arange(rows, device=device), ends][:, None]
    logits, _ = backbone.forward(last, ends[:, None], cache, before + 1)
    return logits
