"""Rotary kinds whose frequencies depend on the longest row of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conftest import grown
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError
from trueplex.models.load import load, load_tokenizer
from trueplex.models.prompt import make_prompt
from trueplex.models.rotary import BESIDE
from trueplex.types import Problem

KINDS = {
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "longrope": {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64,
                 "short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_row_beside_a_trace_does_not_change_it(kind: str, tmp_path: Path, said: list[str]) -> None:
    tokenizer = load_tokenizer("reference")
    most = 64 if kind == "dynamic" else 256
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                                  num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=most, initializer_range=0.1,
                                  rope_parameters=KINDS[kind], eos_token_id=1, pad_token_id=0, bos_token_id=None)  # fmt: skip
    config.problem_instruction = ""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load(str(tmp_path), device="cpu")
    backbone.ends, backbone.markers = frozenset(), None
    assert backbone.max_positions == 64 - BESIDE
    assert any("end at 48 tokens" in line for line in said) == (kind == "longrope")
    short, long = (make_prompt(Problem(text), backbone) for text in ("a", "What is it then, and why is it?"))
    thinking = Thinking("discrete", ending=Ending(200))
    (alone,) = grown(backbone, [short], 1, thinking)
    beside = next(t for t in grown(backbone, [short, long], 1, thinking) if t.problem.text == "a")
    assert len(short.ids) + alone.tokens == 64 - BESIDE - 1
    assert alone.steps is not None and beside.steps is not None
    assert (alone.steps.ids == beside.steps.ids).all()
    with pytest.raises(InputError, match="position"):
        make_prompt(Problem("What is this? " * 20), backbone)
