"""A world for the tests, built offline in seconds: tiny random models of every family, one thread."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trueplex.cli import main as cli
from trueplex.engine.grow import grow, start
from trueplex.engine.prefill import inputs_of
from trueplex.engine.random import trace_key, uniforms
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.reference.text import build_tokenizer
from trueplex.report.tiny import write_tiny
from trueplex.types import Problem, Prompt, Status, Steps, Trace

pytest_plugins = ["served"]  # a server in a thread

torch.set_num_threads(1)
DEVICE = os.environ.get("TRUEPLEX_TEST_DEVICE", "cpu")  # the laws hold on accelerators too: cuda runs them there

# model_type → what is its own in a tiny model of the family
FAMILIES = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "llama": {},
    "mistral": {"sliding_window": 12, "head_dim": 16},
    "gemma": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"sliding_window": 12, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma2": {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 0.5},
    "gemma3_text": {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 16,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {"sliding_window": 12},
    "gpt_oss": {"head_dim": 16, "sliding_window": 12, "num_local_experts": 4, "num_experts_per_tok": 2,
                "layer_types": ["sliding_attention", "full_attention"]},
    "olmo2": {},
    "glm4": {"head_dim": 16},
}  # fmt: skip


def slow(values: Iterable[Any]) -> list[Any]:
    """Parameters that `make test` leaves out and `make test-slow` has."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


# Of families that differ in little, one is in `make test`; the laws hold for all of them in `make test-slow`.
LIKE_OTHERS = ("llama", "qwen3_moe", "gemma", "qwen2_moe", "mixtral", "phi3", "olmo2", "glm4")
EVERY_FAMILY = [pytest.param(f, marks=pytest.mark.slow if f in LIKE_OTHERS else ()) for f in FAMILIES]
# Equal draws are promised, not equal bits: where a uniform falls within this of the boundary between two tokens, rounding
# may decide otherwise in another batch. `agree` lets such near-ties pass, and counts them.
NEAR = 1e-5
SEED = 6
SEEDS = (0, *slow([1]))  # beside every family
TEXTS = ("What is 2 + 2?", "Find it.", "Ann has 12 apples. Ann loses 3. How many apples are there now?")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family name → a model folder: 2 layers, hidden 64, grouped heads, tied or not as the family has it."""
    made: dict[str, Path] = {}

    def build(family: str) -> Path:
        if family not in made and family not in FAMILIES:
            made[family] = write_tiny(family, tmp_path_factory.mktemp(family))
        if family not in made:
            tokenizer = build_tokenizer()
            config = AutoConfig.for_model(
                family, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
                **FAMILIES[family],
            )  # fmt: skip
            config.problem_instruction = ""
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            model.generation_config.max_new_tokens = 40
            made[family] = tmp_path_factory.mktemp(family)
            model.save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return build


@pytest.fixture(scope="session")
def backbones(folder: Callable[[str], Path]) -> Callable[[str], Backbone]:
    loaded: dict[str, Backbone] = {}

    def get(family: str) -> Backbone:
        if family not in loaded:
            loaded[family] = load(str(folder(family)), device=DEVICE, dtype=torch.float32)
        return loaded[family]

    return get


@pytest.fixture(scope="session", params=EVERY_FAMILY)
def backbone(request: pytest.FixtureRequest, backbones: Callable[[str], Backbone]) -> Backbone:
    """Every family in turn."""
    return backbones(request.param)


@pytest.fixture(scope="session")
def qwen(backbones: Callable[[str], Backbone]) -> Backbone:
    return backbones("qwen3")


def prompts_for(backbone: Backbone) -> list[Prompt]:
    """Ragged prompts."""
    return [make_prompt(Problem(text), backbone) for text in TEXTS]


def everything(trace: Trace) -> bool:
    """What a scorer wants that wants every trace."""
    return True


def grown(backbone: Backbone, prompts: Sequence[Prompt], paths: int, thinking: Thinking, *, scorer: Any = None,
          stride: int = 7, seed: int = SEED, rows: int | None = None, resumed: Sequence[Trace] = ()) -> list[Trace]:  # fmt: skip
    """Traces by the engine alone, scored at every stride where there is a scorer, in the order in which they stopped."""
    batch, finished = start(backbone, prompts, paths, thinking, seed, rows, resumed), []
    for stopped in grow(batch, stride, {scorer.probe: everything} if scorer and scorer.probe else None):
        finished += stopped
        look = batch.look(everything)
        for trace, score in zip(look.traces, scorer(look) if scorer else (), strict=bool(scorer)):
            trace.scores.append((trace.tokens, float(score)))
    return finished


def agree(prompt: Prompt, a: Trace, b: Trace, backbone: Backbone) -> bool:
    """Whether two unfiltered traces at temperature 1 drew the same; False after a near-tie, and anything else fails."""
    n = min(len(a.steps), len(b.steps))
    differ = (a.steps.ids[:n] != b.steps.ids[:n]).any(1)
    if not differ.any():
        assert len(a.steps) == len(b.steps)
        assert np.allclose(a.steps.weights, b.steps.weights, atol=1e-3)
        return True
    at = int(differ.argmax())
    inputs = inputs_of(backbone, prompt.ids, Steps(*(array[:at] for array in a.steps.arrays())))
    positions = torch.arange(len(inputs), device=backbone.device)[None]
    with torch.inference_mode():
        output = backbone.model(**backbone.named_inputs(inputs[None]), attention_mask=backbone.masks(positions, len(inputs)),
                                position_ids=positions, use_cache=False)  # fmt: skip
    cumulative = torch.softmax(output.logits[0, -1, : backbone.vocabulary].double(), -1).cumsum(-1).cpu().numpy()
    key = np.array([trace_key(a.seed, prompt.problem.key, a.index)], dtype=np.uint64)
    drawn = uniforms(key, np.array([at]), a.steps.ids.shape[1])[0]
    for u, one, two in zip(drawn, a.steps.ids[at], b.steps.ids[at], strict=True):
        low, high = sorted((int(one), int(two)))
        assert low == high or np.abs(cumulative[low:high] - u).min() < NEAR, (at, one, two, u)
    return False


def stored_trace(
    index: int = 0, answer: str | None = "4", correct: bool | None = True, score: float = 0.5, problem: str = "2+2?"
) -> Trace:
    """A stopped trace with everything in it."""
    rng = np.random.default_rng(index)
    steps = Steps(
        rng.integers(0, 500, (5, 3)).astype(np.int32), rng.random((5, 3), dtype=np.float32),
        rng.normal(size=(5, 3)).astype(np.float32), *(rng.random(5, dtype=np.float32) for _ in range(2)),
    )  # fmt: skip
    return Trace(
        Problem(problem, "a/1", ("4", "four")), index, 9, Status.FINISHED, "end of sequence", "model", 5, 3, 2, [(2, 0.1), (5, score)],
        steps, "1+1 ☃", answer, correct,
    )  # fmt: skip


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the package's loggers tell, one text a message."""
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("trueplex")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield told
    logger.removeHandler(handler)


@pytest.fixture
def trueplex(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["trueplex", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capfd.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run
