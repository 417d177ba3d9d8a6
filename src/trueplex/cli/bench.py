"""`trueplex bench`: how fast a model decodes, probes, prunes, samples and reads here, and in how much memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from trueplex.cli.groups import ModelOptions, Seed
from trueplex.cli.options import Within, listed
from trueplex.errors import MissingExtra, OptionError
from trueplex.files import write_json
from trueplex.locks import lock
from trueplex.messages import say

if TYPE_CHECKING:
    from rich.table import Table

    from trueplex.evals.speed.bench import Bench
    from trueplex.models.backbone import Backbone

EXAMPLE = "trueplex bench decode probe --model Qwen/Qwen3-0.6B --batch-size 16 --batch-size 64 --out results/mine.json"

USUAL = ("decode", "probe", "prune", "sample", "prefill", "memory")
PARTS = (*USUAL, "ragged", "modes", "start")
RIVALS = {"cpu": ("generate", "continuous", "llama"), "cuda": ("generate", "static", "continuous")}
Load = Callable[[], "Backbone"]


@dataclass(frozen=True)
class BenchOptions:
    """What is measured, and how much of it."""

    PANEL: ClassVar[str] = "Measurement"

    batch_size: Annotated[list[int] | None, typer.Option(help="Paths decoded together; can be repeated.", show_default="64"), Within(1, 4096)] = None  # fmt: skip
    tokens: Annotated[int, typer.Option(help="Tokens of a path."), Within(4, 2**20)] = 128
    repeats: Annotated[int, typer.Option(help="Rounds in which everything is measured in turn."), Within(1, 1000)] = 5
    against: Annotated[str | None, typer.Option(help="What decoding is measured against, separated by commas: generate, static (compiled, static cache), continuous (generate_batch), llama (llama.cpp).", show_default="what suits the device")] = None  # fmt: skip
    gguf: Annotated[Path | None, typer.Option(help="The same model as a GGUF file, for llama.cpp.", show_default="--model, where it is one")] = None  # fmt: skip
    precisions: Annotated[str | None, typer.Option(help="Measure in each of these, separated by commas: bfloat16, float16, float32, int8, int4; rivals decode in the first.", show_default="--dtype and --quantize")] = None  # fmt: skip
    shape: Annotated[str | None, typer.Option(help="In place of --model, random weights of this shape, such as qwen3-8b or llama-3.1-8b.", show_default="--model")] = None  # fmt: skip
    layers: Annotated[int | None, typer.Option(help="Only so many layers of the shape.", show_default="all"), Within(1)] = None  # fmt: skip
    vocabulary: Annotated[int | None, typer.Option(help="Tokens that the sampler is measured on.", show_default="the model's"), Within(64, 2**20)] = None  # fmt: skip
    seed: Seed = 0

    def check(self, parts: tuple[str, ...]) -> None:
        """Raise OptionError for an option that none of these parts reads, or a part that cannot be measured here."""
        for option, given, part in (("--against", self.against, "decode"), ("--gguf", self.gguf, "decode"), ("--vocabulary", self.vocabulary, "sample")):  # fmt: skip
            if given is not None and part not in parts:
                raise OptionError(f"{option} has no effect without the part {part}. Try: name it, or drop the option")
        if "start" in parts and self.shape:
            raise OptionError(
                "the part start loads a model from its files, and --shape has none. Try: name the other parts"
            )
        if "memory" in parts:
            from trueplex.evals.speed.memory import PEAK

            if not PEAK.exists():
                raise OptionError(f"the part memory reads {PEAK}, which only Linux has. Try: name the other parts")

    def loaders(self, model: ModelOptions) -> dict[str, Load]:
        """How the model is loaded in each precision. Raises OptionError for options that contradict each other."""
        self.rivals("cpu")
        if self.layers and not self.shape:
            raise OptionError("--layers has no effect without --shape. Try: drop it")
        if self.shape and model.model != ModelOptions.model:
            raise OptionError("--shape takes the place of --model. Try: give one of them")
        if self.precisions is None:
            return {model.quantize or model.dtype or "auto": self._loader(model)}
        if model.dtype or model.quantize:
            raise OptionError("--precisions takes the place of --dtype and --quantize. Try: drop them")
        return {name: self._loader(replace(model, dtype="bfloat16" if name.startswith("int") else name, quantize=name if name.startswith("int") else None))
                for name in listed("--precisions", self.precisions)}  # fmt: skip

    def _loader(self, model: ModelOptions) -> Load:
        if self.shape is None:
            return model.load
        from functools import partial

        from trueplex.models.shapes import random_model

        if replace(model, device=None, dtype=None, compile="auto") != ModelOptions():
            raise OptionError(
                "of a model's options only --device, --dtype and --compile act on random weights. Try: drop the others"
            )
        return partial(random_model, self.shape, model.device, model.dtype, self.layers, model.compile)

    def rivals(self, device: str) -> tuple[str, ...]:
        """Raises OptionError for one that is unknown."""
        from trueplex.evals.speed.decoding import RIVALS as KNOWN

        named = listed("--against", self.against) if self.against is not None else RIVALS.get(device, ("generate",))
        if wrong := [name for name in named if name not in KNOWN]:
            raise OptionError(f"unknown rival {wrong[0]!r}. Try: {', '.join(KNOWN)}")
        return named

    def bench(self, backbone: Backbone, model: ModelOptions, rival: Backbone | None) -> Bench:
        from trueplex.evals.speed.bench import Bench
        from trueplex.evals.speed.rivals import has_llama_cpp

        against, asked = self.rivals(backbone.device.type), self.against is not None
        file = self.gguf or (
            Path(model.model) if model.model.endswith(".gguf") and Path(model.model).is_file() else None
        )
        if "llama" in against and asked and not (file and has_llama_cpp()):
            raise OptionError("llama.cpp needs the model as a GGUF file and the package llama-cpp-python. Try: pip install "
                              "llama-cpp-python, and --gguf FILE.gguf")  # fmt: skip
        file = file if "llama" in against and has_llama_cpp() else None
        return Bench(backbone, tuple(self.batch_size or (64,)), self.tokens, self.repeats, self.seed, against, file, rival, self.vocabulary)  # fmt: skip


def bench(
    model: ModelOptions, options: BenchOptions,
    parts: Annotated[list[str] | None, typer.Argument(metavar="[PART]...", help=f"{', '.join(USUAL)}; also ragged (paths end as the model ends them), modes (every thinking mode), start (seconds from a cold start).", show_default=", ".join(USUAL))] = None,
    out: Annotated[Path | None, typer.Option(help="Also write all figures to this JSON file.", show_default=False)] = None,
) -> None:  # fmt: skip
    """Measure speed and memory as ratios of one run, on an idle machine; print tables and, last, one JSON line."""
    asked = tuple(dict.fromkeys(parts or USUAL))
    if wrong := [part for part in asked if part not in PARTS]:
        raise OptionError(f"there is nothing to measure by the name {wrong[0]!r}. Try: {', '.join(PARTS)}")
    options.check(asked)
    with (
        lock(out) if out is not None else nullcontext()
    ):  # where nothing can be written, that is known before it is measured
        told = _bench(model, options, asked)
        print(json.dumps(told))  # before it is written: a disk that is full by now loses no figure
        if out is not None:
            write_json(out, told, indent=1)


def _bench(model: ModelOptions, options: BenchOptions, asked: tuple[str, ...]) -> dict[str, Any]:
    """All figures; their tables are printed as they come."""
    from rich.console import Console

    from trueplex.evals.run import machine

    loaders, rows = options.loaders(model), options.batch_size or [64]
    told: dict[str, Any] = {"machine": machine(), "traces": ", ".join(map(str, rows)), "tokens": options.tokens}
    console, rival, measured = Console(width=120), None, dict[str, Any]()
    for name, load in loaders.items():
        try:
            backbone = load()
        except MissingExtra as error:
            if len(loaders) == 1:
                raise
            say(f"{name} is left out: {error}")
            continue
        made = options.bench(backbone, model, rival)
        found = {"config": _configuration(made, model, options), **_measured(made, load, asked)}
        rival, measured[name] = rival or backbone, found
        for table in _tables(name, found):
            console.print(table)
    return told | (next(iter(measured.values())) if options.precisions is None else {"precisions": measured})


def _measured(bench: Bench, load: Load, parts: tuple[str, ...]) -> dict[str, Any]:
    """The figures of every part; ratios of all parts under ``rates``."""
    from trueplex.evals.speed import decoding, memory, reading, sampling

    known: dict[str, Callable[[], dict[str, Any]]] = {
        "decode": lambda: decoding.decode(bench), "ragged": lambda: decoding.ragged(bench), "probe": lambda: decoding.probe(bench),
        "prune": lambda: decoding.prune(bench), "sample": lambda: sampling.sample(bench), "modes": lambda: sampling.modes(bench),
        "prefill": lambda: reading.prefill(bench), "memory": lambda: memory.memory(bench, load),
        "start": lambda: memory.cold_start(bench),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for part in parts:
        new = known[part]()
        rates = found.get("rates", {}) | new.get("rates", {})
        found |= new | ({"rates": rates} if rates else {})
    return found


def _configuration(bench: Bench, model: ModelOptions, options: BenchOptions) -> dict[str, Any]:
    backbone = bench.backbone
    return {
        "model": Path(backbone.name).name if Path(backbone.name).exists() else backbone.name, "parameters": sum(p.numel() for p in backbone.model.parameters()),
        "device": str(backbone.device), "dtype": str(backbone.dtype).removeprefix("torch."), "quantize": model.quantize,
        **{name: value for name, value in asdict(options).items() if name != "shape"}, "against": bench.against, "gguf": bench.gguf and bench.gguf.name,
        "prompt_tokens": len(bench.prompts[0].ids),
    }  # fmt: skip


def _tables(name: str, found: dict[str, Any]) -> Iterator[Table]:
    from rich.table import Table

    for title, key in ((f"{found['config']['model']} ({name}), a second", "rates"),
                       ("tokens a second, against discrete", "modes / discrete"),
                       ("sampling steps a second, against generate", "sampling / generate")):  # fmt: skip
        if key in found:
            table = Table("what", "first", "second", "ratio", "range", title=title)
            for what, f in found[key].items():
                table.add_row(what, f"{f['first']:.4g}", f"{f['second']:.4g}", f"{f['ratio']:.2f}", f"{f['lowest']:.2f}–{f['highest']:.2f}")  # fmt: skip
            yield table
    if "memory" in found:
        table = Table("memory", "MB before", "MB more at the peak", "MB of it KV")
        for what, m in found["memory"].items():
            table.add_row(what, str(m["before_mb"]), str(m["peak_mb"] - m["before_mb"]), str(m["cache_mb"]))
        yield table
    others = {key: value for key, value in found.items()
              if key not in ("config", "rates", "modes / discrete", "sampling / generate", "memory", "tokens a second", "vocabulary")}  # fmt: skip
    if others:
        table = Table("what", "figures", show_header=False)
        for what, value in others.items():
            table.add_row(what, (json.dumps(value)[1:-1] if isinstance(value, dict) else str(value)).replace('"', ""))
        yield table
