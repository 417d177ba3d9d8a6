"""A name → a Backbone: the embedded model, a folder, a hub id, a GGUF file, or a PEFT adapter that is merged into its base.

Only safetensors and GGUF are read, and no remote code is run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import QuantizationMethod

from trueplex.checksums import check_seal
from trueplex.errors import MissingExtra, ModelError, OptionError, StoreError, TrueplexError, reason
from trueplex.files import read_json
from trueplex.models import hub
from trueplex.models.backbone import Backbone
from trueplex.models.check import refuse, self_check
from trueplex.models.compiled import quicken
from trueplex.models.fingerprint import fingerprint_of_files
from trueplex.models.packed import pack
from trueplex.models.placement import check_spread, placement
from trueplex.models.precision import checked_names, quantize_weights, resolve_dtype
from trueplex.models.prompt import make_prompt
from trueplex.models.rotary import tell
from trueplex.types import Problem

REFERENCE = "reference"
SHIPPED = {
    REFERENCE: "model",
    "reference-multiplex": "multiplex",
}  # inside the package: the embedded model, and adapters to it
ADAPTER = "adapter_config.json"
GGUF = ".gguf"


@dataclass(frozen=True)
class Adapter:
    """What is read here of PEFT's configuration."""

    base_model_name_or_path: str | None = None


def reference_path(name: str = REFERENCE) -> Path:
    """The folder of a model that ships inside the package."""
    return Path(str(files("trueplex.reference") / SHIPPED[name]))


def folder_of(name: str) -> Path:
    """Where a model lies, if it is a folder: what belongs to it lies there too."""
    return reference_path(name) if name in SHIPPED else Path(os.path.expanduser(name))


def default_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load(
    name: str = REFERENCE,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    memory: float | None = None,
    device_map: str | None = None,
    compile: str = "auto",
) -> Backbone:
    """Load a model by ``reference``, ``reference-multiplex``, local folder or hub id, and check that it can be driven here.

    A folder may also be a PEFT adapter, as `trueplex train policy` writes it. GGUF files are given as FILE.gguf or
    OWNER/NAME:FILE.gguf, and are dequantised. What is at hand of a hub id is used when the hub cannot be reached.

    Args:
        dtype: ``auto`` (also None), ``float32``, ``bfloat16``, ``float16``, or torch's own; see `precision.resolve_dtype`.
        device_map: ``auto`` spreads the layers over accelerators, ``tp`` shares each among torchrun's processes; see `placement`.
        quantize: ``int8`` or ``int4``: the weights of all linear layers but the output are held so, by torchao.
        compile: ``on`` compiles the decode step when it is first taken (`models.compiled`); on CUDA, ``on`` and ``auto`` record it (`models.captured`).
        memory: GiB of KV cache that traces may take together; None is half of the memory that is free on CPU, and 80 % on CUDA.

    Raises:
        StoreError: a file does not match the checksums beside it.
        ModelError: nothing is there, it cannot be read or lacks weights, its tokenizer or chat template does not fit, the device
            cannot be used, or the self-check shows that merged inputs, ragged rows or the cache would give wrong results.
        OptionError: an unknown dtype or quantisation, or a memory that is no positive number.
        MissingExtra: the package that reads GGUF, or that quantises, is not installed.
    """
    checked_names(dtype, quantize, compile)
    if memory is not None and not 0 < memory < float("inf"):
        raise OptionError(f"memory is {memory}. Try: a number of GiB above 0, such as 2.5")
    place = usable(device or default_device())
    path, adapters = weights_of(name)
    for folder in (path, *adapters):
        check_seal(Path(folder))
    with loading(f"model {name!r}"):
        options = reading(path)
        config = AutoConfig.from_pretrained(**options)
        refuse(config.get_text_config(decoder=True))
        several = placement(device_map, device, config, quantize) if device_map else {}
        model = _read(path, config, options, place, dtype, several)
        for adapter in adapters:
            model = _merged(model, adapter)
        tokenizer = AutoTokenizer.from_pretrained(**options)
        named = fingerprint_of_files(path, adapters, quantize)
    if not {"past_key_values", "cache_params"} & set(signature(model.forward).parameters):
        raise ModelError(f"{config.model_type} keeps its state apart from transformers' cache, where a probe cannot read it. "
                         "Try: choose another model")  # fmt: skip
    if quantize:
        quantize_weights(model, quantize)
    pack(model)
    backbone = Backbone(name, model, tokenizer)
    if named is not None:
        backbone.fingerprint = named
    _check_vocabulary(backbone)
    self_check(backbone)
    tell(backbone.config, name)
    quicken(backbone, compile)
    backbone.memory = None if memory is None else int(memory * 2**30)
    return backbone


def _read(path: str, config: Any, options: dict[str, Any], device: str, dtype: str | torch.dtype | None,
          several: dict[str, Any]) -> Any:  # fmt: skip
    """The model itself, on the device, or on ``several`` as these arguments say. Raises ModelError where its files lack a weight."""
    quantised = getattr(config, "quantization_config", None) is not None and "gguf_file" not in options
    stored = torch.bfloat16 if "gguf_file" in options else getattr(config, "dtype", None)
    resolved = resolve_dtype(dtype, device, stored, embedded=path == str(reference_path()))
    # packed weights are put in place as they are read
    place = several or ({"device_map": {"": device}} if quantised else {})
    known = {} if "gguf_file" in options else {"config": config}
    with unreported():
        model, report = AutoModelForCausalLM.from_pretrained(
            dtype=resolved,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **weights_only(options),
            **known,
            **place,
        )
    unmark_gguf(model)
    if wrong := missing_weights(report):
        raise ModelError(
            f"{path} has no fitting weights for {wrong}, which would be random. Try: copy or save the model again"
        )
    check_spread(model)
    return model if quantised or several else model.to(device)


def usable(device: str) -> str:
    """The device. Raises ModelError where it cannot be used."""
    try:
        torch.empty(0, device=device)
    except Exception as error:  # no such device, a busy one, or a torch that was built without it: each its own kind
        other = "cpu" if device == default_device() else default_device()
        raise ModelError(f"device {device!r} cannot be used ({reason(error, 100)}). Try: --device {other}") from error
    return device


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Errors of the libraries that read a model become one ModelError about `what`; ours pass as they are."""
    try:
        yield
    except TrueplexError:
        raise
    except Exception as error:  # transformers, safetensors, tokenizers and the hub raise many kinds for one cause
        raise ModelError(
            f"cannot load {what}: {reason(error)}. Try: check the name, the files and the network"
        ) from error


@contextmanager
def unreported() -> Iterator[None]:
    """Weights that a model class does not know, or that it has to draw, are no news here: `missing_weights` looks at them."""
    transformers_logging.disable_progress_bar()
    said = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(said)


def missing_weights(report: dict[str, Any]) -> str:
    """A weight that a checkpoint does not hold, or holds in another shape, by transformers' report of it; else nothing."""
    return next(iter(sorted(report["missing_keys"]) or sorted(key for key, *_ in report["mismatched_keys"])), "")


def _merged(model: Any, adapter: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers, and not ours to fix
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()


def _check_vocabulary(backbone: Backbone) -> None:
    """A problem can be put to the model: its template renders, and its tokenizer's ids are rows of the embeddings."""
    try:
        ids = make_prompt(Problem("What is 1 + 1?"), backbone).ids
    except Exception as error:  # the template is a program of the folder's, and the tokenizer may be of any kind
        raise ModelError(
            f"{backbone.name} cannot be given a problem ({reason(error)}). Try: correct its tokenizer and chat template"
        ) from error
    rows = backbone.model.get_input_embeddings().num_embeddings
    if not ids or None in ids or max(ids) >= rows:
        raise ModelError(f"the tokenizer of {backbone.name} is not that of its weights, which know {rows} tokens. "
                         "Try: copy the tokenizer's files beside them")  # fmt: skip


def cached_only(path: str) -> dict[str, bool]:
    """How `from_pretrained` looks for `path`: among the files at hand alone when it is a hub id and the hub does not answer."""
    return {} if Path(path).is_dir() or hub.answers() else {"local_files_only": True}


def reading(path: str) -> dict[str, Any]:
    """The arguments of `from_pretrained` for what `locate` gave: folder, hub id, or a GGUF file in one of them.

    Raises MissingExtra when the package that reads GGUF is not installed.
    """
    if not path.endswith(GGUF):
        return {"pretrained_model_name_or_path": path, **cached_only(path)}
    if find_spec("gguf") is None:
        raise MissingExtra("gguf", "gguf")
    folder, _, file = (
        path.rpartition(":") if not Path(path).is_file() else (str(Path(path).parent), "", Path(path).name)
    )
    return {"pretrained_model_name_or_path": folder, "gguf_file": file, **cached_only(folder)}


def weights_only(options: dict[str, Any]) -> dict[str, Any]:
    """What `reading` gave, for the weights: from safetensors or GGUF alone, and no remote code."""
    return {**options, "trust_remote_code": False, **({} if "gguf_file" in options else {"use_safetensors": True})}


def unmark_gguf(model: Any) -> None:
    """A model that was read as GGUF has plain weights; transformers would yet take it for quantised, and never save it."""
    if getattr(getattr(model.config, "quantization_config", None), "quant_method", None) == QuantizationMethod.GGUF:
        del model.config.quantization_config
        model.hf_quantizer, model.quantization_method, model.is_quantized = None, None, False


def locate(name: str) -> str:
    """The folder, GGUF file or hub id to load from; a clear error for what can be seen to be none of them."""
    path = folder_of(name)
    if name.endswith(GGUF):
        if os.path.isfile(path):
            return str(path)
        if hub.is_id(name.rpartition(":")[0]):
            return name
        raise ModelError(
            f"no GGUF file {name!r}. Try: check the spelling, or give OWNER/NAME:FILE.gguf for one on the hub"
        )
    if name and os.path.isdir(path):
        pass
    elif hub.is_id(name):
        return name
    else:
        near = get_close_matches(name, SHIPPED, 1, 0.7)
        hint = f"did you mean {near[0]!r}?" if near else "check the spelling"
        raise ModelError(f"no model {name!r}: not a folder, nor a hub id of the form OWNER/NAME. Try: {hint}")
    if not any((path / file).is_file() for file in ("config.json", ADAPTER)):
        raise ModelError(f"{path} has no config.json. Try: give the folder of a Hugging Face model")
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"{path} has no *.safetensors weights. Try: save the model with safe serialization")
    return str(path)


def weights_of(name: str) -> tuple[str, list[str]]:
    """Where the model's weights and tokenizer lie, and the PEFT adapters that are merged into them, in their order."""
    path, adapters = locate(name), list[str]()
    while (Path(path) / ADAPTER).is_file():
        if path in adapters:
            raise ModelError(f"{path} is an adapter to itself. Try: correct base_model_name_or_path in {ADAPTER}")
        adapters.insert(0, path)
        path = locate(_base_of(path))
    return path, adapters


def _base_of(adapter: str) -> str:
    """The model that a PEFT adapter belongs to. Raises ModelError for a verifier, which is no adapter of the model."""
    if (Path(adapter) / "verifier.json").is_file():
        raise ModelError(f"{adapter} is a verifier, not a model. Try: give it as --verifier")
    try:
        base = read_json(Path(adapter) / ADAPTER, Adapter).base_model_name_or_path
    except StoreError as error:
        raise ModelError(str(error)) from error
    if not base:
        raise ModelError(
            f"{adapter} does not say which model it belongs to. Try: add base_model_name_or_path to {ADAPTER}"
        )
    return base


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model by any name that `load` takes; raises ModelError when it cannot be read."""
    path, _ = weights_of(name)
    with loading(f"the tokenizer of {name!r}"):
        return AutoTokenizer.from_pretrained(**reading(path))
