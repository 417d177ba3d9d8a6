"""In which numbers a model computes: dtypes, GGUF files, quantised weights, and masks that are left out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import prompts_for
from trueplex.errors import MissingExtra, ModelError, OptionError
from trueplex.models import load as loading
from trueplex.models import precision
from trueplex.models.lanes import LaneCache
from trueplex.models.load import load, locate, reading
from trueplex.models.precision import resolve_dtype

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("device", "stored", "native", "dtype"),
    [
        ("cpu", BF16, True, BF16), ("cpu", BF16, False, F32), ("cpu", F16, True, BF16), ("cpu", F32, True, F32),
        ("cpu", None, True, BF16), ("cuda", BF16, True, BF16), ("cuda", BF16, False, F16), ("cuda:1", F16, True, F16),
        ("cuda", F32, True, F32), ("mps", BF16, True, BF16), ("mps", None, True, BF16),
    ],
)  # fmt: skip
def test_auto_is_the_checkpoints_dtype_where_the_device_has_it(device: str, stored: torch.dtype, native: bool, dtype: torch.dtype) -> None:  # fmt: skip
    assert resolve_dtype("auto", device, stored, native_bfloat16=native) == dtype
    assert resolve_dtype(None, device, stored, native_bfloat16=native) == dtype
    assert resolve_dtype("auto", device, stored, embedded=True, native_bfloat16=native) == F32


def test_a_dtype_that_is_named_is_used(folder) -> None:
    assert resolve_dtype("float16", "cpu", F32) == resolve_dtype(F16, "cuda", BF16) == F16
    assert load(str(folder("qwen3")), dtype="bfloat16").dtype == BF16
    assert load(dtype="auto").dtype == F32
    for wrong in ({"dtype": "fp8"}, {"dtype": torch.int8}, {"quantize": "int3"}):
        with pytest.raises(OptionError, match=r"unknown (dtype|quantisation) .* Try"):
            load(str(folder("qwen3")), **wrong)


def test_names_of_gguf_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: True)
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF, or not")
    assert reading(locate(str(file))) == {"pretrained_model_name_or_path": str(tmp_path), "gguf_file": "tiny.gguf"}
    options = reading(locate("nobody/nothing:tiny.gguf"))
    assert (options["pretrained_model_name_or_path"], options["gguf_file"]) == ("nobody/nothing", "tiny.gguf")
    with pytest.raises(ModelError, match=r"no GGUF file .* OWNER/NAME:FILE\.gguf"):
        load(str(tmp_path / "other.gguf"))
    with pytest.raises(ModelError, match="cannot load model") as caught:
        load(str(file))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"trueplex\[gguf\]"):
        load(str(file))


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed: pip install 'trueplex[quantize]'")
@pytest.mark.parametrize("quantize", precision.QUANTIZATIONS)
def test_quantised_weights_decode_and_have_a_fingerprint_of_their_own(folder, quantize: str) -> None:
    path = str(folder("qwen3"))
    plain, quantised = load(path), load(path, quantize=quantize)
    assert type(quantised.model.model.layers[0].mlp.up_proj.weight) is not torch.nn.Parameter
    assert type(quantised.model.get_output_embeddings().weight) is torch.nn.Parameter
    assert quantised.fingerprint not in ("", plain.fingerprint)


def test_without_torchao_the_extra_is_named(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(MissingExtra, match=r"trueplex\[quantize\]"):
        load(str(folder("qwen3")), quantize="int8")


@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe"])
def test_no_mask_is_built_where_all_layers_see_everything_and_the_logits_are_the_same(backbones, family: str, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Llama names no kinds of layers; a mask of its own was built for it at every step."""
    backbone = backbones(family)
    inputs = backbone.embed(torch.tensor(prompts_for(backbone)[0].ids, device=backbone.device))[None].expand(2, -1, -1)
    n = inputs.shape[1]

    def decode() -> list[torch.Tensor]:
        cache, logits = LaneCache(backbone.kinds), []
        rows = [(cache.add(2, n), 0, 2)]
        for first, last in ((0, n - 2), (n - 2, n - 1), (n - 1, n)):
            logits.append(backbone.decode_pass(cache, rows, np.array([first, first]), inputs[:, first:last])[0])
        return logits

    with torch.inference_mode():
        plain = backbone.model(inputs_embeds=inputs, use_cache=False).logits[:, [0, n - 2, n - 1]].float()
        monkeypatch.setattr(backbone, "mask_of", lambda *given: pytest.fail("a mask was built"))
        masks = "transformers.masking_utils.sdpa_mask"
        monkeypatch.setattr(masks, lambda *given, **named: pytest.fail("transformers built a mask"))
        for number, logits in enumerate(decode()):
            known = backbone.vocabulary
            assert torch.allclose(logits[:, :known], plain[:, number, :known], atol=1e-4)
