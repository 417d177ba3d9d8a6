"""Loading: what is refused, and why; what a fingerprint sees."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig

from conftest import EVERY_FAMILY, grown, prompts_for
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, ModelError
from trueplex.models import attention
from trueplex.models.backbone import Backbone
from trueplex.models.check import self_check
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.types import Problem


def edited(folder: Path, target: Path, **changes: object) -> Path:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


def test_what_is_no_model_is_said_clearly(folder, tmp_path: Path) -> None:
    good = folder("qwen3")
    with pytest.raises(ModelError, match="not a folder, nor a hub id"):
        load("no-such-model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(str(tmp_path / "empty"))
    bare = tmp_path / "bare"
    shutil.copytree(good, bare)
    (bare / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        load(str(bare))
    cut = tmp_path / "cut"
    shutil.copytree(good, cut)
    (cut / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load model"):
        load(str(cut))
    with pytest.raises(ModelError, match="cannot load model 'nobody/nothing'"):
        load("nobody/nothing")


def lacking(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def misshapen(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:8].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lacking, r"no fitting weights for model\.layers\.1\.self_attn\.q_proj\.weight, which would be random"),
        (misshapen, r"no fitting weights for model\.norm\.weight"),
        (without_tokenizer, "Try: copy the tokenizer's files|cannot be given a problem"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{% for %}"),
            "correct its tokenizer and chat template",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    folder, tmp_path: Path, spoil: Callable[[Path], None], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Weights that are drawn at random would answer too."""
    shutil.copytree(folder("qwen3"), tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(ModelError, match=says):
        load(str(tmp_path / "m"), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_names_that_no_file_can_have_and_devices_that_are_not_there() -> None:
    for name in ("", "~nobody/f", "n" * 300):
        with pytest.raises(ModelError, match=r"not a folder, nor a hub id|cannot load model"):
            load(name)
    for device in ("gpu", "hpu", "privateuseone"):
        with pytest.raises(ModelError, match=rf"device '{device}' cannot be used \(.*\). Try: device="):
            load(device=device)


def test_models_that_would_be_got_wrong_are_refused_with_the_reason(folder, tmp_path: Path) -> None:
    linear = edited(folder("qwen3"), tmp_path / "linear", layer_types=["linear_attention", "full_attention"])
    with pytest.raises(ModelError, match="linear_attention"):
        load(str(linear))
    layered = edited(folder("qwen3"), tmp_path / "layered", hidden_size_per_layer_input=8)
    with pytest.raises(ModelError, match="per-layer embeddings"):
        load(str(layered))


def test_the_self_check_sees_a_model_that_scales_on_the_ids_path_only(folder) -> None:
    """falcon_h1 multiplies token embeddings only when given ids; merged inputs would silently be wrong."""
    backbone = load(str(folder("qwen3")))
    inner = backbone.model.model
    plain = type(inner).forward

    def scaled(self, input_ids=None, inputs_embeds=None, **kwargs):
        if input_ids is not None:
            inputs_embeds = 3.0 * self.embed_tokens(input_ids)
        return plain(self, inputs_embeds=inputs_embeds, **kwargs)

    inner.forward = scaled.__get__(inner)
    with pytest.raises(ModelError, match="reads embeddings unlike token ids"):
        self_check(backbone)


def test_the_self_check_sees_masks_that_are_ignored(folder) -> None:
    backbone = load(str(folder("mistral")))
    backbone.kinds = replace(backbone.kinds, layers=("full_attention",) * len(backbone.kinds.layers))
    with pytest.raises(ModelError, match="decodes from the cache"):
        self_check(backbone)
    assert backbone.config.sliding_window == 12  # which was shortened only for the check


def test_a_fingerprint_names_the_weights_not_the_dtype(folder, tmp_path: Path) -> None:
    path = str(folder("qwen3"))
    a, b = load(path), load(path, dtype=torch.bfloat16)
    assert a.fingerprint == b.fingerprint
    with torch.no_grad():
        a.model.model.layers[0].mlp.up_proj.weight[-1, -1] += 0.5
    a.model.save_pretrained(tmp_path)
    a.tokenizer.save_pretrained(tmp_path)
    changed = load(str(tmp_path))
    assert changed.fingerprint != a.fingerprint and changed.former_fingerprint == b.former_fingerprint
    assert Backbone("in memory", a.model, a.tokenizer).fingerprint == changed.fingerprint


def test_padded_words_are_never_sampled(folder, tmp_path: Path) -> None:
    from trueplex.engine.sampling import Sampling

    backbone = load(str(folder("llama")))
    backbone.vocabulary, backbone.padded = 300, True
    self_check(backbone)
    thinking = Thinking(sampling=Sampling(3.0), ending=Ending(20))
    traces = grown(backbone, [make_prompt(Problem("Hi"), backbone)], 16, thinking)
    assert max(t.steps.ids.max() for t in traces) < 300
    assert all(t.steps.logps.min() > float("-inf") for t in traces)


def test_empty_and_over_long_problems(qwen) -> None:
    with pytest.raises(InputError, match="empty"):
        Problem("  \n")
    with pytest.raises(InputError, match=r"tokens long and the model holds 512"):
        make_prompt(Problem("word " * 600), qwen)


@pytest.mark.parametrize(
    ("family", "says", "options"),
    [
        ("deepseek_v32", "indexed_attention .*by an index", {}),
        ("deepseek_v4", "compressed_attention .*one entry for many tokens", {}),
        ("recurrent_gemma", "state in themselves", {}),
    ],
)
def test_what_cannot_be_driven_is_refused_before_weights_are_read(
    family: str, says: str, options: dict, tmp_path: Path
) -> None:
    """What such layers keep is not known here by row, or is kept elsewhere than in a cache."""
    config = AutoConfig.for_model(family, vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                  num_key_value_heads=2, **options)  # fmt: skip
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")  # never looked at
    with pytest.raises(ModelError, match=says):
        load(str(tmp_path))


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_bfloat16_decodes_in_every_family(folder, family: str) -> None:
    from trueplex.engine.replay import replay

    backbone = load(str(folder(family)), dtype=torch.bfloat16)
    prompt = make_prompt(Problem("Hi"), backbone)
    traces = grown(backbone, [prompt], 3, Thinking(ending=Ending(10)))
    assert all(t.tokens == 10 or t.status.value == "finished" for t in traces)
    for trace in traces:  # each replays to its log-probabilities within the noise of the dtype
        again = replay(backbone, prompt.ids, trace.steps).cpu().numpy()
        kept = trace.steps.weights > 0
        assert np.abs(again - trace.steps.logps)[kept].mean() < 0.05
        assert np.allclose(trace.steps.weights.sum(1), 1, atol=1e-5) and trace.steps.ids.max() < backbone.vocabulary


def test_an_adapter_of_an_adapter_is_merged_into_both(folder, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def adapter(name: str, base: str, seed: int) -> str:
        torch.manual_seed(seed)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(folder("qwen3")),
            LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
        )
        model.peft_config["default"].base_model_name_or_path = base
        model.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    plain = str(folder("qwen3"))
    one = adapter("one", plain, 1)
    alone, both = load(adapter("two", plain, 2)), load(adapter("three", one, 2))
    first, base = load(one), load(plain)
    name = "model.layers.0.self_attn.q_proj.weight"
    of = lambda backbone: backbone.model.state_dict()[name]  # noqa: E731
    assert torch.allclose(of(both) - of(base), (of(first) - of(base)) + (of(alone) - of(base)), atol=1e-6)
    config = tmp_path / "one" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": one}))
    with pytest.raises(ModelError, match="an adapter to itself"):
        load(one)
    config.write_text("{")
    with pytest.raises(ModelError, match=r"cannot read .*adapter_config"):
        load(one)


def test_attention_on_cuda_keeps_off_kernels_that_are_planned_for_every_length(qwen, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """cuDNN builds a plan for every new shape, a quarter of a second each; a decode step has a new one every time."""
    sdp = torch.backends.cuda
    before = sdp.cudnn_sdp_enabled()
    with attention.without_cudnn(torch.device("cuda")):
        assert not sdp.cudnn_sdp_enabled()
        assert sdp.flash_sdp_enabled() and sdp.mem_efficient_sdp_enabled() and sdp.math_sdp_enabled()
    with attention.without_cudnn(torch.device("cpu")):
        assert sdp.cudnn_sdp_enabled() == before
    with sdpa_kernel(SDPBackend.MATH), attention.without_cudnn(torch.device("cuda")):
        assert sdp.math_sdp_enabled() and not sdp.flash_sdp_enabled()  # whoever chose a kernel keeps it
    assert sdp.cudnn_sdp_enabled() == before

    seen = []
    kernels = attention.without_cudnn

    def layer(module: torch.nn.Module, *inputs: object) -> None:
        seen.append(sdp.cudnn_sdp_enabled())

    monkeypatch.setattr(attention, "without_cudnn", lambda device: kernels(torch.device("cuda")))
    hook = qwen.model.get_submodule("model.layers.0").register_forward_pre_hook(layer)
    try:
        sdp.enable_cudnn_sdp(True)
        grown(qwen, prompts_for(qwen), 2, Thinking(ending=Ending(max_tokens=9)))
    finally:
        hook.remove()
        sdp.enable_cudnn_sdp(before)
    assert seen and not any(seen)
