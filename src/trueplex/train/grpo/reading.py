"""Reading rollouts with the model that learns: merged inputs in, log-probabilities of what was drawn out.

Both happen within the model's own call. What wraps it (DDP, FSDP, autocast) has then gathered the embedding and the head
and sees one forward pass, and the gradient flows into both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trueplex.engine.thinking import merged
from trueplex.models.backbone import Backbone
from trueplex.models.head import LOGITS, Head
from trueplex.models.head import log_probs as of_hidden
from trueplex.train.common.sharded import sharded_modules
from trueplex.train.grpo.batches import Batch


def reads(backbone: Backbone) -> Callable[[], None]:
    """Have the model take ``batch=`` and give log-probabilities [B, M, K] float32 for it; returns what undoes that.

    Without a batch the model is as it was. Logits exist a few columns at a time; see `models.head`.
    """
    model, before = backbone.model, vars(backbone.model).get("forward")
    own = model.forward

    def forward(*arguments: Any, batch: Batch | None = None, **named: Any) -> Any:
        if batch is None:
            return own(*arguments, **named)
        inputs, columns = merged(backbone.embed(batch.ids), batch.weights), batch.targets.shape[1]
        if sharded_modules(model):  # FSDP gathers a head for one call a pass
            logits = own(**backbone.named_inputs(inputs), use_cache=False, logits_to_keep=columns).logits
            return _drawn(backbone, batch, logits, lambda chosen: chosen, None)
        one = torch.zeros(1, dtype=torch.long, device=inputs.device)  # by a number, Gemma 4 drops hidden states
        own(**backbone.named_inputs(inputs), use_cache=False, logits_to_keep=one)
        return _drawn(backbone, batch, backbone.last_hidden()[:, -columns:], backbone.head, LOGITS)

    def undo() -> None:
        vars(model).pop("forward", None)
        if before is not None:
            model.forward = before

    model.forward = forward
    return undo


def _drawn(backbone: Backbone, batch: Batch, states: Tensor, head: Head, at_once: int | None) -> Tensor:
    """Log-probabilities [B, M, K] of what was drawn by states [B, M, ...], and 0 in steps of which nothing was."""
    told = batch.drawn.any(-1)
    chosen = (states[told], batch.targets[told], batch.temperatures[told])
    found = of_hidden(head, *chosen, backbone.vocabulary, at_once)
    return torch.zeros(batch.targets.shape, device=states.device).masked_scatter(told[..., None], found)


def log_probs(model: Any, batch: Batch) -> Tensor:
    """Log-probabilities [B, M, K] float32 of the drawn ids under softmax(logits / T), 0 where none was drawn; differentiable.

    One teacher-forced pass without a cache, by a model that `reads`, or by what wraps one.
    """
    return model(batch=batch)
