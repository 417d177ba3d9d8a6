"""Models of a known shape with random weights, so that a large one can be measured without having it."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen3Config
from transformers.models.llama import LlamaConfig

from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.compiled import quicken
from trueplex.models.load import REFERENCE, default_device, load_tokenizer, usable
from trueplex.models.packed import pack
from trueplex.models.precision import checked_names, resolve_dtype

POSITIONS = 40960


def _qwen3(hidden: int, inner: int, layers: int, heads: int, tied: bool = False) -> PretrainedConfig:
    return Qwen3Config(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=8, head_dim=128, vocab_size=151936, tie_word_embeddings=tied,
                       max_position_embeddings=POSITIONS)  # fmt: skip


def _llama(hidden: int, inner: int, layers: int, heads: int, tied: bool = False) -> PretrainedConfig:
    return LlamaConfig(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
                       num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=tied, max_position_embeddings=POSITIONS)  # fmt: skip


SHAPES = {
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, tied=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, tied=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, tied=True),
    "qwen3-8b": _qwen3(4096, 12288, 36, 32),
    "qwen3-14b": _qwen3(5120, 17408, 40, 40),
    "qwen3-32b": _qwen3(5120, 25600, 64, 64),
    "llama-3.2-1b": _llama(2048, 8192, 16, 32, tied=True),
    "llama-3.2-3b": _llama(3072, 8192, 28, 24, tied=True),
    "llama-3.1-8b": _llama(4096, 14336, 32, 32),
}


def random_model(shape: str, device: str | None = None, dtype: str | None = None, layers: int | None = None, compile: str = "auto") -> Backbone:  # fmt: skip
    """A model of this shape, drawn where it will run, with the embedded model's tokenizer.

    Args:
        dtype: as of `load`; ``auto`` takes the weights for bfloat16 ones.
        layers: only so many of them, for a quick try.
        compile: as of `load`.

    Raises:
        OptionError: an unknown shape or dtype. ModelError: the device cannot be used.
    """
    checked_names(dtype, None, compile)
    if shape not in SHAPES:
        raise OptionError(f"unknown shape {shape!r}. Try: one of {', '.join(SHAPES)}")
    place, tokenizer = usable(device or default_device()), load_tokenizer(REFERENCE)
    config = type(SHAPES[shape]).from_dict(SHAPES[shape].to_dict())
    config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    if layers is not None:
        config.num_hidden_layers = layers
        config.layer_types = None if getattr(config, "layer_types", None) is None else config.layer_types[:layers]
    torch.manual_seed(0)
    with torch.device(place):
        model = AutoModelForCausalLM.from_config(config, dtype=resolve_dtype(dtype, place, torch.bfloat16))
    pack(model)
    backbone = Backbone(f"{shape}, random weights", model, tokenizer)
    quicken(backbone, compile)
    return backbone
