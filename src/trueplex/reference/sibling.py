"""Siblings of the embedded model: of its size and for its tasks, every other layer with another kind of attention, or made anew.

A sibling may begin with what the embedded model has learned, but for the attention of every other layer: so it takes a
fraction of the steps, and one with full attention, which begins in the same way, is what to compare a hybrid with.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SHAPE = {"hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 384, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip
# Gated delta networks (arXiv 2412.06464) as Qwen3.5 has them, of about the size of an attention layer
DELTA = {"linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_num_value_heads": 4, "linear_value_head_dim": 32,
         "partial_rotary_factor": 1.0}  # fmt: skip
LAYERS = ("attention", "hybrid")


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int, layers: str = "attention") -> PreTrainedModel:
    """A random model: ``attention`` in every layer, or ``hybrid``, where every other layer is linear attention."""
    common = {
        "vocab_size": len(tokenizer), "tie_word_embeddings": True, "max_position_embeddings": 2048,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
        "initializer_range": 0.04, **SHAPE,
    }  # fmt: skip
    torch.manual_seed(seed)
    if layers == "attention":
        return Qwen3ForCausalLM(Qwen3Config(**common))
    kinds = ["full_attention" if n % 2 else "linear_attention" for n in range(SHAPE["num_hidden_layers"])]
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(layer_types=kinds, **common, **DELTA))


def begin_from(model: PreTrainedModel, embedded: Qwen3ForCausalLM) -> None:
    """Give a new model the weights of a trained one, but for the attention of every other layer, which stays random."""
    own, known = model.state_dict(), embedded.float().state_dict()
    gated = isinstance(model, Qwen3_5ForCausalLM)
    replaced = tuple(f"model.layers.{n}.self_attn." for n in range(0, SHAPE["num_hidden_layers"], 2))
    with torch.no_grad():
        for name, weight in known.items():
            if not name.startswith(replaced):
                own[name].copy_(_as_gated(name, weight) if gated else weight)


def _as_gated(name: str, weight: Tensor) -> Tensor:
    """A weight of Qwen3 as Qwen3.5 has it, which computes the same: norms count from 1, and each head's output has a gate.

    The gates read nothing, so they stand at a half, and what they halve is doubled behind them.
    """
    if "norm" in name:
        return weight - 1
    if name.endswith("o_proj.weight"):
        return 2 * weight
    if name.endswith("q_proj.weight"):
        heads = weight.unflatten(0, (SHAPE["num_attention_heads"], 1, SHAPE["head_dim"]))
        return torch.cat([heads, torch.zeros_like(heads)], 1).flatten(0, 2)
    return weight
