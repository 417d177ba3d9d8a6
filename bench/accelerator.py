"""How fast the engine decodes on an accelerator, as ratios of one run; run it on an idle one.

    python bench/accelerator.py --out results/accelerator.json

The embedded model, whose steps are all launches of kernels, and a Qwen3 of 0.6 B parameters with random weights, in
the dtype that `load` chooses. Every pair of methods is timed in turn, several times, as in `bench/speed.py`.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen3Config, Qwen3ForCausalLM

import speed
from trueplex.data.embedded.tasks import problems
from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.evals.run import machine
from trueplex.models.backbone import Backbone
from trueplex.models.load import default_device, load, load_tokenizer
from trueplex.models.prompt import make_prompt
from trueplex.types import Problem, Prompt, Status, Stop
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer

TOKENS, LONG = speed.TOKENS, speed.LONG
SHAPE = {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16,
         "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}  # fmt: skip
DISCRETE, MULTIPLEX = (Thinking(mode, ending=Ending(TOKENS)) for mode in ("discrete", "multiplex"))


def random_model(folder: Path) -> str:
    """A model of Qwen3-0.6B's shape, with the embedded model's tokenizer."""
    tokenizer = load_tokenizer("reference")
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPE, tie_word_embeddings=True, max_position_embeddings=4096,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def rates(backbone: Backbone, prompts: Sequence[Prompt], repeats: int, ends: bool) -> dict[str, dict[str, float]]:
    """The ratios of `bench/speed.py`; ragged traces where the model ends its own."""
    verifier = OneTokenVerifier(backbone)
    one = prompts[:1]

    def ours(thinking: Thinking, every: int | None = None) -> float:
        scorer = OneTokenScorer(verifier, every) if every else None
        return speed.engine_rate(backbone, list(one), thinking, True, scorer)

    compared: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "engine / generate, equal lengths": (
            lambda: ours(DISCRETE),
            lambda: speed.generate_rate(backbone, list(one), True),
        ),
        "multiplex K=3 / discrete": (lambda: ours(MULTIPLEX), lambda: ours(DISCRETE)),
        "probe every 32 / none": (lambda: ours(MULTIPLEX, 32), lambda: ours(MULTIPLEX)),
        "probe every token / none": (lambda: ours(MULTIPLEX, 1), lambda: ours(MULTIPLEX)),
    }
    if ends:
        compared["engine / generate, own ragged traces"] = (
            lambda: speed.engine_rate(backbone, list(prompts), Thinking("discrete"), False),
            lambda: speed.generate_rate(backbone, list(prompts), False),
        )
    found = {}
    for what, (first, second) in compared.items():
        found[what] = speed.paired(first, second, repeats)
        print(backbone.name, what, found[what], flush=True)
    return found


def by_rows(backbone: Backbone, most: Iterable[int], traces: int = 16) -> dict[str, float]:
    """Tokens a second of the model's own ragged multiplex traces, by how many are decoded together."""
    found = {}
    for rows in most:
        prompts = [make_prompt(p, backbone) for p in problems("reference", "train", 2 * rows // traces)]
        started = time.perf_counter()
        tokens = sum(
            t.tokens for stopped in grow(start(backbone, prompts, traces, Thinking(), rows=rows), 32) for t in stopped
        )
        found[str(rows)] = round(tokens / (time.perf_counter() - started))
    return found


def memory(backbone: Backbone, traces: int) -> dict[str, int]:
    """Peak megabytes above the loaded model of 64 tokens of `traces` traces about a 400-token problem."""
    text = "Ann has 3 apples."
    while len(make_prompt(Problem(text), backbone).ids) < LONG:
        text += " Ann has 3 apples."
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with speed.endless(backbone):
        prompts = [make_prompt(Problem(text), backbone)]
        batch = start(backbone, prompts, traces, Thinking(ending=Ending(64)), rows=traces)
        for _ in grow(batch, 16):
            pass
    held = {"peak_mb": round((torch.cuda.max_memory_allocated() - before) / 2**20)}
    return held | {"cache_mb": round(batch.cache_bytes / 2**20)}


def pruned(backbone: Backbone, prompt: Prompt, repeats: int) -> dict[str, float]:
    """The shares of time and of tokens that halving 64 traces every 32 of 128 tokens saves."""

    def spend(halving: bool) -> tuple[float, int]:
        with speed.endless(backbone):
            started, tokens = time.perf_counter(), 0
            batch = start(backbone, [prompt], speed.TRACES, MULTIPLEX, rows=speed.TRACES)
            for stopped in grow(batch, 32):
                worse = batch.traces[len(batch.traces) // 2 or 1 :] if halving else []
                pruned = batch.stop(Stop(trace, Status.PRUNED, "half") for trace in worse)
                tokens += sum(trace.tokens for trace in (*stopped, *pruned))
            return time.perf_counter() - started, tokens

    runs = [(spend(False), spend(True)) for _ in range(repeats + 1)][1:]
    time_saved = statistics.median(1 - half[0] / whole[0] for whole, half in runs)
    token_saved = statistics.median(1 - half[1] / whole[1] for whole, half in runs)
    return {"time_saved": round(time_saved, 3), "tokens_saved": round(token_saved, 3)}


def measure(name: str, repeats: int, ends: bool) -> dict[str, Any]:
    backbone = load(name, device=default_device())
    prompts = [make_prompt(p, backbone) for p in problems("reference", "test", 6)]
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in backbone.model.parameters()), "dtype": str(backbone.dtype).rpartition(".")[2],
        "rates": rates(backbone, prompts, repeats, ends), "halved": pruned(backbone, prompts[0], repeats),
        "memory": {f"{t} traces": memory(backbone, t) for t in (16, 64, 256)},
    }  # fmt: skip
    if ends:
        found["tokens a second by rows"] = by_rows(backbone, (64, 256, 1024, 4096))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--repeats", type=int, default=5, help="paired runs of each comparison")
    options = parser.parse_args()
    if default_device() != "cuda":
        parser.error("there is no CUDA device here. Try: bench/speed.py measures on the CPU")
    with tempfile.TemporaryDirectory() as folder:
        models = {"reference": measure("reference", options.repeats, True)}
        told = {"machine": machine(), "traces": speed.TRACES, "tokens": TOKENS, "models": models}
        speed.write(told, options.out)  # keep what is measured, even if a later part fails
        models["qwen3-0.6b, random weights"] = measure(random_model(Path(folder)), max(1, options.repeats - 1), False)
    table = Table("model", "what", "first /s", "second /s", "ratio", "range")
    for name, found in models.items():
        for what, f in found["rates"].items():
            table.add_row(name, what, f"{f['first']:.0f}", f"{f['second']:.0f}", f"{f['ratio']:.2f}",
                          f"{f['lowest']:.2f}–{f['highest']:.2f}")  # fmt: skip
    console = Console(width=120)
    console.print(table)
    for name, found in models.items():
        console.print(name, found["halved"], found["memory"], found.get("tokens a second by rows", ""))
    speed.write(told, options.out)


if __name__ == "__main__":
    main()
