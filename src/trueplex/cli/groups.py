"""The groups of options that commands share: model, thinking, limits, paths and scores, budget, deciding, problems.

Nothing here imports torch when it is loaded: a group turns into objects of the engine only when its command runs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from trueplex.cli.cores import take_free_cores
from trueplex.cli.options import Within, check_count
from trueplex.errors import OptionError

if TYPE_CHECKING:
    import torch

    from trueplex.data.problems import Columns
    from trueplex.engine.limits import Ending
    from trueplex.engine.thinking import Thinking
    from trueplex.models.backbone import Backbone
    from trueplex.models.prompt import PromptOptions

VERIFIERS = ("'auto' (the model's own), a verifier's folder or hub id, 'deepconf[:mean|tail|bottom|lowest[@WINDOW]]', 'logprob', "
             "'entropy', 'combined[:FOLDER]' (a verifier's probe and those, after `trueplex train combined`), an outcome model 'orm:[acemath:]MODEL', a process model 'prm:FORM:MODEL[@last|min|mean|product]' (FORM: "
             "math-shepherd, versaprm, qwen, skywork), a generative verifier 'genrm:MODEL[@VOTES]', your own function 'call:MODULE:FUNCTION', or 'none'.")  # fmt: skip

Verifier = Annotated[str, typer.Option(help=f"What scores the paths: {VERIFIERS}")]
ProbeEvery = Annotated[int, typer.Option(help="Tokens between two scores of a path."), Within(1)]
Answer = Annotated[str, typer.Option(help="What counts as an answer: 'auto' (the last box, else 'the answer is …', '####', the last number, the last line), 'boxed', 'number', 'choice' (a letter), 'json' or 'json:SCHEMA.json', 'last-line', 'regex:PATTERN', 'text' (all of it; the best by score is chosen), 'call:MODULE:FIND[:SAME]' (your own).")]  # fmt: skip
Reread = Annotated[str | None, typer.Option("--answer", help="Re-read the answers of stored traces as this kind (see `trueplex solve`).", show_default="as they were read")]  # fmt: skip
KeepBase = Annotated[Path | None, typer.Option(help="Folder that keeps what the base model reads of each trace, most of the work, for later epochs, other recipes and other verifiers; its size is said.", show_default="keeps nothing")]  # fmt: skip
MaxBatchSize = Annotated[int | None, typer.Option(help="Most paths decoded together.", show_default="64 on CPU, 256 on CUDA"), Within(1)]  # fmt: skip
Seed = Annotated[int, typer.Option(help="The same seed gives the same result."), Within(0, 2**63 - 1)]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.", rich_help_panel="Output")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and where it runs."""

    PANEL: ClassVar[str] = "Model"

    model: Annotated[
        str,
        typer.Option(
            help="'reference' (ships with trueplex), 'reference-multiplex' (trained to think in multiplex tokens), a local folder, a hub id, or a GGUF file (FILE.gguf, OWNER/NAME:FILE.gguf)."
        ),
    ] = "reference"
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu.", show_default="the fastest available")] = None
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16; auto is the checkpoint's own where the processor computes in it.", show_default="auto")] = None  # fmt: skip
    quantize: Annotated[str | None, typer.Option(help="Hold the weights in 'int8' or 'int4' (needs the extra 'quantize').", show_default="as stored")] = None  # fmt: skip
    memory: Annotated[float | None, typer.Option(metavar="GIB", help="Most memory that the KV cache of all running paths may take, or a pass of a verifier's training; what does not fit waits.", show_default="a share of what is free")] = None  # fmt: skip
    device_map: Annotated[str | None, typer.Option(help="'auto': layers spread over all accelerators; 'tp': every layer shared by the processes of torchrun (`trueplex solve` alone).", show_default="one device")] = None  # fmt: skip
    compile: Annotated[str, typer.Option(help="'on': compile the decode step when it is first taken, which takes a minute or more. On CUDA, 'on' and 'auto' also record it as CUDA graphs. A model that allows neither is computed plainly, as with 'off'.")] = "auto"  # fmt: skip
    system: Annotated[str | None, typer.Option(help="System message.", show_default="the template's own")] = None
    instruction: Annotated[str | None, typer.Option(help="What is added to every problem; 'none' adds nothing.", show_default="reason step by step, answer in \\boxed{}")] = None  # fmt: skip
    template_arg: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the chat template, such as enable_thinking=false; can be repeated.", show_default="none")] = None  # fmt: skip
    think_start: Annotated[str | None, typer.Option(help="Text that opens thinking, where the model's own is not known.", show_default="the model's own")] = None  # fmt: skip
    think_end: Annotated[str | None, typer.Option(help="Text that closes thinking; what follows is the answer.", show_default="the model's own")] = None  # fmt: skip
    threads: Annotated[int | None, typer.Option(help="CPU threads of PyTorch; fewer leave cores to other jobs.", show_default="cores that no other job keeps busy, or OMP_NUM_THREADS"), Within(1, 4096)] = None  # fmt: skip

    def reader(self, dtype: torch.dtype | None = None) -> Backbone:
        """The same as `load`, for a command that decodes nothing. Raises OptionError for options of decoding."""
        if self.memory is not None or self.compile != "auto":
            raise OptionError(
                "--memory and --compile are of decoding, and this command reads stored traces. Try: drop them"
            )
        return self.load(dtype)

    def load(self, dtype: torch.dtype | None = None, shares: bool = False) -> Backbone:
        """The model, loaded and checked, with its way of being asked; ``dtype`` is a command's own wish, and None otherwise.

        ``shares``: the command can be run by processes that share a model.

        Raises TrueplexError as `models.load.load` and `models.prompt.prompt_by`.
        """
        import torch

        from trueplex.models.load import load
        from trueplex.models.prompt import prompt_by

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        else:
            take_free_cores()
        if dtype is not None and self.dtype is not None:
            raise OptionError(
                "this command sets the precision of the weights itself, so --dtype has no effect here. Try: drop it, or use --bf16"
            )
        if self.device_map == "tp" and not shares:
            raise OptionError(
                "this command cannot share a model among processes. Try: --device-map auto; `trueplex solve` can"
            )
        backbone = load(
            self.model, self.device, dtype or self.dtype, self.quantize, self.memory, self.device_map, self.compile
        )
        asked = self.prompting()
        return prompt_by(backbone, asked) if asked else backbone

    def prompting(self) -> PromptOptions | None:
        """How problems are put to the model; None for the model's own way. Raises OptionError for what is malformed."""
        from trueplex.models.prompt import PromptOptions

        arguments = []
        for pair in self.template_arg or ():
            name, equals, value = pair.partition("=")
            if not (name and equals):
                raise OptionError(
                    f"the template argument {pair!r} has no value. Try: KEY=VALUE, such as enable_thinking=false"
                )
            arguments.append((name, _plain_value(value)))
        instruction = "" if self.instruction == "none" else self.instruction and f"\n{self.instruction}"
        asked = PromptOptions(self.system, tuple(arguments), instruction, (), self.think_start, self.think_end)
        return asked if asked != PromptOptions() else None


def _plain_value(text: str) -> Any:
    """What JSON reads there (true, false, null, numbers), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class LimitOptions:
    """When a path ends."""

    PANEL: ClassVar[str] = "Limits of a path"

    max_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens of a path, thinking and answer together.", show_default="the model's own"),
    ] = None
    think_tokens: Annotated[
        int | None,
        typer.Option(
            help="Close thinking with </think> after this many tokens; the rest of --max-tokens is kept for the answer.",
            show_default="no limit",
        ),
    ] = None
    cold_entropy: Annotated[
        float | None,
        typer.Option(
            help="Cold stop: close thinking when the entropy (in nats) stays below this. The published value is 0.01.",
            show_default="never",
        ),
    ] = None
    cold_steps: Annotated[
        int | None, typer.Option(help="Steps for which the entropy must stay below --cold-entropy.", show_default="256")
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End a path when its text ends with this string; can be repeated.", show_default="none"),
    ] = None
    max_seconds: Annotated[float | None, typer.Option(help="Most seconds of a path.", show_default="no limit")] = None  # fmt: skip

    def ending(self) -> Ending:
        """The limits as the engine takes them. Raises OptionError for values out of range."""
        from trueplex.engine.limits import Ending

        return Ending(self.max_tokens, self.think_tokens, self.cold_entropy, self.cold_steps, tuple(self.stop or ()),
                      self.max_seconds)  # fmt: skip

    def check(self, backbone: Backbone) -> None:
        """Raise OptionError when a path may have more tokens than the model has positions."""
        if self.max_tokens is not None and self.max_tokens > backbone.max_positions:
            raise OptionError(f"--max-tokens {self.max_tokens} is more than the {backbone.max_positions} positions of {backbone.name}, "
                              f"which hold the prompt, too. Try: at most {backbone.max_positions}")  # fmt: skip


ANSWER = "Sampling of the answer, after </think>"
AS_THINKING = "as while thinking"


@dataclass(frozen=True)
class ThinkingOptions:
    """How paths think and sample. None is the default, so that what was given can be told from what was not."""

    PANEL: ClassVar[str] = "Thinking and sampling"

    thinking: Annotated[
        str | None,
        typer.Option(
            help="'discrete' (one token a step), 'multiplex' (K samples merged), 'soft' (the K most likely tokens merged), 'stochastic-soft' (the same under noise), or 'auto': multiplex where thinking has tags, else discrete.",
            show_default="auto",
        ),
    ] = None
    width: Annotated[
        int | None,
        typer.Option(help="K: samples of a multiplex step, or tokens of a soft step.", show_default="3; 10 for soft"),
    ] = None
    merge: Annotated[
        str | None,
        typer.Option(
            help="How the K samples of a multiplex step merge: 'weighted' (by probability) or 'mean'.",
            show_default="weighted",
        ),
    ] = None
    without_replacement: Annotated[
        bool, typer.Option("--without-replacement", help="K different samples in every multiplex step.")
    ] = False
    noise: Annotated[
        str | None,
        typer.Option(help="Noise of stochastic-soft thinking: 'gumbel' or 'dirichlet'.", show_default="gumbel"),
    ] = None
    strength: Annotated[
        float | None, typer.Option(help="Strength of the noise: tau of gumbel, alpha of dirichlet.", show_default="1.0")
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0 is greedy.", show_default="1.0")
    ] = None
    top_k: Annotated[
        int | None, typer.Option(help="Sample from this many of the most likely tokens; 0 keeps all.", show_default="0")
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(help="Then from the most likely tokens up to this probability mass.", show_default="1.0"),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Then from tokens at least this likely, relative to the most likely one.", show_default="0.0"
        ),
    ] = None
    answer_temperature: Annotated[
        float | None, typer.Option(rich_help_panel=ANSWER, help="Temperature of the answer.", show_default=AS_THINKING)
    ] = None
    answer_top_k: Annotated[
        int | None, typer.Option(rich_help_panel=ANSWER, help="Top-k of the answer.", show_default=AS_THINKING)
    ] = None
    answer_top_p: Annotated[
        float | None, typer.Option(rich_help_panel=ANSWER, help="Top-p of the answer.", show_default=AS_THINKING)
    ] = None
    answer_min_p: Annotated[float | None, typer.Option(rich_help_panel=ANSWER, help="Min-p of the answer.", show_default=AS_THINKING)] = None  # fmt: skip

    def build(self, limits: LimitOptions) -> Thinking:
        """The options as the engine takes them. Raises OptionError where one is out of range or could not act."""
        from trueplex.engine.sampling import Sampling
        from trueplex.engine.thinking import Thinking

        sampling = Sampling(**self._given(""))
        answer = self._given("answer_")
        merges = (self.width, self.merge) != (None, None) or self.without_replacement
        return Thinking(self.thinking or ("multiplex" if merges else "auto"), self.width, self.merge, sampling, replace(sampling, **answer) if answer else None,
                        limits.ending(), not self.without_replacement, self.noise, self.strength)  # fmt: skip

    def _given(self, prefix: str) -> dict[str, Any]:
        values = {name: getattr(self, prefix + name) for name in ("temperature", "top_k", "top_p", "min_p")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class ThinkingOrGreedy(ThinkingOptions):
    """The same, with a short way to ask for greedy decoding."""

    greedy: Annotated[bool, typer.Option("--greedy", help="The most likely token at every step: --thinking discrete --temperature 0, and one path unless more are asked for.")] = False  # fmt: skip

    def build(self, limits: LimitOptions) -> Thinking:
        if not self.greedy:
            return super().build(limits)
        given = [f.name for f in fields(self) if f.name != "greedy" and getattr(self, f.name) not in (None, False)]
        beside = [f"--{name.replace('_', '-')}" for name in given if (name, self.thinking) != ("thinking", "discrete")]
        if beside:
            raise OptionError(f"--greedy is --thinking discrete --temperature 0, so {' and '.join(beside)} would have no effect or contradict "
                              f"it. Try: drop --greedy, or {' and '.join(beside)}")  # fmt: skip
        return replace(self, greedy=False, thinking="discrete", temperature=0.0).build(limits)


@dataclass(frozen=True)
class RunOptions:
    """How many paths, what scores them, and with which draws."""

    PANEL: ClassVar[str] = "Paths and scores"

    paths: Annotated[str | None, typer.Option(help="Paths per problem: a number, or 'auto' ('auto:LIMIT'): 8, and more while the vote is open.", show_default="16; 1 with --greedy")] = None  # fmt: skip
    verifier: Verifier = "auto"
    probe_every: ProbeEvery = 32
    answer: Answer = "auto"
    max_batch_size: MaxBatchSize = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_count("--paths", (self.paths or "").removeprefix("auto:"))


@dataclass(frozen=True)
class SampleOptions:
    """The same for commands that store a fixed number of traces."""

    PANEL: ClassVar[str] = "Paths and scores"

    samples: Annotated[int | None, typer.Option(help="Traces per problem.", show_default="16; 1 with --greedy"), Within(1)] = None  # fmt: skip
    verifier: Annotated[str, typer.Option(help=f"Also score the traces, by {VERIFIERS}")] = "none"
    probe_every: ProbeEvery = 32
    answer: Answer = "auto"
    max_batch_size: MaxBatchSize = None
    seed: Seed = 0


@dataclass(frozen=True)
class BudgetOptions:
    """What a whole run may spend."""

    PANEL: ClassVar[str] = "Budget of the whole run"

    budget_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens of all paths, probe tokens included.", show_default="no limit"),
        Within(high=2**63 - 1),
    ] = None
    budget_seconds: Annotated[float | None, typer.Option(help="Most seconds.", show_default="no limit")] = None
    budget_paths: Annotated[int | None, typer.Option(help="Most paths of all problems together.", show_default="no limit")] = None  # fmt: skip


@dataclass(frozen=True)
class DecideOptions:
    """What is pruned, chosen and answered."""

    PANEL: ClassVar[str] = "Pruning, vote and confidence"

    prune: Annotated[
        str,
        typer.Option(
            help="When to prune weak paths; rules joined by '+': 'half:32', 'half:32/4' (leave 4), 'keep:0.5@64', 'drop:2@16', 'stop:128', 'floor:0.2', 'deepconf:low@64/8' (after 64 tokens, 8 warm-up paths), 'keep-top:8@64', 'retain:LENGTH@AT', 'consensus:0.6', 'auto' (starts few, adds more while the vote is open), 'call:MODULE:FUNCTION' (your own); 'none' keeps all."
        ),
    ] = "none"
    select: Annotated[
        str | None,
        typer.Option(
            help="How to choose the answer: majority, weighted, weighted:POWER, weighted:odds, best, top:SHARE, or call:MODULE:FUNCTION (your own).",
            show_default="weighted; majority without a verifier",
        ),
    ] = None
    abstain_below: Annotated[
        float | None,
        typer.Option(
            help="Give no answer at a lower confidence; without a calibration, at a lower share of agreeing paths.",
            show_default="always answer",
        ),
    ] = None
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Answer only where at most this share of the answers is wrong, by the verifier's calibration.",
            show_default="always answer",
        ),
    ] = None
    alarm: Annotated[list[str] | None, typer.Option(help="Stop at once: 'fall:0.4@64' (the score fell by 0.4 in 64 tokens), 'under:0.1@96' (it stayed under 0.1), 'call:MODULE:FUNCTION' (your own), each with '=trace', '=problem' or '=run'; can be repeated.", show_default="none")] = None  # fmt: skip


@dataclass(frozen=True)
class ColumnOptions:
    """Where a table has its problems and their answers."""

    PANEL: ClassVar[str] = "Problems"

    problem_column: Annotated[str | None, typer.Option(rich_help_panel="Problems", help="Column of a file that holds the problem.", show_default="problem, question, prompt or messages")] = None  # fmt: skip
    answer_column: Annotated[str | None, typer.Option(rich_help_panel="Problems", help="Column of a file that holds what counts as right.", show_default="answers, answer, final_answer or solution")] = None  # fmt: skip

    @property
    def columns(self) -> Columns | None:
        """The columns that were named; None where none was."""
        from trueplex.data.problems import USUAL, Columns

        if self.problem_column is None and self.answer_column is None:
            return None
        return Columns((self.problem_column,) if self.problem_column else USUAL.problem,
                       (self.answer_column,) if self.answer_column else USUAL.answers)  # fmt: skip


@dataclass(frozen=True)
class SuiteOptions(ColumnOptions):
    """Which problems of a suite or data set."""

    n: Annotated[
        int | None,
        typer.Option(help="Most problems per suite.", show_default="200 of an embedded suite, else all"),
        Within(1),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(help="Split of an embedded suite or a hub data set.", show_default="test; train for rollouts"),
    ] = None
    data_dir: Annotated[Path | None, typer.Option(help="Folder with a file NAME.jsonl, NAME-SPLIT.jsonl, NAME.csv, NAME.parquet … of each named suite; then nothing is downloaded.", show_default="the hub")] = None  # fmt: skip
