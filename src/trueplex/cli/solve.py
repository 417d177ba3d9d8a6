"""`trueplex solve`: read problems, load, run, show, save, and leave nothing half done."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from trueplex.cli import replicas
from trueplex.cli.groups import (
    BudgetOptions,
    ColumnOptions,
    DecideOptions,
    LimitOptions,
    Quiet,
    RunOptions,
    ThinkingOrGreedy,
)
from trueplex.cli.options import shortened
from trueplex.errors import InputError, OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from trueplex.data.saving import Saving
    from trueplex.data.traces import Origin
    from trueplex.models.backbone import Backbone
    from trueplex.solving.loop import Event, Scorer, Stream
    from trueplex.solving.settings import Settings
    from trueplex.solving.upstream import Upstream
    from trueplex.types import Problem, Solution, Trace

log = logging.getLogger(__name__)

EXAMPLE = 'trueplex solve "How many positive divisors does 196 have?" --model Qwen/Qwen3-4B --paths 16'
BETWEEN_LINES = 2.0  # seconds between progress lines when there is no terminal
DATA = (".jsonl", ".json", ".csv", ".parquet", ".gz")  # suffixes of files that hold problems


@dataclass(frozen=True)
class OutputOptions(ColumnOptions):
    """Which columns are read, what is printed, and what is kept."""

    PANEL: ClassVar[str] = "Output"

    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per problem on standard output, and nothing else there.")
    ] = False
    save: Annotated[
        Path | None,
        typer.Option(help="Append every trace to this file: *.jsonl, or *.arrow for columns.", show_default=False),
    ] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the traces in the --save file, finished or not.")
    ] = False
    quiet: Quiet = False  # fmt: skip

    def __post_init__(self) -> None:
        if self.resume and self.save is None:
            raise OptionError("--resume goes on from the --save file. Try: give --save FILE")


def solve(
    problems: Annotated[list[str], typer.Argument(metavar="PROBLEM...", help="Text, '-' for standard input, or @FILE.jsonl.", show_default=False)],
    model: replicas.AnyModelOptions, thinking: ThinkingOrGreedy, limits: LimitOptions, run: RunOptions, decide: DecideOptions,
    budget: BudgetOptions, output: OutputOptions,
) -> int:  # fmt: skip
    """Solve problems: many paths, scored while they think, weak ones pruned, then a vote.

    What cannot be read, or does not fit the model, is reported and skipped; the rest is solved.
    """
    from trueplex.data.problems import USUAL, read_problems
    from trueplex.decide.budget import Budget
    from trueplex.solving.scorers import choose_scorer
    from trueplex.solving.settings import Settings

    question(problems)
    if output.columns and not any(p.startswith("@") for p in problems):
        raise OptionError(
            "--problem-column and --answer-column choose columns of a file, and none is given. Try: @FILE.jsonl, or drop them"
        )
    settings = Settings(
        paths=run.paths or (1 if thinking.greedy else 16), thinking=thinking.build(limits), verifier=run.verifier,
        prune=decide.prune, select=decide.select, seed=run.seed, probe_every=run.probe_every, rows=run.max_batch_size,
        answer=run.answer, alarms=tuple(decide.alarm or ()), abstain_below=decide.abstain_below, max_error=decide.max_error,
        budget=Budget(budget.budget_tokens, budget.budget_seconds, budget.budget_paths),
    )  # fmt: skip
    columns = (output.columns or USUAL)._replace(kind=settings.kind)
    found, complaints = read_problems(problems, columns)
    if not found:
        for complaint in complaints[:-1]:
            log.info(complaint)
        raise InputError(complaints[-1])
    if model.endpoint is not None:
        answered = _run_at(model, found, settings, output)
        for complaint in complaints:
            log.info(complaint)
        return 2 if complaints else 0 if answered else 1
    if model.ray:
        from trueplex.scale.replica import Job

        job = Job(model.load, settings, limits.check, strict=True)
        answered, saved = replicas.solve(model, job, found, output, complaints)
        return 2 if complaints or not saved else 0 if answered else 1
    backbone = model.load(shares=True)
    limits.check(backbone)
    scorer, settings = choose_scorer(backbone, settings)
    fitting = _fitting(found, backbone, complaints)
    for complaint in complaints:
        log.info(complaint)
    if not fitting:
        return 2
    answered, saved = _run(fitting, backbone, scorer, settings, output)
    return 2 if complaints or not saved else 0 if answered else 1


def question(arguments: Sequence[str]) -> None:
    """Refuse arguments that are probably not meant as they stand.

    Raises:
        InputError: one names a file and has no @ before it, or all are single words and some of them plain ones, as of
            a sentence without quotes.
    """
    for argument in arguments:
        word = not any(sign.isspace() for sign in argument) and not argument.startswith("@")
        if word and (argument.lower().endswith(DATA) or os.path.isfile(argument)):
            raise InputError(f"{argument!r} is the name of a file, and a problem is text. Try: @{argument}")
    words = [a for a in arguments if a.strip() and not a.startswith("@") and not any(sign.isspace() for sign in a)]
    if 1 < len(words) == len(arguments) and any(word.strip(".,;:!?'\"").isalpha() for word in words):
        sentence = shlex.quote(shortened(" ".join(words), 80))
        raise InputError(
            f"{len(words)} problems of one word each (did you mean one problem?). Try: quote it: trueplex solve {sentence}"
        )


def _fitting(problems: Iterable[Problem], backbone: Backbone, complaints: list[str]) -> list[Problem]:
    """The problems that fit the model; `complaints` gets a line for each other one."""
    from trueplex.models.prompt import make_prompt

    fitting = []
    for problem in problems:
        try:
            make_prompt(problem, backbone)
            fitting.append(problem)
        except InputError as error:
            complaints.append(f"{problem.id}: {error}" if problem.id else str(error))
    return fitting


def _run(
    problems: Sequence[Problem], backbone: Backbone, scorer: Scorer | None, settings: Settings, asked: OutputOptions
) -> tuple[bool, bool]:
    """Solve the problems; whether all were answered, and whether all traces that were to be saved are."""
    from trueplex.data.about import note
    from trueplex.data.saving import Saving
    from trueplex.data.traces import read_traces
    from trueplex.models.placement import first
    from trueplex.solving.loop import stream
    from trueplex.solving.scorers import choose_calibration, decided
    from trueplex.solving.settings import origin

    source = origin(settings.thinking, backbone, decided(settings, backbone, scorer))
    stored = read_traces(asked.save, source) if asked.save and asked.resume and os.path.exists(asked.save) else ()
    # What this run would grow itself: the file may hold other seeds, and more paths.
    resumed = [freed(t, settings) for t, _ in stored if t.seed == settings.seed and t.index < settings.schedule.most]
    events = stream(backbone, problems, settings, scorer, resumed, choose_calibration(backbone, scorer, settings))
    saves = asked.save if first() else None  # of processes that share a model, one writes
    saving = Saving(saves)
    if saves:
        note(saves, backbone.name, [problem.key for problem in problems])
    try:
        answered = _follow(events, problems, settings, asked, _Traces(saving, backbone, source).keep)
    finally:
        saving.close()
    return answered, not saving.failed


def _run_at(
    model: replicas.AnyModelOptions, problems: Sequence[Problem], settings: Settings, asked: OutputOptions
) -> bool:
    """The same over an endpoint; whether all were answered."""
    from trueplex.solving.upstream import Upstream, chosen

    if asked.save:
        raise OptionError(
            "--save stores token ids, which an endpoint does not return. Try: --json, or trueplex eval --endpoint"
        )
    settings = chosen(settings)
    return _follow(
        Upstream(model.connect(settings.rows), problems, settings), problems, settings, asked, lambda trace: None
    )


def _follow(
    events: Stream | Upstream, problems: Sequence[Problem], settings: Settings, asked: OutputOptions, keep: Callable[[Trace], None]
) -> bool:  # fmt: skip
    """Show what happens, and the answers; whether all problems were answered."""
    from rich.console import Console

    from trueplex.report.race import Race
    from trueplex.solving.loop import Solved, Stopped

    console = Console()
    output = Output(problems, asked.json, console)
    # The race shares the console of the answers; beside JSON it may only have standard error to itself.
    stage = Console(stderr=True) if asked.json else console
    racing = not asked.quiet and stage.is_terminal and not (asked.json and console.is_terminal)
    watch = Race(stage, len(problems)) if racing else _Lines(len(problems), asked.quiet)
    reasons, longest = Counter[str](), 0
    try:
        with watch:
            for event in events:
                if isinstance(event, Stopped):
                    keep(event.trace)
                    reasons[event.trace.reason] += 1
                    longest = max(longest, event.trace.tokens)
                watch.show(event)
                if isinstance(event, Solved):
                    output.add(event.request, event.solution)
    except BaseException:  # Ctrl-C, or what nobody foresaw: what is finished is shown and kept all the same
        for trace in events.unfinished():
            keep(trace)
        output.flush()  # last, as standard output may be what failed
        raise
    remark(settings, reasons, longest)
    return all(s is not None and s.answer is not None for s in output.solved.values())


def remark(settings: Settings, reasons: Counter[str], longest: int) -> None:
    """Say which pruning rules had no effect, and how many comparisons of answers were given up."""
    from trueplex.decide import pruning
    from trueplex.grading.pool import workers

    for rule in pruning.parse(settings.prune).rules:
        if not reasons[rule.spelled]:
            log.info(f"{rule.spelled!r} pruned nothing; the longest path had {longest} tokens")
    if workers.timeouts:
        log.info(f"{workers.timeouts} comparisons of answers took too long and were given up: those answers count as different, or "
                 "as not graded")  # fmt: skip


class Output:
    """Prints solutions in the order of the problems, whatever order they are solved in."""

    def __init__(self, problems: Sequence[Problem], as_json: bool, console: Console) -> None:
        self.problems, self.as_json, self.console = list(problems), as_json, console
        self.solved: dict[int, Solution | None] = {}
        self.printed = 0

    def add(self, number: int, solution: Solution | None) -> None:
        """Print what can be printed now; None stands for a problem that has no solution, of which nothing is printed."""
        self.solved[number] = solution
        while self.printed in self.solved:
            self._print(self.printed)
            self.printed += 1

    def flush(self) -> None:
        """Print what is solved behind a problem that is not: the run was cut short."""
        for number in sorted(self.solved):
            if number > self.printed:
                self._print(number)

    def _print(self, number: int) -> None:
        problem, solution = self.problems[number], self.solved[number]
        if solution is None:
            return
        if self.as_json:
            from trueplex.solving.told import as_dict

            print(json.dumps(as_dict(solution, problem)), flush=True)
        else:
            from trueplex.report.race import verdict

            self.console.print(problem.text, style="cyan", markup=False, highlight=False)
            self.console.print(verdict(solution), "")


def freed(trace: Trace, settings: Settings) -> Trace:
    """A trace that the budget of an earlier run stopped, as it was when it lived: it goes on in this one's."""
    from trueplex.types import Status

    halted = ("token budget", "time budget", *(() if settings.thinking.ending.max_seconds else ("time limit",)))
    if trace.status is not Status.TRUNCATED or trace.reason not in halted:
        return trace
    thought = trace.thinking_tokens if trace.closing else 0
    return replace(trace, status=Status.RUNNING, reason="", text="", answer=None, correct=None, thinking_tokens=thought)


class _Traces:
    """Appends traces to the --save file, with the ids of their prompts."""

    def __init__(self, saving: Saving, backbone: Backbone, source: Origin) -> None:
        self.saving, self.backbone, self.source = saving, backbone, source
        self._prompts: dict[int, tuple[int, ...]] = {}

    def keep(self, trace: Trace) -> None:
        if not self.saving.open:
            return
        from trueplex.data.traces import to_row
        from trueplex.models.prompt import make_prompt

        if (key := trace.problem.key) not in self._prompts:
            self._prompts[key] = make_prompt(trace.problem, self.backbone).ids
        self.saving.append([to_row(trace, self._prompts[key], self.source)])


class _Lines:
    """Progress as plain lines on standard error, for logs and pipes."""

    def __init__(self, problems: int, quiet: bool) -> None:
        self.problems, self.quiet = problems, quiet
        self.solved = self.stopped = self.pruned = 0
        self._told = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, event: Event) -> None:
        from trueplex.solving.loop import AlarmRaised, Solved, Stopped
        from trueplex.types import Status

        self.solved += isinstance(event, Solved)
        if isinstance(event, Stopped):
            self.stopped += 1
            self.pruned += event.trace.status is Status.PRUNED
        if isinstance(event, AlarmRaised) and not self.quiet:
            log.info(
                f"alarm: path {event.alarm.index} at {event.alarm.tokens} tokens: {event.alarm.why}; stopped: {event.alarm.stopped}"
            )
        if not self.quiet and time.monotonic() - self._told > BETWEEN_LINES:
            self._told = time.monotonic()
            log.info(
                f"{self.solved} of {self.problems} problems solved, {self.stopped} paths stopped ({self.pruned} of them pruned)"
            )
