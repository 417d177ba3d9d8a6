"""Reading what stands before the next step: prompts, and the merged thoughts of traces that were begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.thinking import merged
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import Lane, LaneCache, Prefix, rounded
from trueplex.types import Steps

PREFILL_TOKENS = 16384  # padded tokens fed at once: bounds the memory of a prefill
PREFILL_SHARE = 8  # of the budget of KV, one part in so many at most, but for a single long prompt


def prompt_inputs(backbone: Backbone, prompt_ids: Sequence[int]) -> Tensor:
    """The inputs [P, H] of a prompt."""
    return backbone.embed(torch.tensor(prompt_ids, device=backbone.device))


def inputs_of(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps) -> Tensor:
    """The inputs [P + T, H] that the model read: the prompt's embeddings, then each step's merge."""
    return torch.cat([prompt_inputs(backbone, prompt_ids), step_inputs(backbone, steps)])


def step_inputs(backbone: Backbone, steps: Steps) -> Tensor:
    """The inputs [T, H] of a trace's steps: each step's merge."""
    ids = torch.from_numpy(steps.ids.astype(np.int64)).to(backbone.device)
    return merged(backbone.embed(ids), torch.from_numpy(steps.weights).to(backbone.device))


def prefill(backbone: Backbone, cache: LaneCache, inputs: Sequence[Tensor], prefix: Prefix | None = None,
            rows: int = PREFILL_TOKENS, kept: bool = False) -> Iterator[tuple[Lane, Tensor]]:  # fmt: skip
    """Read inputs [L, H] each, which stand behind the prefix, in chunks: a lane of their rows, and their next logits [B, V].

    A lane has at most so many rows. Unless lanes are ``kept``, the caller takes what it needs of each before it asks for the
    next: it is freed then. Padding is written behind each row but never counts; where it would change a state, rows of
    one lane are of one length.
    """
    for chunk in _chunks(backbone, cache, inputs, rows):
        lane = cache.add(len(chunk), max(len(row) for row in chunk), prefix)
        yield lane, _fill(backbone, cache, chunk, lane)
        if not kept:
            cache.drop(lane)


def _chunks(backbone: Backbone, cache: LaneCache, inputs: Sequence[Tensor], rows: int) -> Iterator[list[Tensor]]:
    """Neighbours that, padded, fit into one forward pass, and into a small share of the budget."""
    budget = float("inf") if cache.budget is None else cache.budget // PREFILL_SHARE

    def fits(chunk: list[Tensor]) -> bool:
        columns = rounded(max(len(row) for row in chunk))
        alike = not backbone.kinds.recurrent or len({len(row) for row in chunk}) == 1
        return alike and len(chunk) * columns <= PREFILL_TOKENS and len(chunk) * backbone.row_bytes(columns) <= budget

    chunk = [inputs[0]]
    for row in inputs[1:]:
        if len(chunk) == rows or not fits([*chunk, row]):
            yield chunk
            chunk = []
        chunk.append(row)
    yield chunk


def _fill(backbone: Backbone, cache: LaneCache, inputs: list[Tensor], lane: Lane) -> Tensor:
    rows, begin = len(inputs), lane.before
    ends = np.array([len(row) - 1 for row in inputs])
    padded = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
    segments = [(lane, 0, rows)]
    if padded.shape[1] > 1:
        backbone.decode_pass(cache, segments, np.full(rows, begin), padded[:, :-1])
    # The last input of each row is fed by itself, so that ragged rows need one logit each.
    last = padded[torch.arange(rows, device=padded.device), torch.from_numpy(ends).to(padded.device)][:, None]
    logits, _ = backbone.decode_pass(cache, segments, begin + ends, last)
    return logits
