"""`trueplex models`: the laws in small, of every kind of layer here and of every family among the slow tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import grown, prompts_for
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.report.families import CLOSE, examine, probes, table
from trueplex.report.tiny import OPTIONS, write_tiny
from trueplex.solving.rollouts import rollout
from trueplex.solving.settings import Settings
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.train.grpo.train import train_policy
from trueplex.train.verifier import Recipe, read_labelled, train_verifier
from trueplex.types import Problem, Trace
from trueplex.verify.probe import score_stored

REFUSED = {"deepseek_v32", "deepseek_v4", "glm_moe_dsa", "qwen4_exp_text", "recurrent_gemma", "rwkv", "xlstm", "inkling_text"}  # fmt: skip


@pytest.mark.parametrize("family", ["lfm2", "gemma4_text", "llama4_text", "deepseek_v3"])
def test_live_scores_are_stored_scores_on_states_inputs_by_layer_chunks_and_latents(
    backbones: Callable[[str], Backbone], family: str
) -> None:
    assert probes(backbones(family)) < CLOSE


def test_a_table_has_a_row_for_what_does_not_load() -> None:
    *_, row = table(["rwkv"])
    assert row.startswith(
        "| rwkv | – | – | no | no | no | rwkv cannot be driven here (its layers keep their state apart"
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(OPTIONS))
def test_every_family_holds_the_laws_or_says_why_not(family: str) -> None:
    found = examine(family)
    assert bool(found.why) == (family in REFUSED), found
    assert (found.merged, found.probe, found.grpo) == (family not in REFUSED,) * 3


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(OPTIONS) - REFUSED))
def test_every_family_decodes_in_bfloat16(family: str, tmp_path: Path) -> None:
    """Loads, passes its self-check, and writes 32 tokens."""
    backbone = load(str(write_tiny(family, tmp_path, noise=0.02)), device="cpu", dtype=torch.bfloat16)
    traces = grown(backbone, prompts_for(backbone), 1, Thinking("multiplex", 3, ending=Ending(32)))
    assert all(np.isfinite(t.steps.logps).all() for t in traces)


@pytest.mark.slow
def test_a_verifier_and_a_policy_are_trained_on_a_hybrid(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Half of the layers are linear attention. The verifier separates what it is told apart; the policy is paid for even words."""
    backbone = load(str(folder("qwen3_5_text")), "cpu", torch.float32)

    def odd_or_even(trace: Trace, kind: object) -> None:
        trace.correct = bool(trace.steps.ids[0, 0] % 2 == 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trueplex.solving.run.label", odd_or_even)
        settings = Settings(paths=8, thinking=Thinking("discrete", ending=Ending(8)), verifier="none")
        problems = [Problem(f"Problem {i}", answers=("1",)) for i in range(8)]
        traces = read_labelled(rollout(backbone, problems, settings, tmp_path / "r"), backbone)
    recipe = Recipe(rank=4, positions=4, batch_size=8, epochs=6, lr=1e-2, every=6)
    verifier = train_verifier(backbone, traces, traces, recipe, tmp_path / "verifier")
    scores = score_stored(verifier, [(t.prompt, t.steps) for t in traces])
    ends = np.array([own[-1] for own in scores])
    right = np.array([t.correct for t in traces])
    assert ends[right].mean() > ends[~right].mean() + 0.2

    policy = PolicyRecipe(Thinking("multiplex", 3, ending=Ending(10, think_tokens=8)), steps=8, prompts=4, samples=8, lr=1e-2,
                          every=8, val_samples=1, rewards=(f"{__name__}:even",))  # fmt: skip
    train_policy(backbone, problems, problems[:2], policy, tmp_path / "policy")
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "policy" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2])


def even(
    prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[list[int]], **columns: Any
) -> list[float]:
    """A reward: the share of even words."""
    return [float(np.mean([i % 2 == 0 for i in ids])) for ids in completion_ids]
