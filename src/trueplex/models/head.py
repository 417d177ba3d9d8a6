"""Last hidden states → log-probabilities of given ids, a few columns at a time.

Logits of a real vocabulary are large: 2,048 columns of 151,936 are 1.2 GB in float32, and a softmax and its gradient keep
several copies. Here logits exist for one chunk of columns at a time; the backward pass computes them again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutput

LOGITS = 2**24  # at once: 64 MiB in float32

Head = Callable[[Tensor], Tensor]


class Output(BaseModelOutput):
    """What a transformer gives of its last hidden states alone: all else that a family asks of it is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def transformer_of(model: Any) -> Any:
    """What of a causal language model gives the last hidden states: all but its output matrix."""
    return model.model if model.base_model is model else model.base_model  # Llama 4 names it unlike its prefix


def head_of(model: Any) -> Head:
    """The model's own way from last hidden states [n, H] to logits [n, V], with all that it adds: scales and caps.

    It is the model's forward, with its transformer's output given instead of computed, so no family needs a rule of its own.
    """

    def head(hidden: Tensor) -> Tensor:
        base = transformer_of(model)
        own = vars(base).get("forward")
        base.forward = lambda *arguments, **named: Output(last_hidden_state=hidden[None])
        try:
            return type(model).forward(model, inputs_embeds=hidden[None], use_cache=False).logits[0]
        finally:
            if own is None:
                del base.forward
            else:  # what placed the model on several devices wraps it
                base.forward = own

    return head


def log_probs(
    head: Head, hidden: Tensor, ids: Tensor, temperatures: Tensor, vocabulary: int, at_once: int | None = LOGITS
) -> Tensor:
    """Log-probabilities [n, K] float32 of ids [n, K] under softmax(logits / T), differentiable; hidden [n, H], T [n].

    ``vocabulary``: how many logits count, as a padded vocabulary has rows that no token has. At T = 0 those of T = 1.
    ``at_once``: most logits that exist together; None computes all of them at once and keeps them for the backward pass.
    """

    def part(hidden: Tensor, ids: Tensor, temperatures: Tensor) -> Tensor:
        logits = head(hidden)[:, :vocabulary].float()
        logits = logits / temperatures[:, None].to(logits.device)
        return torch.log_softmax(logits, dim=-1).gather(-1, ids.to(logits.device))

    temperatures = torch.where(temperatures == 0, torch.ones_like(temperatures), temperatures)
    if at_once is None:
        return part(hidden, ids, temperatures)
    rows = max(1, at_once // vocabulary)
    chunks = zip(*(t.split(rows) for t in (hidden, ids.to(hidden.device), temperatures.to(hidden.device))), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(part, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks])
    return torch.cat([part(*chunk) for chunk in chunks])
