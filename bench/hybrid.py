"""Can a probe read a recurrent state? What `make hybrid` measured, in one file, and its chapter of docs/results.md.

python bench/hybrid.py runs/hybrid/*/test/results.json --out results/hybrid.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cells import measured, missing, paired, percent, read, spread, table, write
from trueplex.reference.sibling import LAYERS

KEPT = ("problems", "samples", "ids", "pass", "tokens", "auroc_within", "auroc_within_entropy")


def gathered(results: list[Path]) -> dict[str, Any]:
    """The models that were judged, by what their layers are: how each was made, and its figures by suite."""
    models, machine = {}, {}
    for path in results:
        run = path.parent.parent
        made, card, result = (
            json.loads(p.read_text()) for p in (run / "base/pretrain.json", run / "verifier/verifier.json", path)
        )
        machine = result["machine"]
        models[run.name] = {
            **{name: made[name] for name in ("parameters", "steps", "decay", "warmup", "rows", "lr", "seed", "begun")},
            "traces": card["traces"], "recipe": card["recipe"], "config": result["config"],
            "suites": {suite: {name: f[name] for name in KEPT} for suite, f in result["suites"].items()},
        }  # fmt: skip
    return {"machine": machine, "models": models}


def hybrid_parts() -> list[str]:
    """The chapter: how good the models are, and how well a verifier of each ranks the traces of a problem."""
    title = "## Can a probe read a recurrent state?\n\n"
    found = read("hybrid.json")
    if found is None:
        return [title + missing("hybrid.json", "hybrid")]
    models = {name: found["models"][name] for name in LAYERS if name in found["models"]}
    made = next(iter(models.values()))
    first = next(iter(made["suites"].values()))
    sizes = "; ".join(
        f"{name}: {m['parameters'] / 1e6:.2f} M parameters, verifier from {m['traces']:,} traces"
        for name, m in models.items()
    )
    began = (
        "Both began with the embedded model, but for the attention of those layers, which was random, and learned on"
        if made["begun"] else "Both learned from scratch"
    )  # fmt: skip
    return [
        f"{title}Two siblings of the embedded model, for its tasks and of about its size. In the hybrid every other layer is a gated delta "
        f"network, as in Qwen3.5, which keeps a state and no keys and values; its twin has full attention there. {began}, for {made['steps']:,} "
        f"steps of {made['rows']} texts, the same ones in the same order. Verifiers by the embedded model's recipe, on rollouts of each (passes over them: {made['recipe']['epochs']:g}). {sizes}. "
        f"{first['problems']} test problems a suite, {first['samples']} discrete traces each; AUROC within problems of the verifier's live "
        "scores, at half of a trace and at its end, and of the traces' mean entropy, which needs no training. The hybrid's other layers have keys and "
        "values, so this tells what a verifier loses on such a model, not what it would read of states alone."
        + f" Mean over the suites, at the end of a trace: {means(models)}." + measured(found),
        table(["suite", "layers", "pass@1, %", "AUROC, at half", "at the end", "by entropy"],
              [[suite, name, *cells(m["suites"][suite])] for suite in made["suites"] for name, m in models.items()]),
        *speed_parts(),
    ]  # fmt: skip


def means(models: dict[str, Any]) -> str:
    """What the verifier of each model, and entropy, reach in the mean over suites."""
    said = []
    for name, m in models.items():
        told = [(f["auroc_within"]["1.0"], f["auroc_within_entropy"]) for f in m["suites"].values()]
        told = [(scored["mean"], entropy["mean"]) for scored, entropy in told if scored and entropy]
        scored, entropy = (sum(column) / len(column) for column in zip(*told, strict=True))
        said.append(f"{name} {scored:.2f} (entropy {entropy:.2f})")
    return ", ".join(said)


def speed_parts() -> list[str]:
    """The hybrid, a tiny Qwen3.5, against `generate`."""
    speed = read("hybrid-speed.json")
    if speed is None:
        return [missing("hybrid-speed.json", "hybrid-speed")]
    return [
        f"Speed of the hybrid with transformers' own slow path, as no fast kernels are installed:{measured(speed)}",
        table(["tokens per second, as a ratio", "median", "range of the paired runs"],
              paired(speed["rates"])),
    ]  # fmt: skip


def cells(f: dict[str, Any]) -> list[str]:
    """The figures of a suite; a dash where no problem had right and wrong traces."""
    ranked = (f["auroc_within"]["0.5"], f["auroc_within"]["1.0"], f["auroc_within_entropy"])
    return [percent(f["pass"]["1"]), *("–" if figure is None else spread(figure, 2) for figure in ranked)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="results.json in the folders test of the runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    write(gathered(options.results), options.out)


if __name__ == "__main__":
    main()
