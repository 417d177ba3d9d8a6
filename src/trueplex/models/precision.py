"""In which numbers a model computes, and in which its weights are held."""

from __future__ import annotations

import platform
from typing import Any

import torch

from trueplex.errors import MissingExtra, ModelError, OptionError, reason

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("int8", "int4")
COMPILE = ("auto", "on", "off")
GROUP = 32  # weights of a row that share a scale in int4


def checked_names(dtype: str | torch.dtype | None, quantize: str | None, compile: str) -> None:
    """Raise OptionError for a dtype, a quantisation or a way of compiling that is not known."""
    if compile not in COMPILE:
        raise OptionError(f"compile is {compile!r}. Try: {', '.join(COMPILE)}")
    if dtype is not None and dtype != "auto" and dtype not in DTYPES and dtype not in DTYPES.values():
        raise OptionError(f"unknown dtype {str(dtype)!r}. Try: auto, {', '.join(DTYPES)}")
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise OptionError(f"unknown quantisation {quantize!r}. Try: {' or '.join(QUANTIZATIONS)}")


def resolve_dtype(
    dtype: str | torch.dtype | None,
    device: str,
    stored: torch.dtype | None = None,
    embedded: bool = False,
    native_bfloat16: bool | None = None,
) -> torch.dtype:
    """The dtype to compute in.

    ``auto``, or None: float32 for the embedded model and on CPUs without native bfloat16; on other CPUs bfloat16 for
    a checkpoint of 16 bits, and float32 for one of 32; on accelerators the checkpoint's own, or float16 on one that has no
    bfloat16. ``native_bfloat16`` tells whether the device has it; None asks the device. An unknown
    ``stored`` counts as bfloat16.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in (None, "auto"):
        return DTYPES[dtype]
    if embedded or stored in (torch.float32, torch.float64):
        return torch.float32
    native = has_bfloat16(device) if native_bfloat16 is None else native_bfloat16
    if device == "cpu":
        return torch.bfloat16 if native else torch.float32
    return torch.float16 if stored == torch.float16 or not native else torch.bfloat16


def has_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    if device != "cpu":
        return True
    if platform.machine().lower() in ("aarch64", "arm64"):
        return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # PyTorch has no public name for these; a release without them is taken for a CPU without bfloat16.
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in asked if ask)


def quantised(model: Any) -> bool:
    """Whether weights are held in fewer bits, by torchao or as the checkpoint has them; what was read as GGUF is not."""
    plain = (torch.Tensor, torch.nn.Parameter)
    marked = getattr(model.config, "quantization_config", None) is not None
    return marked or any(type(p) not in plain for p in model.parameters())


def quantize_weights(model: Any, quantize: str) -> None:
    """Hold the weights of all linear layers but the output in 8 or 4 bits, in place, by torchao; inputs stay as they are.

    int4 rounds to 4 bits on every device, but takes 8 bits of memory each: torchao packs them for some GPUs alone.

    Raises:
        MissingExtra: torchao is not installed.
        ModelError: it cannot quantise this model here.
    """
    try:
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerGroup
    except ImportError as error:
        raise MissingExtra("torchao", "quantize") from error
    output = model.get_output_embeddings()

    def chosen(module: torch.nn.Module, name: str) -> bool:
        return isinstance(module, torch.nn.Linear) and module is not output

    config = (
        Int8WeightOnlyConfig()
        if quantize == "int8"
        else IntxWeightOnlyConfig(weight_dtype=getattr(torch, quantize), granularity=PerGroup(GROUP))
    )
    try:
        quantize_(model, config, filter_fn=chosen)
    except Exception as error:  # shapes, devices and kernels: each of torchao's formats raises its own
        raise ModelError(f"{quantize} does not fit this model here ({reason(error, 200)}). Try: without it") from error
