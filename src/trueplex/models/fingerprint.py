"""Names for weights: hashes of every value of every tensor.

A fingerprint is of values, not of their form: the same for one checkpoint in one file or in shards, on any device, and,
where a number fits into bfloat16, in any dtype. For a model that was loaded it is of the files, so that it does not
depend on the precision that they are loaded in, and it is remembered (`trueplex.checksums`); a model that is held in
memory is hashed once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor

from trueplex.checksums import digest, remembered
from trueplex.models.placement import whole

CHUNK = 1 << 22  # values that are hashed at a time
INDEX, SINGLE, ADAPTED = "model.safetensors.index.json", "model.safetensors", "adapter_model.safetensors"
BYTES = 16  # of a fingerprint; those of version 0.2, which read the first 64 values of a tensor, have 12


def fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """A name for the weights in a state dict; a tied tensor counts once, by its last name, as in most files."""
    state = {name: whole(t) for name, t in state.items()}
    last = {(t.data_ptr() or name) if _is_plain(t) else id(t): name for name, t in sorted(state.items())}
    names = sorted(last.values())
    return _joined(zip(names, _each(state[name] for name in names), strict=True))


def fingerprint_of_files(path: str, adapters: Sequence[str] = (), quantize: str | None = None) -> str | None:
    """A name for the weights in a model's files, with adapters merged into them; None where the files are not found.

    Args:
        path: a folder, a hub id whose files are at hand, or a GGUF file in one of them, as in `load.locate`.
    """
    files = weight_files(path)
    if not files:
        return None
    parts = {"": remembered("weights", files, lambda: _of_files(files))}
    for number, adapter in enumerate(adapters):
        weights, config = Path(adapter) / ADAPTED, Path(adapter) / "adapter_config.json"
        told = json.loads(config.read_text()) | {"base_model_name_or_path": None}  # the same wherever the base lies
        parts[f"adapter {number}"] = remembered("weights", [weights], lambda weights=weights: _of_files([weights]))  # type: ignore[misc]
        parts[f"configuration {number}"] = json.dumps(told, sort_keys=True)
    if quantize:
        parts["quantize"] = quantize
    return parts[""] if len(parts) == 1 else _joined(sorted(parts.items()))


def weight_files(path: str) -> list[Path]:
    """The files that transformers reads a model's weights from."""

    def found(folder: str, name: str) -> Path | None:
        at_hand = str(Path(folder) / name) if os.path.isdir(folder) else try_to_load_from_cache(folder, name)
        return Path(at_hand) if isinstance(at_hand, str) and os.path.isfile(at_hand) else None

    if path.endswith(".gguf"):
        folder, _, name = path.rpartition(":")
        files = [Path(path) if os.path.isfile(path) else found(folder, name)]
    elif single := found(path, SINGLE):
        files = [single]
    elif index := found(path, INDEX):
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [found(path, shard) for shard in shards]
    else:
        files = []
    return [file for file in files if file is not None]


def _of_files(files: Sequence[Path]) -> str:
    if files[0].suffix == ".gguf":
        return digest(files[0])
    each: list[tuple[str, str]] = []
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            names = sorted(tensors.keys())
            each += zip(names, _each(tensors.get_tensor(name) for name in names), strict=True)
    return _joined(sorted(each))


def _each(tensors: Iterator[Tensor]) -> list[str]:
    """The hash of every tensor; hashing leaves Python's lock, so that as many go at once as torch has threads."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(_tensor, tensors))


def _tensor(tensor: Tensor) -> str:
    named = hashlib.blake2b(str(tuple(tensor.shape)).encode(), digest_size=BYTES)
    for chunk in _plain(tensor).detach().flatten().split(CHUNK):
        named.update(_shortest(chunk.cpu()).contiguous().view(torch.uint8).numpy().data)
    return named.hexdigest()


def _shortest(values: Tensor) -> Tensor:
    """Floats as bfloat16 where that loses nothing, else as float32: equal values have equal bytes. Others as they are."""
    if not values.is_floating_point() or values.dtype == torch.bfloat16:
        return values
    exact, short = values.float(), values.to(torch.bfloat16)
    return short if torch.equal(short.float().view(torch.int32), exact.view(torch.int32)) else exact


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor that knows all operations; a quantised weight knows few."""
    return tensor if _is_plain(tensor) else tensor.dequantize()


def _joined(parts: Any) -> str:
    named = hashlib.blake2b(digest_size=BYTES)
    for name, part in parts:
        named.update(f"{name}\0{part}\0".encode())
    return named.hexdigest()


def former_fingerprint_of(state: Mapping[str, Tensor]) -> str:
    """The name that version 0.2 gave to these weights: by the shape and the first 64 values, as bf16, of every tensor."""
    named = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(state.items()):
        head = _plain(whole(tensor)).detach().flatten()[:64].to("cpu", torch.bfloat16).view(torch.int16)
        named.update(f"{name}{tuple(tensor.shape)}".encode() + head.numpy().tobytes())
    return named.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A name for a tokenizer: a hash of its vocabulary and its ids."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    return hashlib.blake2b(vocabulary.encode(), digest_size=12).hexdigest()
