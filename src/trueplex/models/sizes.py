"""What a KV cache stores of a model, in bytes, read off what it has stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from trueplex.models.lanes import Lane


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a cache stores, in bytes: keys and values of a token, those in sliding layers, states of a row; and the largest
    layer's part, one in so many."""

    token: int
    sliding: int
    states: int
    parts: int


def sizes_of(lane: Lane) -> Sizes:
    """The sizes of what a lane of one row has stored by now."""
    by_layer = {n: sum(t.nbytes for t in layer) // lane.columns for n, layer in lane.layers.items()}
    tokens, sliding = [*by_layer.values()], sum(b for n, b in by_layer.items() if lane.cache.kinds.slides(n))
    states = Counter[int]()
    for (number, _, _), state in lane.states.items():
        states[number] += state.nbytes
    parts = [sum(some) // max(some) for some in (tokens, [*states.values()]) if sum(some)]
    return Sizes(sum(tokens), sliding, states.total(), min(parts))
