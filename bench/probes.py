"""The cost of One-Token Verification: a training step against plain LoRA fine-tuning, a score against reading again.

    python bench/probes.py --out results/probes.json

One thread; both sides of a ratio are timed in turn, several times, and the ratio is the median of the paired
ratios. Prints a table and, last, one JSON line. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table

from cells import turns, write
from trueplex.data.embedded.tasks import problems
from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.evals.run import machine
from trueplex.evals.speed.pairs import paired
from trueplex.models.lanes import LaneCache
from trueplex.models.load import load, reference_path
from trueplex.models.prompt import make_prompt
from trueplex.train.common.batches import Labelled, Probes, collate
from trueplex.train.verifier import ProbeTask, Recipe
from trueplex.verify.one_token import OneTokenVerifier, ProbeShape
from trueplex.verify.probe import pad_inputs

SIZES, RANK = ((32, 128), (8, 512)), 16  # traces and their tokens: as the embedded model writes them, and longer
TOKENS = (1, 2, 4)  # of a probe


def traces(rows: int, tokens: int) -> list[Labelled]:
    """Traces of one length, as training would store them."""
    backbone = load("reference", device="cpu")
    backbone.ends, backbone.markers = frozenset(), None
    prompt = make_prompt(problems("reference", "train", 1)[0], backbone)
    batch = start(backbone, [prompt], rows, Thinking("discrete", ending=Ending(tokens)))
    finished = [trace for stopped in grow(batch) for trace in stopped]
    return [Labelled(prompt.ids, t.steps, i % 2 == 0, 1) for i, t in enumerate(finished) if t.steps is not None]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def lora_step(batch: list[Labelled]) -> Callable[[], float]:
    """Seconds of a plain fine-tuning step: LoRA of the same rank on all linear layers, cross-entropy on the same tokens."""
    backbone = load("reference", device="cpu")
    backbone.model.set_attn_implementation("sdpa")
    model = get_peft_model(backbone.model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = torch.stack([torch.cat([torch.tensor(t.prompt), torch.from_numpy(t.steps.ids[:, 0]).long()]) for t in batch])

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return lambda: seconds(step)


def probe_step(batch: list[Labelled], positions: int | None) -> Callable[[], float]:
    """Seconds of a verifier's training step with so many probes a trace, or all."""
    backbone = load("reference", device="cpu")
    verifier = OneTokenVerifier(backbone, RANK)
    task = ProbeTask(verifier, Recipe(positions=positions))
    optimiser = torch.optim.AdamW(verifier.parameters(), lr=1e-3)
    data = Probes(batch, positions, 0)
    prepared = collate(backbone, "ramp")([data[i] for i in range(len(batch))])

    def step() -> None:
        task(**prepared)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()

    return lambda: seconds(step)


def reading(batch: list[Labelled], tokens: int) -> tuple[Callable[[], float], Callable[[], float]]:
    """Seconds of one probe of so many tokens behind finished traces in their cache, and of reading the traces again with this model."""
    backbone = load("reference", device="cpu")
    verifier = OneTokenVerifier(backbone, RANK, shape=ProbeShape(tokens)).eval()
    inputs, _ = pad_inputs(backbone, [(t.prompt, t.steps) for t in batch])
    rows, length = inputs.shape[:2]
    cache = LaneCache(backbone.kinds)
    lane = [(cache.add(rows, length + tokens), 0, rows)]
    with torch.inference_mode():
        backbone.decode_pass(cache, lane, np.zeros(rows, dtype=np.int64), inputs)

    @torch.inference_mode()
    def probe() -> None:
        with verifier.probing(tokens):
            _, hidden = backbone.decode_pass(
                cache, lane, np.full(rows, length), verifier.embeddings.expand(rows, -1, -1)
            )
        verifier.read(hidden)

    @torch.inference_mode()
    def again() -> None:
        backbone.forward(inputs, torch.arange(length)[None], None, length)

    return lambda: seconds(probe), lambda: seconds(again)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--repeats", type=int, default=7, help="paired runs of each comparison")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    figures = {}
    for rows, tokens in SIZES:
        batch, size = traces(rows, tokens), f"{rows} traces of {tokens} tokens"
        plain = lora_step(batch)
        for name, positions in (("all positions", None), ("64 positions", 64), ("32 positions", 32)):
            what = f"{size}: training step, {name} / plain LoRA step"
            figures[what] = paired(probe_step(batch, positions), plain, options.repeats)
        for count in TOKENS:
            of = "one probe" if count == 1 else f"one probe of {count} tokens"
            figures[f"{size}: {of} / reading the traces again"] = paired(*reading(batch, count), options.repeats)
    table = Table("what", "seconds", "of", "ratio", "range", title=f"rank {RANK}, {reference_path().name}")
    for name, f in figures.items():
        table.add_row(
            name,
            f"{f['first']:.4f}",
            f"{f['second']:.4f}",
            f"{f['ratio']:.3f}",
            turns(f, 3),
        )
    Console(width=120).print(table)
    write({"machine": machine(), "rank": RANK, "ratios": figures}, options.out)


if __name__ == "__main__":
    main()
