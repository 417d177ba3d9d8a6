"""`trueplex doctor`: whether a model works here, how it will be asked, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from trueplex.cli.groups import ModelOptions

if TYPE_CHECKING:
    from trueplex.models.backbone import Backbone

EXAMPLE = "trueplex doctor --model Qwen/Qwen3-0.6B"

PROBLEM = "Tom has 3 apples and buys 4 more. How many apples does he have?"
TOKENS, PATHS = 24, 16  # that are decoded to time it
EXTRAS = {
    "math": ("math_verify",), "train": ("accelerate", "pyarrow", "sklearn", "tensorboard"), "plot": ("matplotlib",), "data": ("datasets", "pyarrow"),
    "gguf": ("gguf",), "quantize": ("torchao",), "json": ("jsonschema",), "endpoint": ("openai",), "serve": ("fastapi", "uvicorn", "prometheus_client", "llguidance"),
    "ray": ("ray",), "eval": ("lm_eval",),
}  # fmt: skip


def doctor(model: ModelOptions) -> None:
    """Load a model, check it, decode a little, and tell how it thinks, how fast it is, and which verifier is found."""
    started = time.perf_counter()
    backbone = model.load()
    took = time.perf_counter() - started
    for name, told in _facts(backbone, took):
        print(f"{name:<14} {told}", flush=True)


def _facts(backbone: Backbone, took: float) -> Iterator[tuple[str, str]]:
    import torch
    import transformers

    from trueplex import __version__

    yield "versions", f"trueplex {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    yield (
        "runs on",
        f"{backbone.device} ({torch.get_num_threads()} threads), in {str(backbone.dtype).removeprefix('torch.')}",
    )
    size = sum(p.numel() for p in backbone.model.parameters())
    yield (
        "model",
        f"{backbone.name}: {backbone.config.model_type}, {_count(size)} parameters, loaded and checked in {took:.1f} s",
    )
    yield from _prompt(backbone)
    yield from _speed(backbone)
    yield "memory", _memory(backbone)
    yield "verifier", _verifier(backbone)
    missing = [extra for extra, modules in EXTRAS.items() if any(find_spec(module) is None for module in modules)]
    yield (
        "extras",
        "all installed"
        if not missing
        else f"not installed: {', '.join(missing)}. Try: pip install 'trueplex[{missing[0]}]'",
    )


def _prompt(backbone: Backbone) -> Iterator[tuple[str, str]]:
    """How a problem is put to the model, and where that leaves its thinking."""
    from trueplex.models.prompt import make_prompt, template_of
    from trueplex.types import Problem

    prompt = make_prompt(Problem(PROBLEM), backbone)
    yield (
        "template",
        "the model's own chat template"
        if template_of(backbone.tokenizer)
        else "none: the problem's text is the prompt",
    )
    yield "prompt", f"{len(prompt.ids)} tokens, ending in {prompt.text[-60:]!r}"
    tags = backbone.tags
    left = {"open": "the prompt opens it", "closed": "the prompt closes it: all is answer", "model": "the model may open it",
            "untagged": "no tags: all may hold the answer"}[prompt.thinking]  # fmt: skip
    named = f"{' or '.join(tags.start) or 'nothing'} … {' or '.join(tags.end)}; " if tags else ""
    mode = "multiplex" if backbone.markers is not None else "discrete"
    yield "thinking", f"{named}{left}; --thinking auto is {mode} here"


def _speed(backbone: Backbone) -> Iterator[tuple[str, str]]:
    """Tokens a second of one path and of several, and what they wrote."""
    from trueplex.solving.api import solve

    solve(backbone, PROBLEM, paths=1, max_tokens=4, verifier="none")  # the first pass prepares what later ones reuse
    rates = {}
    for paths in (1, PATHS):
        started = time.perf_counter()
        solution = solve(backbone, PROBLEM, paths=paths, max_tokens=TOKENS, verifier="none")
        rates[paths] = sum(t.tokens for t in solution.traces) / (time.perf_counter() - started)
    yield "speed", f"{rates[1]:.0f} tokens/s on 1 path, {rates[PATHS]:.0f} on {PATHS} (prompt included)"
    yield "it writes", repr(solution.traces[0].text[:100])


def _memory(backbone: Backbone) -> str:
    longest = min(backbone.default_max_tokens, backbone.max_positions)
    path = backbone.row_bytes(longest)
    return (f"{backbone.token_bytes / 1024:.0f} KiB of KV cache a token: {_size(path)} for a path of {longest} tokens, "
            f"{_size(PATHS * path)} for {PATHS} of them")  # fmt: skip


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**20:.0f} MiB" if nbytes < 2**30 else f"{nbytes / 2**30:.1f} GiB"


def _verifier(backbone: Backbone) -> str:
    from trueplex.decide.calibration import FILE
    from trueplex.verify.open import open_scorer, verifier_folder

    folder = verifier_folder(backbone, "auto")
    if not folder.is_dir():
        return "none: votes are plain majorities. Try: --verifier entropy, or `trueplex train verifier --problems FILE`"
    open_scorer(backbone, "auto")
    calibrated = "calibrated" if (folder / FILE).exists() else "not calibrated; see `trueplex calibrate`"
    return f"{folder}: {calibrated}"


def _count(number: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
