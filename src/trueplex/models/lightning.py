"""MiniMax's modelling code takes a cache class of its own alone; that class, over the layers of any other cache.

Its lightning attention (arXiv 2501.08313) keeps one matrix a head, of what is behind the last token: a recurrent state.
"""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.models.minimax.modeling_minimax import MiniMaxCache


class LightningCache(MiniMaxCache):
    """A cache as MiniMax asks for it; what it stores is in the layers that it was given."""

    def __init__(self, cache: Cache) -> None:
        Cache.__init__(self, layers=cache.layers)

    def get_linear_cache(self, layer_idx: int) -> Tensor | None:
        return self.get_recurrent_state(layer_idx)

    def set_linear_cache(self, layer_idx: int, linear_cache: Tensor) -> None:
        self.update_recurrent_state(linear_cache, layer_idx)

    def __len__(self) -> int:
        return len(self.layers)
