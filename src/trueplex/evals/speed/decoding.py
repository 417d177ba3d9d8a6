"""Decoding against other ways to decode, beside a probe, and with pruning."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.evals.speed import rivals
from trueplex.evals.speed.bench import EVERY, Bench, Run, run, whole
from trueplex.evals.speed.pairs import Rate, alternate, paired, ratio
from trueplex.evals.speed.roofline import bandwidth, peak, step_bytes, step_flops
from trueplex.solving.events import Solved
from trueplex.solving.loop import stream
from trueplex.solving.settings import Settings
from trueplex.verify.probe import OneTokenScorer

PATHS = 32  # of a problem whose traces are halved
RAGGED = 640  # tokens of a trace that ends by itself, at most


def decode(bench: Bench) -> dict[str, Any]:
    """Tokens a second, and how near a step is to the reading, or multiplying, of what it needs."""
    rates, roofs, spread = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    copied, multiplied = bandwidth(bench.backbone.device), peak(bench.backbone.device, bench.backbone.dtype)
    for rows in bench.rows:
        runs: list[Run] = []

        def engine(rows: int = rows, runs: list[Run] = runs) -> float:
            runs.append(whole(bench, "discrete", rows))
            return runs[-1].rate

        ours = {"engine": engine, "multiplex": lambda rows=rows: whole(bench, "multiplex", rows).rate}
        found = alternate(ours, _rivals(bench, rows), bench.repeats)
        rivals.forget(bench.rival or bench.backbone)
        named = {"multiplex K=3 / discrete": ratio(found["multiplex"], found["engine"])}
        against = {name: ratio(found["engine"], found[name]) for name in found if name not in ours}
        named |= {f"engine / {name}": figures for name, figures in against.items()}
        generates = [figures for name, figures in against.items() if name.startswith("generate ")]
        if generates:
            named["engine / generate, the faster of both"] = min(generates, key=lambda f: f["ratio"])
        rates |= {f"{name}, {rows} rows": figures for name, figures in named.items()}
        nbytes = step_bytes(bench.backbone, rows, len(bench.prompts[0].ids), bench.tokens)
        flops = step_flops(bench.backbone, rows)
        least, seconds = max(nbytes / copied, flops / multiplied), min(r.decoding for r in runs[1:]) / bench.tokens
        roofs[f"{rows} rows"] = {"bytes": nbytes, "flops": flops, "least_ms": round(1000 * least, 3),
                                 "step_ms": round(1000 * seconds, 3), "share": round(least / seconds, 3)}  # fmt: skip
        spread |= {f"{name}, {rows} rows": [round(r, 1) for r in every] for name, every in found.items()}
    return {
        "rates": rates,
        "tokens a second": spread,
        "roofline": {"bandwidth": round(copied), "flops a second": round(multiplied), **roofs},
    }


RIVALS = ("generate", "static", "continuous", "llama")


def _rivals(bench: Bench, rows: int) -> dict[str, Rate]:
    backbone, prompt, tokens = bench.rival or bench.backbone, bench.prompts[0], bench.tokens
    known: dict[str, tuple[str, Rate]] = {
        "generate": ("generate", lambda: rivals.generate(backbone, prompt, rows, tokens)),
        "static": (
            "generate, compiled static cache",
            lambda: rivals.generate(backbone, prompt, rows, tokens, static=True),
        ),
        "continuous": ("generate_batch", lambda: rivals.continuous(backbone, prompt, rows, tokens)),
    }
    if (file := bench.gguf) is not None:
        known["llama"] = ("llama.cpp, without sampling", lambda: rivals.llama(file, prompt, rows, tokens))
    return dict(known[name] for name in bench.against if name in known)


def ragged(bench: Bench) -> dict[str, Any]:
    """Useful tokens a second where traces end as the model ends them."""
    found = {}
    for rows in bench.rows:

        def engine(rows: int = rows) -> float:
            return run(bench, bench.prompts, Thinking("discrete", ending=Ending(RAGGED)), rows).rate

        rival = partial(rivals.generate_ragged, bench.backbone, bench.prompts, rows, RAGGED)
        found[f"engine / generate, own ragged traces, {rows} rows"] = paired(engine, rival, max(1, bench.repeats - 2))
    return {"rates": found}


def probe(bench: Bench) -> dict[str, Any]:
    """What reading a verifier costs of the rate of decoding."""
    verifier, rates = bench.scorer.verifier, dict[str, Any]()
    scorers = {"none": None, "every 32": OneTokenScorer(verifier, EVERY), "every token": OneTokenScorer(verifier, 1)}
    for rows in bench.rows:

        def rate(scorer: OneTokenScorer | None, rows: int = rows) -> float:
            return whole(bench, "multiplex", rows, scorer).rate

        found = alternate({name: partial(rate, scorer) for name, scorer in scorers.items()}, {}, bench.repeats)
        rates |= {
            f"probe {name} / none, {rows} rows": ratio(found[name], found["none"]) for name in found if name != "none"
        }
    return {"rates": rates}


def prune(bench: Bench) -> dict[str, Any]:
    """Shares of time and of tokens that halving saves, one problem at a time."""
    every = max(1, min(EVERY, bench.tokens // 4))
    rule, scorer = f"half:{every}", bench.scorer
    pruning = {name: Settings(PATHS, bench.thinking("multiplex"), prune=name, seed=bench.seed, probe_every=every)
               for name in ("none", rule)}  # fmt: skip
    found = [prompt.problem for prompt in bench.prompts[::2]]

    def spend(name: str) -> tuple[float, int]:
        started, tokens = time.perf_counter(), 0
        for event in (e for problem in found for e in stream(bench.backbone, [problem], pruning[name], scorer)):
            if isinstance(event, Solved):
                tokens += event.solution.usage.thinking_tokens + event.solution.usage.answer_tokens
        return time.perf_counter() - started, tokens

    runs = [(spend("none"), spend(rule)) for _ in range(max(1, bench.repeats - 2) + 1)][1:]
    shares = [[1 - half[i] / whole[i] for whole, half in runs] for i in (0, 1)]
    time_saved, tokens_saved = (sorted(share)[len(share) // 2] for share in shares)
    figures = {"time_saved": time_saved, "tokens_saved": tokens_saved, "ratio": time_saved / max(tokens_saved, 1e-9)}
    return {f"{rule} of {PATHS}": {name: round(figure, 3) for name, figure in figures.items()}}
