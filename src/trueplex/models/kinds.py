"""What the layers of a model keep of what they have read, and which mask their attention takes; by configuration.

The names are those of transformers' ``layer_types``. Layers of attention keep keys and values, `STATES` a few tensors of
fixed size a row, hybrid ones both, and a ``dummy`` nothing: it has no attention, or reads what an earlier layer keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers.cache_utils import get_layer_types_and_kwargs

from trueplex.errors import ModelError

SLIDING = "sliding_attention"
# By kind of layer, the kind of mask that its attention takes
MASKS = {
    "full_attention": "full_attention", SLIDING: SLIDING, "chunked_attention": "chunked_attention",
    "hybrid": "full_attention", "hybrid_sliding": SLIDING,
}  # fmt: skip
STATES = frozenset({"linear_attention", "conv", "hybrid", "hybrid_sliding"})
DUMMY = "dummy"
SPARSE = "sparse attention chooses what it reads by an index that it keeps beside its keys"
COMPRESSED = "compressed attention keeps one entry for many tokens, and a window that is not yet compressed"
# What is missing here for layers of other kinds
MISSING = {
    "indexed_attention": f"{SPARSE}, and the engine keeps none for rows of unlike length",
    "minimax_m3_sparse": f"{SPARSE}, and the engine keeps none for rows of unlike length",
    "compressed_sparse_attention": f"{COMPRESSED}, and neither can be put back after a probe",
    "heavily_compressed_attention": f"{COMPRESSED}, and neither can be put back after a probe",
}
# Families whose layers keep their state elsewhere than in transformers' cache
ELSEWHERE = {
    "recurrent_gemma": "its layers keep their state in themselves, so that one batch at a time can be read",
    "qwen4_exp_text": "its layers look up token ids, and a merged thought is no token",
    "rwkv": "its layers keep their state apart from transformers' cache",
    "xlstm": "its layers keep their state apart from transformers' cache",
    "inkling_text": "its attention adds a bias by positions that it takes from transformers' cache, one for all rows",
    "inkling2_text": "its attention adds a bias by positions that it takes from transformers' cache, one for all rows",
}


@dataclass(frozen=True, slots=True)
class Kinds:
    """The layers of a model, in order.

    Attributes:
        layers: the kind of each.
        named: the names by which the model may ask for its masks; empty where one mask serves all layers.
        owners: by layers that read the keys and values of another one, that one.
        states: how many pairs of states each of the layers with states keeps, by its number.
    """

    layers: tuple[str, ...]
    named: frozenset[str]
    owners: dict[int, int]
    states: dict[int, int]

    @property
    def masks(self) -> frozenset[str]:
        """The kinds of masks that some layer's attention takes."""
        return frozenset(MASKS[kind] for kind in self.layers if kind in MASKS)

    def slides(self, number: int) -> bool:
        """Whether a layer reads a window of the last tokens alone."""
        return MASKS.get(self.layers[number]) == SLIDING

    @property
    def recurrent(self) -> bool:
        """Whether some layer keeps a state that each token changes."""
        return bool(self.states)


def kinds_of(config: Any) -> Kinds:
    """What the layers keep. Raises ModelError for those of which trueplex cannot say what they keep, or not per row."""
    if config.model_type in ELSEWHERE:
        raise ModelError(
            f"{config.model_type} cannot be driven here ({ELSEWHERE[config.model_type]}). Try: choose another model"
        )
    found, options = get_layer_types_and_kwargs(config)
    own = getattr(config, "layer_types", None)
    owners = _owners(config, own) if own else {}
    # what reads the keys and values of another layer has a kind of attention still
    layers = tuple(own[number] if own and number in owners else kind for number, kind in enumerate(found))
    wrong = sorted(set(layers) - set(MASKS) - STATES - {DUMMY})
    if wrong:
        why = "; ".join(dict.fromkeys(MISSING.get(kind, "what they keep is not known here") for kind in wrong))
        raise ModelError(
            f"{config.model_type} has layers of kind {', '.join(wrong)} ({why}). Try: choose a model without such layers"
        )
    if not own and len(set(layers)) > 1:
        raise ModelError(f"{config.model_type} mixes attention kinds without naming them. Try: choose another model")
    states = {n: int(options[n].get("number_of_states", 1)) for n, kind in enumerate(layers) if kind in STATES}
    named = {*own, *(MASKS.get(kind, kind) for kind in own)} if own else set()
    if own and states:
        named |= {"linear_attention", "conv"}
    return Kinds(layers, frozenset(named), owners, states)


def _owners(config: Any, own: list[str]) -> dict[int, int]:
    """By layers that read the keys and values of another one, that one: the last before them that stores for their kind."""
    modes = getattr(config, "kv_sharing_modes", None) or ()
    stores = {own[number]: number for number, mode in enumerate(modes) if mode == "store"}
    return {number: stores[own[number]] for number, mode in enumerate(modes) if own and mode == "reuse"}
