"""The chapter on speed and memory: the embedded model's, and real models' by precision."""

from __future__ import annotations

from typing import Any

from cells import measured, missing, paired, read, read_all, table, turns

RIVALS = {"generate": "`generate`", "generate_batch": "`generate_batch`", "llama.cpp, without sampling": "llama.cpp"}

SHARE = "sampling's share of a step"


def speed_parts() -> list[str]:
    speed, modes, probes = read("speed.json"), read("modes-speed.json"), read("probes.json")
    parts = ["## Speed\n\nOne thread, medians of paired runs on an idle machine."]
    for name, found, tables in (("speed.json", speed, embedded_tables), ("modes-speed.json", modes, mode_speed_tables),
                                ("probes.json", probes, probe_table)):  # fmt: skip
        if found is None:
            parts.append(missing(name, "bench"))
        else:
            rows = f"{found['traces']} traces; " if "traces" in found else ""
            parts += [
                f"{rows}torch {found['machine']['torch']}, {found['machine']['cores']} cores.{measured(found)}",
                tables(found),
            ]
    return parts + real_speed_parts() + budget_parts() + training_parts()


def real_speed_parts() -> list[str]:
    """What real models decode, by precision, as `make bench-real` measures it."""
    found = list(read_all("real-speed").values())
    if not found:
        return [missing("real-speed/MODEL.json", "bench-real MODEL=…")]
    parts = [
        "### Real models\n\nThe engine against other ways to decode the same paths of one prompt, in turns: ratios of tokens a second, the median and "
        "range of few rounds. In every row of a table `generate` decodes in the table's first precision, with transformers' own layers, and llama.cpp "
        f"reads the same model from a GGUF file and does not sample.{measured(*found)}"
    ]
    for result in found:
        machine, precisions = result["machine"], result["precisions"]
        config = next(iter(precisions.values()))["config"]
        rivals = [name for name in RIVALS if any(f"engine / {name}, " in key for f in precisions.values() for key in f["rates"])]  # fmt: skip
        parts += [
            f"{config['model']}: {config['tokens']} tokens behind a prompt of {config['prompt_tokens']}, {machine['threads']} threads, "
            f"torch {machine['torch']}, {config['repeats']} rounds{read_by_llama(config)}{sampled(precisions)}:",
            table(["precision", "paths", "tokens a second", *(f"against {RIVALS[name]}" for name in rivals), "multiplex against discrete", "MB more at the peak"],
                  [row for name, f in precisions.items() for row in real_rows(name, f, rivals)]),
        ]  # fmt: skip
    return parts


def read_by_llama(config: dict[str, Any]) -> str:
    return f"; llama.cpp reads `{config['gguf']}`" if config.get("gguf") else ""


def sampled(precisions: dict[str, Any]) -> str:
    """What sampling takes of a step, where that was measured."""
    shares = [
        f"{100 * f[SHARE]:.0f} % ({name}, {max(f['config']['batch_size'])} paths)"
        for name, f in precisions.items()
        if SHARE in f
    ]
    return f"; sampling takes {', '.join(shares)} of a step" if shares else ""


def budget_parts() -> list[str]:
    """More paths than a memory budget holds, as `make memory-budget` measures it."""
    found = list(read_all("real-memory").values())
    if not found:
        return [missing("real-memory/MODEL.json", "memory-budget MODEL=…")]
    rows = []
    for result in found:
        own, fits = result["runs"]["budget"], result["runs"]["as many rows as fit"]
        rows.append([
            f"{result['model']}, {result['dtype']}", f"{result['paths']} × {result['tokens']:,}", f"{result['budget_bytes'] / 2**30:.2f}",
            f"{own['peak_bytes'] / 2**30:.2f}", str(own["suspended"]), str(fits["rows"]), f"{fits['peak_bytes'] / 2**30:.2f}",
            f"{result['rate, budget / as many rows as fit']:.2f}", f"{result['equal']} of {result['paths']}", str(result["tokens alike, median"]),
        ])  # fmt: skip
    return [
        "### Paths under a memory budget\n\nMore paths than `--memory` holds, against a run without a budget of as many rows as fit it at their full length, "
        "each once. Paths draw by the same numbers in both. Where they ran beside another number of rows, or were read again, their logits differ by "
        "rounding, and one draw in some hundred of tens of thousands of tokens then falls on the next token; no path was let end, so most of each is such text."
        + measured(*found),
        table(
            ["model", "paths × tokens", "GiB of KV at most", "at the peak", "suspended", "rows without a budget", "their peak, GiB", "tokens a second, budget / without", "paths drawn alike", "tokens before the first difference, median"],
            rows,
        ),
    ]  # fmt: skip


def training_parts() -> list[str]:
    """What both trainers take on a real model, as `make train-real` measures it."""
    found = read("training-real.json")
    if found is None:
        return [missing("training-real.json", "train-real MODEL=…")]
    policy, verifier = found["policy"], found["verifier"]
    rows = [
        [f"policy: {len(policy['steps'])} steps of GRPO by LoRA", f"{policy['cpu_seconds'] / 60:.0f}", f"{policy['peak_gib']:.1f}"],
        [f"verifier: {verifier['traces']} traces, `--memory {verifier['memory_gib']:g}`", f"{verifier['cpu_seconds'] / 60:.0f}", f"{verifier['peak_gib']:.1f}"],
    ]  # fmt: skip
    return [
        f"### Training on a real model\n\n{found['model']} on {found['machine']['threads']} thread: whole commands, with loading, rollouts and judging. The memory is that of "
        f"the process, weights (here twice, as they are and packed) and libraries included.{measured(found)}",
        table(["what", "CPU minutes", "GiB at most"], rows),
    ]


def real_rows(precision: str, found: dict[str, Any], rivals: list[str]) -> list[list[str]]:
    """A row for each number of paths."""
    rows, rates = [], found["rates"]
    for paths in found["config"]["batch_size"]:
        ours = f"multiplex K=3 / discrete, {paths} rows"
        told = [rates.get(f"engine / {rival}, {paths} rows") for rival in rivals]
        shown = ["–" if f is None else f"{f['ratio']:.2f} ({turns(f)})" for f in (*told, rates[ours])]
        peak = found.get("memory", {}).get(f"{paths} traces")
        rows.append([precision, str(paths), f"{rates[ours]['second']:.0f}", *shown, str(peak["peak_mb"] - peak["before_mb"]) if peak else "–"])  # fmt: skip
    return rows


def probe_table(probes: dict[str, Any]) -> str:
    return table(
        [f"one-token verification, rank {probes['rank']}: time, as a ratio", "median", "range of the paired runs"],
        paired(probes["ratios"], 3),
    )


def embedded_tables(speed: dict[str, Any]) -> str:
    rates = paired(speed["rates"])
    saved = speed["half:32 of 32"]
    rates.append(["`half:32` of 32: share of time saved / share of tokens saved", f"{saved['ratio']:.2f}",
                  f"{saved['time_saved']:.0%} of time, {saved['tokens_saved']:.0%} of tokens"])  # fmt: skip
    memory = [[name, str(s["peak_mb"] - s["before_mb"]), str(s["cache_mb"])] for name, s in speed["memory"].items()]
    cold = [[name, str(seconds)] for name, seconds in speed["seconds from a cold start"].items()]
    return "\n\n".join([
        table(["tokens per second, as a ratio", "median", "range of the paired runs"], rates),
        "Peak memory above the loaded model, one 400-token problem, 64 tokens thought:",
        table(["traces", "MB", "of it KV cache, MB"], memory),
        table(["from a cold start", "seconds"], cold),
    ])  # fmt: skip


def mode_speed_tables(speed: dict[str, Any]) -> str:
    parts = []
    for title, key in (("tokens per second, against discrete", "modes / discrete"),
                       (f"sampling steps per second, {speed['traces']} rows of {speed['vocabulary']:,} tokens, against what "
                        "`model.generate` does between logits and ids", "sampling / generate")):  # fmt: skip
        parts.append(table([title, "median", "range of the paired runs"], paired(speed[key])))
    return "\n\n".join(parts)
