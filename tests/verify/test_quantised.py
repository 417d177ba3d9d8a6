"""Weights in 8 bits, and a verifier's LoRA in float32 beside them: the laws hold, and it learns."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from test_verifier import MULTIPLEX, decode, random_verifier
from transformers import AutoModelForCausalLM

from conftest import agree, grown, prompts_for
from trueplex.engine.limits import Ending
from trueplex.engine.replay import replay
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import ModelError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.precision import quantize_weights
from trueplex.train.common.batches import Labelled
from trueplex.train.reward import RewardRecipe, train_reward
from trueplex.train.verifier import Recipe, train_verifier
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import score_stored

pytestmark = pytest.mark.skipif(
    find_spec("torchao") is None, reason="torchao is not installed: pip install 'trueplex[quantize]'"
)


@pytest.fixture(scope="module")
def int8(folder: Callable[[str], Path]) -> Backbone:
    return load(str(folder("qwen3")), "cpu", torch.float32, "int8")


def test_law_2_greedy_is_generate(int8: Backbone) -> None:
    plain = AutoModelForCausalLM.from_pretrained(int8.name, attn_implementation="eager")
    quantize_weights(plain, "int8")
    greedy = Thinking("discrete", sampling=Sampling(0), ending=Ending(30))
    traces = {t.problem.text: t for t in grown(int8, prompts_for(int8), 1, greedy)}
    for prompt in prompts_for(int8):
        ids = torch.tensor([prompt.ids])
        expected = plain.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30,
                                  eos_token_id=list(int8.ends), pad_token_id=int8.tokenizer.pad_token_id)  # fmt: skip
        assert traces[prompt.problem.text].steps.ids[:, 0].tolist() == expected[0, len(prompt.ids) :].tolist()


def test_laws_3_to_5_replay_draws_and_scores(int8: Backbone) -> None:
    """Replay gives the engine's log-probabilities; a verifier changes no draw; what it read live is what it reads stored."""
    verifier, prompts = random_verifier(int8), {p.problem.text: p for p in prompts_for(int8)}
    scored, ties = decode(int8, verifier), 0
    stored = score_stored(verifier, [(prompts[t.problem.text].ids, t.steps) for t in scored], chunk=7)
    rows = sorted(grown(int8, prompts_for(int8), 3, MULTIPLEX, rows=2), key=lambda t: (t.problem.text, t.index))
    for trace, other, few, scores in zip(scored, decode(int8, None), rows, stored, strict=True):
        prompt, kept = prompts[trace.problem.text], trace.steps.weights > 0
        again = replay(int8, prompt.ids, trace.steps).numpy()
        assert np.abs(again - trace.steps.logps)[kept].max() < 2e-4
        ties += (not agree(prompt, trace, other, int8)) + (not agree(prompt, trace, few, int8))
        assert np.abs(np.array([s for _, s in trace.scores]) - scores).max() < 1e-4 and np.ptp(scores) > 1e-3
    assert ties <= 1


def test_law_6_and_a_verifier_learns_beside_quantised_weights(int8: Backbone, tmp_path: Path) -> None:
    ids = torch.tensor([prompts_for(int8)[0].ids])
    before, prompts = int8.model(input_ids=ids).logits, {p.problem.text: p.ids for p in prompts_for(int8)}
    traces = [Labelled(prompts[t.problem.text], t.steps, t.index > 0, t.problem.key) for t in decode(int8, None)]
    trained = train_verifier(int8, traces, traces, Recipe(4, (), 4, 3, 1.0, 1e-2), tmp_path / "verifier")
    moved = [p.abs().max().item() for n, p in trained.named_parameters() if n.endswith("lora_B")]
    assert len(moved) == 14 and min(moved) > 1e-4
    loaded = OneTokenVerifier.load(tmp_path / "verifier", int8)
    with loaded.attached():
        assert torch.equal(int8.model(input_ids=ids).logits, before)
    with pytest.raises(ModelError, match=r"cannot be trained from quantised weights.*Try: without quantize"):
        train_reward(int8, traces, traces, RewardRecipe(), tmp_path / "reward")
