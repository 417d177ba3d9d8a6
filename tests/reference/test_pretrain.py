"""The recipe of the embedded model: a killed run takes up the same trajectory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from trueplex.models.load import reference_path
from trueplex.reference.pretrain import IGNORED, Recipe, Texts, pretrain
from trueplex.reference.sibling import LAYERS, begin_from, new_model
from trueplex.reference.text import build_tokenizer


def test_batches_belong_to_the_step_and_prompts_carry_no_loss() -> None:
    tokenizer = build_tokenizer()
    texts, again = Texts(tokenizer, 20, 8, seed=1), Texts(tokenizer, 20, 8, seed=1)
    assert all(torch.equal(texts[i]["input_ids"], again[i]["input_ids"]) for i in (9, 0, 3))
    assert not torch.equal(texts[0]["input_ids"][:1, :8], Texts(tokenizer, 20, 8, seed=2)[0]["input_ids"][:1, :8])
    batch = texts[5]
    think = tokenizer.convert_tokens_to_ids("<think>")
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        opened, length = int((ids == think).nonzero()[0]), int(mask.sum())
        assert (labels[: opened + 1] == IGNORED).all() and (labels[length:] == IGNORED).all()
        assert torch.equal(labels[opened + 1 : length], ids[opened + 1 : length])
        assert ids[length - 1] == tokenizer.eos_token_id


def test_a_sibling_computes_what_it_has_from_the_embedded_model() -> None:
    embedded = AutoModelForCausalLM.from_pretrained(reference_path(), dtype=torch.float32)
    tokenizer, hidden, kept = PreTrainedTokenizerFast.from_pretrained(reference_path()), torch.randn(2, 5, 128), []
    for model in (embedded, *(new_model(tokenizer, 0, layers) for layers in LAYERS)):
        begin_from(model, embedded)
        places = model.model.rotary_emb(hidden, torch.arange(5)[None])
        kept.append(model.model.layers[1](hidden, position_embeddings=places, attention_mask=None))
    assert all(torch.allclose(kept[0], other, atol=1e-5) for other in kept[1:])


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    recipe = Recipe(steps=6, decay=2, rows=4, lr=1e-3, layers="hybrid", save_every=3)
    pretrain(tmp_path / "whole", recipe)
    shutil.copytree(tmp_path / "whole" / "checkpoints", tmp_path / "cut" / "checkpoints")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "checkpoint-6")
    pretrain(tmp_path / "cut", recipe)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    record = json.loads((tmp_path / "cut" / "pretrain.json").read_text())
    assert record["steps"] == 6 and record["torch"] == torch.__version__
