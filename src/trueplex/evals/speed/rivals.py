"""Other ways to decode the same traces: `model.generate`, transformers' continuous batching, and llama.cpp.

All of them decode `rows` samples of one prompt, each `tokens` long, and are asked for no more than that.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig

from trueplex.models.backbone import Backbone
from trueplex.models.packed import unpacked
from trueplex.types import Prompt

PAGE = 512  # tokens that llama.cpp reads of a prompt at once


@contextmanager
def untouched(backbone: Backbone) -> Iterator[Any]:
    """The model as transformers makes it: its own attention and linear layers, no hook of ours, no defaults of its own for sampling.

    Its weights are not frozen: PyTorch multiplies [rows, 1, hidden], where that is a part of a larger tensor, by a copy of a frozen
    weight for each row, and `generate` does so with the output's.
    """
    model, hooks = backbone.model, backbone.model.base_model._forward_hooks
    kept, ours, settings = dict(hooks), backbone.config._attn_implementation, model.generation_config
    hooks.clear()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    model.set_attn_implementation("sdpa")
    model.generation_config = GenerationConfig(pad_token_id=backbone.tokenizer.pad_token_id)
    try:
        with unpacked(model):
            yield model
    finally:
        model.requires_grad_(False)
        hooks.update(kept)
        model.set_attn_implementation(ours)
        model.generation_config = settings


def _sampled(tokens: int) -> dict[str, Any]:
    return {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": tokens}


def generate(backbone: Backbone, prompt: Prompt, rows: int, tokens: int, static: bool = False) -> float:
    """Tokens a second of `model.generate`; ``static``: with a cache of a fixed size and a compiled forward pass."""
    extra: dict[str, Any] = {}
    if static:
        compiled = CompileConfig(mode="reduce-overhead" if backbone.device.type == "cuda" else "default")
        compiled._compile_all_devices = True  # elsewhere than on CUDA, transformers compiles where it is told to
        extra = {"cache_implementation": "static", "compile_config": compiled}
    ids = torch.tensor([prompt.ids], device=backbone.device).expand(rows, -1)
    with untouched(backbone) as model, torch.inference_mode():
        started = time.perf_counter()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **_sampled(tokens), **extra)
        return (out.numel() - ids.numel()) / (time.perf_counter() - started)


def generate_ragged(backbone: Backbone, prompts: list[Prompt], rows: int, tokens: int) -> float:
    """Useful tokens a second of `model.generate`, prompt after prompt, where traces end where the model ends them."""
    ends = torch.tensor(sorted(backbone.ends), device=backbone.device)
    useful, started = 0, time.perf_counter()
    with untouched(backbone) as model, torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt.ids], device=backbone.device).expand(rows, -1)
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), eos_token_id=ends.tolist(), **_sampled(tokens)
            )
            ended = torch.isin(out[:, ids.shape[1] :], ends).int()
            first = torch.where(ended.any(1), ended.argmax(1) + 1, ended.shape[1])
            useful += int(first.sum())
    return useful / (time.perf_counter() - started)


def continuous(backbone: Backbone, prompt: Prompt, rows: int, tokens: int) -> float:
    """Tokens a second of transformers' continuous batching, whose cache is kept from call to call: see `forget`."""
    asked = GenerationConfig(pad_token_id=backbone.tokenizer.pad_token_id, eos_token_id=-1, **_sampled(tokens))
    logging.disable(logging.WARNING)  # of what is kept, which is meant
    try:
        with untouched(backbone) as model:
            started = time.perf_counter()
            found = model.generate_batch([list(prompt.ids)] * rows, asked, persistent_manager=True)
            seconds = time.perf_counter() - started
    finally:
        logging.disable(logging.NOTSET)
    if len(found) < rows:
        raise RuntimeError(f"generate_batch finished {len(found)} of {rows} requests")
    return sum(len(output.generated_tokens) for output in found.values()) / seconds


def forget(backbone: Backbone) -> None:
    """Free what `continuous` keeps: it was sized for so many rows."""
    if hasattr(backbone.model, "_cached_continuous_batching_manager"):
        backbone.model.destroy_cached_continuous_batching_manager()


class LlamaCpp:
    """llama.cpp over a GGUF file, by llama-cpp-python: one token of each of n sequences a step, behind one prompt, no sampling."""

    def __init__(self, file: Path) -> None:
        import llama_cpp

        self._library = llama_cpp
        llama_cpp.llama_backend_init()
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot read {file}")

    def rate(self, ids: Sequence[int], rows: int, tokens: int, threads: int) -> float:
        """Tokens a second."""
        cpp, length = self._library, len(ids)
        asked = cpp.llama_context_default_params()
        asked.n_ctx, asked.n_seq_max, asked.kv_unified = length + rows * tokens + PAGE, rows, True
        asked.n_batch = asked.n_ubatch = max(rows, PAGE)
        asked.n_threads = asked.n_threads_batch = threads
        context = cpp.llama_init_from_model(self._model, asked)
        batch = cpp.llama_batch_init(max(rows, PAGE), 0, 1)
        try:
            started = time.perf_counter()
            for first in range(0, length, PAGE):
                self._decode(context, batch, [(i, token, i, 0) for i, token in enumerate(ids[first : first + PAGE])], first)  # fmt: skip
            for row in range(1, rows):
                cpp.llama_memory_seq_cp(cpp.llama_get_memory(context), 0, row, -1, -1)
            for step in range(tokens):
                self._decode(context, batch, [(row, ids[-1], step, row) for row in range(rows)], length)
            return rows * tokens / (time.perf_counter() - started)
        finally:
            cpp.llama_batch_free(batch)
            cpp.llama_free(context)

    def _decode(self, context: Any, batch: Any, rows: list[tuple[int, int, int, int]], first: int) -> None:
        """Feed (place in the batch, token, position behind ``first``, sequence)."""
        batch.n_tokens = len(rows)
        for place, token, position, sequence in rows:
            batch.token[place], batch.pos[place] = token, first + position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = True
        if code := self._library.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gave {code}")


def llama(file: Path, prompt: Prompt, rows: int, tokens: int) -> float:
    """Tokens a second of `LlamaCpp`, in a process of its own: where two pools of threads wait in one process, OpenMP lets all of
    them sleep early, and whatever else is measured is slower."""
    return _llama_process().apply(_llama_rate, (file, prompt.ids, rows, tokens, torch.get_num_threads()))


@cache
def _llama_process() -> Any:
    return multiprocessing.get_context("spawn").Pool(1)


def _llama_rate(file: Path, *asked: Any) -> float:
    return _opened(file).rate(*asked)


@cache
def _opened(file: Path) -> LlamaCpp:
    return LlamaCpp(file)


def has_llama_cpp() -> bool:
    return find_spec("llama_cpp") is not None
