"""`trueplex bench`: what it measures, and what it refuses."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trueplex.evals.speed import decoding, rivals
from trueplex.evals.speed.bench import Bench, whole
from trueplex.evals.speed.decoding import decode, prune
from trueplex.evals.speed.pairs import alternate, ratio
from trueplex.evals.speed.reading import long_prompt
from trueplex.evals.speed.roofline import held, step_bytes, step_flops
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.packed import PackedLinear
from trueplex.models.precision import has_bfloat16


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is copied and multiplied, and fewer paths are pruned, than where it is measured in earnest."""
    monkeypatch.setattr(decoding, "bandwidth", partial(decoding.bandwidth, nbytes=2**16))
    monkeypatch.setattr(decoding, "peak", partial(decoding.peak, sides=(128, 128)))
    monkeypatch.setattr(decoding, "PATHS", 4)


@pytest.fixture
def bench(reference: Backbone) -> Bench:
    return Bench(reference, rows=(2,), tokens=4, repeats=1)


@pytest.mark.skipif(not has_bfloat16("cpu"), reason="this CPU does not multiply bfloat16")
def test_rivals_decode_with_plain_layers() -> None:
    """`generate` was measured with weights that the engine had packed or frozen, and so faster or slower than transformers makes it."""
    backbone = load("reference", "cpu", "bfloat16")

    def packed() -> int:
        return sum(isinstance(module, PackedLinear) for module in backbone.model.modules())

    before = packed()
    with rivals.untouched(backbone) as model:
        assert packed() == 0 and all(parameter.requires_grad for parameter in model.parameters())
    assert packed() == before > 0 and not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_rates_are_measured_in_turn_and_a_rival_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    order: list[str] = []

    def rate(name: str, value: float):
        return lambda: order.append(name) or value

    def failing() -> float:
        raise ValueError("no such\nkernel")

    with caplog.at_level(logging.WARNING):
        found = alternate({"engine": rate("a", 6.0)}, {"one": rate("b", 2.0), "other": failing}, 3)
    assert found == {"engine": [6.0] * 3, "one": [2.0] * 3} and order == ["a", "b"] * 4
    assert caplog.messages == ["other does not run here, and is left out (no such kernel)"]
    assert ratio([6.0, 4.0, 9.0], [2.0, 2.0, 3.0]) == {"first": 6, "second": 2, "ratio": 3, "lowest": 2, "highest": 3}


def test_decoding_tells_its_ratio_to_generate_and_to_the_roofline_and_leaves_the_model_as_it_was(bench: Bench) -> None:
    model, backbone = bench.backbone.model, bench.backbone
    before = (backbone.config._attn_implementation, model.generation_config, backbone.ends, backbone.markers)
    found = decode(bench)
    assert set(found["rates"]) >= {"engine / generate, 2 rows", "multiplex K=3 / discrete, 2 rows"}
    roof = found["roofline"]["2 rows"]
    assert roof["bytes"] == step_bytes(backbone, 2, len(bench.prompts[0].ids), 4) and roof["share"] > 0
    reading = roof["bytes"] / found["roofline"]["bandwidth"]
    multiplying = roof["flops"] / found["roofline"]["flops a second"]
    assert roof["least_ms"] == pytest.approx(1000 * max(reading, multiplying), abs=0.001)
    assert (backbone.config._attn_implementation, model.generation_config, backbone.ends, backbone.markers) == before
    assert len(model.base_model._forward_hooks) == 1
    assert whole(bench, "multiplex", 3).tokens == 3 * 4  # and none ended before its limit


def test_rivals_decode_as_much_as_they_are_asked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[torch.Size] = []
    generate = bench.backbone.model.generate
    monkeypatch.setattr(
        bench.backbone.model, "generate", lambda *a, **k: shapes.append((out := generate(*a, **k)).shape) or out
    )
    rivals.generate(bench.backbone, bench.prompts[0], 3, 5)
    assert shapes == [(3, len(bench.prompts[0].ids) + 5)]


def test_bytes_of_a_step_are_weights_once_and_the_cache_of_every_row(bench: Bench) -> None:
    backbone, prompt = bench.backbone, len(bench.prompts[0].ids)
    one, two = (step_bytes(backbone, rows, prompt, 100) for rows in (1, 2))
    assert two - one == 50 * backbone.token_bytes
    assert held(torch.zeros(3, 5, dtype=torch.bfloat16)) == 30


def test_products_of_a_step_are_those_that_torch_counts_in_its_linear_layers(bench: Bench) -> None:
    inputs = bench.backbone.embed(torch.tensor([[5], [6], [7]]))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        bench.backbone.model(inputs_embeds=inputs, use_cache=False)
    linear = counter.get_flop_counts()["Global"]
    assert step_flops(bench.backbone, 3) == sum(
        n for op, n in linear.items() if "mm" in str(op) and "bmm" not in str(op)
    )


def test_pruning_saves_tokens_and_a_long_prompt_is_as_long_as_asked(bench: Bench) -> None:
    (saved,) = prune(bench).values()
    assert 0.2 < saved["tokens_saved"] < 0.8
    assert len(long_prompt(bench, 333).ids) == 333


def test_the_command_prints_one_json_line_last_and_writes_the_same(trueplex, tmp_path: Path) -> None:
    out = tmp_path / "b.json"
    code, told, _ = trueplex("bench", "decode", "--batch-size", "2", "--tokens", "4", "--repeats", "1", "--against", "generate", "--out", str(out))  # fmt: skip
    found = json.loads(told.splitlines()[-1])
    assert code == 0 and found.items() <= json.loads(out.read_text()).items()
    assert found["config"]["batch_size"] == [2] and found["machine"]["torch"] and found["traces"] == "2"


@pytest.mark.parametrize(("asked", "why"), [
    (("speed",), "nothing to measure by the name 'speed'"),
    (("decode", "--against", "vllm"), "unknown rival 'vllm'"),
    (("decode", "--layers", "2"), "--layers has no effect without --shape"),
    (("decode", "--shape", "qwen3-9b"), "unknown shape 'qwen3-9b'"),
    (("decode", "--shape", "qwen3-8b", "--model", "x"), "--shape takes the place of --model"),
    (("decode", "--dtype", "float32", "--precisions", "int8"), "--precisions takes the place of --dtype"),
    (("decode", "--vocabulary", "100"), "--vocabulary has no effect without the part sample"),
    (("sample", "--against", "generate"), "--against has no effect without the part decode"),
    (("decode", "--shape", "qwen3-8b", "--memory", "2"), "only --device, --dtype and --compile act on random weights"),
    (("decode", "--shape", "qwen3-8b", "--dtype", "half"), "unknown dtype 'half'"),
    (("start", "--shape", "qwen3-8b"), "the part start loads a model from its files"),
    (("decode", "--batch-size", "2", "--against", "llama"), "llama.cpp needs the model as a GGUF file"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_one_line(trueplex, asked: tuple[str, ...], why: str) -> None:
    code, out, told = trueplex("bench", *asked)
    assert code == 2 and not out and why in told and len(told.splitlines()) == 1
