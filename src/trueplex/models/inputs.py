"""What a model reads at a position: one row of numbers, so that tokens are merged by one weighted sum, whatever they bring.

Most models read an embedding. Gemma 3n and 4 look up a second one by token for every layer (per-layer embeddings); it stands
behind the first, so that a merged thought merges both with the same weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from trueplex.errors import ModelError

LOOKUP = "get_per_layer_inputs"


class Inputs:
    """Ids → rows of numbers, and these by the names under which a model takes them.

    Attributes:
        more: how many numbers stand behind the embedding.
    """

    def __init__(self, model: Any) -> None:
        self._embedding = model.get_input_embeddings()
        config = model.config.get_text_config(decoder=True)
        size = getattr(config, "hidden_size_per_layer_input", None) or 0
        self._layers, self.more = config.num_hidden_layers, size * config.num_hidden_layers
        owners = (m for m in model.modules() if hasattr(m, LOOKUP) and hasattr(m, "embed_tokens_per_layer"))
        owner = next(owners, None) if size else None
        if size and owner is None:
            raise ModelError(f"{config.model_type} has per-layer embeddings (and no {LOOKUP} to look them up). "
                             "Try: choose another model")  # fmt: skip
        self._by_layer = None if owner is None else getattr(owner, LOOKUP)

    def __call__(self, ids: Tensor) -> Tensor:
        """Rows [..., H + more] of ids [...], by the model's modules, as some scale inside them."""
        embedding = self._embedding(ids)
        if self._by_layer is None:
            return embedding
        flat = ids.reshape(1, -1)
        by_layer = self._by_layer(flat, None) if self._by_layer.__code__.co_argcount > 2 else self._by_layer(flat)
        return torch.cat([embedding, by_layer.reshape(*ids.shape, self.more).to(embedding)], -1)

    def named(self, rows: Tensor) -> dict[str, Tensor]:
        """Rows [B, q, H + more], or [B, q, H] of what is no token and brings nothing by layer."""
        if not self.more:
            return {"inputs_embeds": rows}
        size = self._embedding.embedding_dim
        rows = pad(rows, (0, size + self.more - rows.shape[-1]))
        by_layer = rows[..., size:].unflatten(-1, (self._layers, -1))
        return {"inputs_embeds": rows[..., :size], "per_layer_inputs": by_layer}
