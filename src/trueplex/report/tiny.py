"""Tiny random models of the families that transformers knows: to see what works on each, without downloading any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STATE = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_chunk_size": 8, "mamba_d_conv": 4}  # fmt: skip
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED = {"shared_expert_intermediate_size": 32}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
          "n_shared_experts": 1, "first_k_dense_replace": 1}  # fmt: skip
LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
          "num_key_value_heads": 4, "head_dim": 8}  # fmt: skip
HALF = ["linear_attention", "full_attention"]
WINDOWS = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
BY_LAYER = {"head_dim": 16, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "sliding_window": 12}  # fmt: skip

# model_type → what is its own in a tiny model of the family
OPTIONS: dict[str, dict[str, Any]] = {
    "qwen2": {}, "llama": {}, "olmo2": {}, "granite": {}, "smollm3": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 12, "head_dim": 16},
    "qwen3_moe": {"head_dim": 16, **EXPERTS},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, **WINDOWS},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, **WINDOWS},
    "qwen3_next": {"head_dim": 16, "layer_types": HALF, **LINEAR, **EXPERTS, **SHARED},
    "qwen3_5_text": {"head_dim": 16, "layer_types": HALF, **LINEAR},
    "qwen3_5_moe_text": {"head_dim": 16, "layer_types": HALF, **LINEAR, **EXPERTS, **SHARED},
    "granitemoehybrid": {"layer_types": HALF, "num_local_experts": 4, "num_experts_per_tok": 2,
                         "shared_intermediate_size": 32, "position_embedding_type": "rope", **STATE},
    "bamba": {"attn_layer_indices": [1], **STATE},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "mlp"], "num_hidden_layers": 3, "ssm_state_size": 8,
                   "mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 1, "chunk_size": 8, "conv_kernel": 4, "head_dim": 16},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "mamba_d_state": 8, "mamba_dt_rank": 8, "num_experts": 2,
              "num_experts_per_tok": 1},
    "falcon_h1": {"head_dim": 16, "mamba_d_ssm": 128, **STATE},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1, **EXPERTS},
    "lfm3": {"layer_types": ["conv", "sliding_attention", "full_attention"], "num_hidden_layers": 3, "sliding_window": 12},
    "mamba": {"state_size": 8, "time_step_rank": 8},
    "falcon_mamba": {"state_size": 8, "time_step_rank": 8},
    "mamba2": {"state_size": 8, "num_heads": 4, "head_dim": 32, "n_groups": 1, "chunk_size": 8},
    "kimi_linear": {"layer_types": HALF, **LATENT, **ROUTED,
                    "linear_attn_config": {"head_dim": 8, "num_heads": 4, "short_conv_kernel_size": 4,
                                           "full_attn_layers": [2], "kda_layers": [1]}},
    "bailing_hybrid": {"layer_types": HALF, **LATENT, **EXPERTS, "n_group": 1, "topk_group": 1, "num_shared_experts": 1},
    "olmo_hybrid": {"layer_types": HALF, **LINEAR, "linear_num_key_heads": 4},
    "zaya": {"head_dim": 16},
    "zamba": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4, "mamba_d_state": 8, "mamba_dt_rank": 8,
              "n_mamba_heads": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4, "mamba_d_state": 8, "mamba_headdim": 32,
               "n_mamba_heads": 4, "mamba_ngroups": 1, "chunk_size": 8, "num_mem_blocks": 1, "adapter_rank": 4},
    "minimax": {"layer_types": HALF, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8},
    "llama4_text": {"head_dim": 16, "attention_chunk_size": 12, "num_local_experts": 4, "num_experts_per_tok": 1,
                    "intermediate_size_mlp": 96, "layer_types": ["chunked_attention", "full_attention"],
                    "no_rope_layers": [1, 0], "floor_scale": 8, "attn_scale": 0.5},
    "gemma3n_text": {**BY_LAYER, "vocab_size_per_layer_input": 64, "altup_num_inputs": 2, "laurel_rank": 4,
                     "activation_sparsity_pattern": [0.0] * 4},
    "gemma4_text": {**BY_LAYER, "global_head_dim": 16},
    "deepseek_v2": {**LATENT, **ROUTED}, "deepseek_v3": {**LATENT, **ROUTED}, "glm4_moe_lite": {**LATENT, **ROUTED},
    "minicpm3": LATENT, "youtu": LATENT,
    "longcat_flash": {**LATENT, "num_layers": 2, "ffn_hidden_size": 96, "expert_ffn_hidden_size": 32, "n_routed_experts": 4,
                      "zero_expert_num": 1, "moe_topk": 2},
    # refused, each with its reason
    "deepseek_v32": {**LATENT, **ROUTED}, "deepseek_v4": {}, "glm_moe_dsa": {**LATENT, **ROUTED}, "qwen4_exp_text": {}, "recurrent_gemma": {}, "rwkv": {}, "xlstm": {},
    "inkling_text": {},
}  # fmt: skip


def write_tiny(family: str, folder: Path, noise: float = 0.1) -> Path:
    """A random model of two or a few layers with the embedded model's tokenizer, and files to load it from.

    ``noise`` is added to what is initialised to constants: zeros would hide a wrong path behind them.

    Raises:
        ValueError, TypeError, …: whatever transformers raises where the family has no such configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from trueplex.reference.text import build_tokenizer

    tokenizer = build_tokenizer()
    common = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.1,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None,
    }  # fmt: skip
    config = AutoConfig.for_model(family, **(common | OPTIONS.get(family, {})))
    config.problem_instruction = ""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():
                parameter.data += noise * torch.randn_like(parameter)
    model.generation_config.max_new_tokens = 40
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
