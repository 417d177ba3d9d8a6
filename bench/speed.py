"""How fast the engine decodes, probes and prunes, against `model.generate`, as ratios of one run.

    python bench/speed.py --out results/speed.json

One thread; every pair of methods is timed in turn, several times, and the ratio is the median of
the paired ratios. Prints a table and, last, one JSON line. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table

from trueplex.data.embedded.tasks import problems
from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.evals.run import machine
from trueplex.files import write_json
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.solving.loop import stream
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Trace
from trueplex.verify.probe import OneTokenScorer

TRACES, TOKENS = 64, 128
LONG = 400  # tokens of the problem whose memory is measured


def paired(first: Callable[[], float], second: Callable[[], float], repeats: int) -> dict[str, float]:
    """Both are run in turn and return a rate; the median rates and the median of first / second."""
    pairs = [(first(), second()) for _ in range(repeats + 1)][1:]
    ratios = [a / b for a, b in pairs]
    return {
        "first": statistics.median(a for a, _ in pairs),
        "second": statistics.median(b for _, b in pairs),
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def generate_rate(backbone: Backbone, prompts: list, equal: bool) -> float:
    """Useful tokens a second of model.generate, 64 samples of each prompt in turn."""
    stop = (
        {"eos_token_id": None, "min_new_tokens": TOKENS, "max_new_tokens": TOKENS} if equal else {"max_new_tokens": 640}
    )
    implementation = backbone.config._attn_implementation
    backbone.model.set_attn_implementation("sdpa")
    tokens, started = 0, time.perf_counter()
    for prompt in prompts:
        ids = torch.tensor([prompt.ids], device=backbone.device).expand(TRACES, -1)
        with torch.inference_mode():
            out = backbone.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                pad_token_id=backbone.tokenizer.pad_token_id, **stop,
            )[:, ids.shape[1] :]  # fmt: skip
        ended = (out == backbone.tokenizer.eos_token_id).int().argmax(1)
        tokens += out.numel() if equal else int(torch.where(ended > 0, ended + 1, out.shape[1]).sum())
    seconds = time.perf_counter() - started
    backbone.model.set_attn_implementation(implementation)
    return tokens / seconds


def engine_rate(
    backbone: Backbone, prompts: list, thinking: Thinking, equal: bool, scorer: OneTokenScorer | None = None
) -> float:
    """Tokens a second of the engine; with `equal`, no trace may end before its limit."""
    with endless(backbone) if equal else nullcontext():
        started, tokens = time.perf_counter(), 0
        batch = start(backbone, prompts, TRACES, thinking, rows=TRACES)
        probes = {scorer.probe: everything} if scorer else None
        for stopped in grow(batch, scorer.every if scorer else 32, probes):
            tokens += sum(trace.tokens for trace in stopped)
            if scorer:
                scorer(batch.look(everything))
        return tokens / (time.perf_counter() - started)


def everything(trace: Trace) -> bool:
    return True


@contextmanager
def endless(backbone: Backbone) -> Iterator[None]:
    """No trace ends or closes its thinking before its limit."""
    ends, markers = backbone.ends, backbone.markers
    backbone.ends, backbone.markers = frozenset(), None
    try:
        yield
    finally:
        backbone.ends, backbone.markers = ends, markers


def pruning(backbone: Backbone, scorer: OneTokenScorer, found: list[Problem], repeats: int) -> dict[str, float]:
    """Shares of wall-clock time and of tokens that half:32 saves of 32 traces a problem, one problem at a time."""

    def spend(prune: str) -> tuple[float, int]:
        settings = Settings(paths=32, prune=prune)
        started, tokens = time.perf_counter(), 0
        for problem in found:
            for event in stream(backbone, [problem], settings, scorer):
                if hasattr(event, "solution"):
                    usage = event.solution.usage
                    tokens += usage.thinking_tokens + usage.answer_tokens
        return time.perf_counter() - started, tokens

    runs = [(spend("none"), spend("half:32")) for _ in range(repeats + 1)][1:]
    time_saved = statistics.median(1 - half[0] / whole[0] for whole, half in runs)
    token_saved = statistics.median(1 - half[1] / whole[1] for whole, half in runs)
    return {
        "time_saved": round(time_saved, 3),
        "tokens_saved": round(token_saved, 3),
        "ratio": round(time_saved / token_saved, 3),
    }


def memory(traces: int, problems_: int) -> dict[str, float]:
    """Peak memory of a fresh process that thinks 64 tokens of `traces` traces about a 400-token problem."""
    script = f"import runpy; runpy.run_path({str(Path(__file__))!r})['peak']({traces}, {problems_})"
    return json.loads(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


def resident(what: str) -> float:
    """Megabytes of this process by /proc: VmRSS now, VmHWM at its peak since it was last reset."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def peak(traces: int, count: int) -> None:
    """Child of `memory`: prints megabytes before decoding, at its peak, and held by the KV cache."""
    torch.set_num_threads(1)
    backbone = load("reference", device="cpu")
    text, prompts = "Ann has 3 apples.", []
    for i in range(count):
        long = f"{i} " + text
        while len(make_prompt(Problem(long), backbone).ids) < LONG:
            long += " " + text
        prompts.append(make_prompt(Problem(long), backbone))
    for _ in grow(start(backbone, prompts[:1], 1, Thinking(ending=Ending(2)))):  # what the first pass allots for good
        pass
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # loading left freed pages, in which small peaks would hide
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    batch = start(backbone, prompts, traces, Thinking(ending=Ending(64)), rows=traces)
    for _ in grow(batch, 16):
        pass
    print(
        json.dumps(
            {
                "before_mb": round(before),
                "peak_mb": round(resident("VmHWM")),
                "cache_mb": round(batch.cache_bytes / 2**20),
            }
        )
    )


def command_seconds(*arguments: str) -> float:
    started = time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-m", "trueplex", *arguments], capture_output=True, check=True, env=environment)
    return round(time.perf_counter() - started, 2)


def write(result: dict, out: Path | None) -> None:
    """The figures as the last line of the output, and as a file, whole or not at all."""
    if out:
        write_json(out, result, indent=1)
    print(json.dumps(result))


def rate_table(figures: dict[str, dict[str, float]]) -> Table:
    """A row for each pair of methods that was timed."""
    table = Table("what", "first /s", "second /s", "ratio", "range")
    for name, f in figures.items():
        span = f"{f['lowest']:.2f}–{f['highest']:.2f}"
        table.add_row(name, f"{f['first']:.0f}", f"{f['second']:.0f}", f"{f['ratio']:.2f}", span)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--repeats", type=int, default=5, help="paired runs of each comparison")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    backbone = load("reference", device="cpu")
    scorer, _ = choose_scorer(backbone, Settings())
    assert isinstance(scorer, OneTokenScorer)
    found = problems("reference", "test", 6)
    prompts = [make_prompt(p, backbone) for p in found]
    one = prompts[:1]
    discrete, multiplex = Thinking("discrete", ending=Ending(TOKENS)), Thinking("multiplex", ending=Ending(TOKENS))
    n = options.repeats

    def ours(thinking: Thinking, every: int | None = None) -> Callable[[], float]:
        return lambda: engine_rate(
            backbone, one, thinking, True, OneTokenScorer(scorer.verifier, every) if every else None
        )

    figures = {
        "engine / generate, equal lengths": paired(ours(discrete), lambda: generate_rate(backbone, one, True), n),
        "engine / generate, own ragged traces": paired(
            lambda: engine_rate(backbone, prompts, Thinking("discrete"), False),
            lambda: generate_rate(backbone, prompts, False),
            max(1, n - 2),
        ),
        "multiplex K=3 / discrete": paired(ours(multiplex), ours(discrete), n),
        "probe every 32 / none": paired(ours(multiplex, 32), ours(multiplex), n),
        "probe every token / none": paired(ours(multiplex, 1), ours(multiplex), n),
    }
    saved = pruning(backbone, scorer, found[::2], max(1, n - 2))
    sizes = {f"{t} traces": memory(t, 1) for t in (16, 64, 256)}
    sizes["64 traces, then 64 of a second problem"] = memory(64, 2)
    cold = {
        "trueplex --help": min(command_seconds("--help") for _ in range(3)),
        "trueplex solve, 16 paths": command_seconds("solve", found[0].text, "--json", "--quiet"),
    }
    result = {"machine": machine(), "traces": TRACES, "tokens": TOKENS, "rates": figures, "half:32 of 32": saved,
              "memory": sizes, "seconds from a cold start": cold}  # fmt: skip
    console = Console(width=110)
    console.print(rate_table(figures))
    console.print(
        f"half:32 of 32 traces: {saved['tokens_saved']:.0%} of tokens and {saved['time_saved']:.0%} of time saved"
    )
    for name, s in sizes.items():
        console.print(
            f"{name}: {s['peak_mb'] - s['before_mb']} MB above {s['before_mb']} MB, {s['cache_mb']} MB of it KV"
        )
    console.print(", ".join(f"{name}: {s} s" for name, s in cold.items()))
    write(result, options.out)


if __name__ == "__main__":
    main()
