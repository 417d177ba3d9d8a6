"""What `trueplex solve` does once its options are read: load, run, show, save, and leave nothing half done."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from trueplex.data.problems import read_problems
from trueplex.data.traces import Origin, open_store, read_traces, to_row
from trueplex.decide import alarms, pruning
from trueplex.errors import InputError, OptionError, StoreError
from trueplex.grading import pool as answers_pool
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.report.race import Race, verdict
from trueplex.solving.loop import AlarmRaised, Event, Solved, Stopped, stream
from trueplex.solving.scorers import belongs, choose_calibration, choose_scorer
from trueplex.solving.settings import Settings, origin
from trueplex.types import Problem, Solution, Status, Trace
from trueplex.verify.scorer import Scorer

log = logging.getLogger(__name__)

BETWEEN_LINES = 2.0  # seconds between progress lines when there is no terminal


def as_dict(solution: Solution, problem: Problem) -> dict[str, Any]:
    """A solution as the JSON object of the command line's contract."""
    usage = solution.usage
    return {
        "id": problem.id,
        "problem": problem.text,
        "answer": solution.answer,
        "confidence": round(solution.confidence, 6),
        "abstained": solution.abstained,
        "state": solution.state,
        "votes": [{"answer": v.answer, "weight": v.weight, "paths": v.paths} for v in solution.votes],
        "usage": {name: getattr(usage, name) for name in usage.__slots__},
        "paths": [
            {
                "index": t.index,
                "status": t.status.value,
                "tokens": t.tokens,
                "score": t.score,
                "trust": t.trust,
                "answer": t.answer,
                "text": t.text,
                "reason": t.reason,
            }
            for t in solution.traces
        ],
        "alarms": [asdict(alarm) for alarm in solution.alarms],
        "seconds": round(solution.seconds, 3),
        "config": solution.config,
    }


class Output:
    """Prints solutions in the order of the problems, whatever order they are solved in."""

    def __init__(self, problems: Sequence[Problem], as_json: bool, console: Console) -> None:
        self.problems, self.as_json, self.console = list(problems), as_json, console
        self.solved: dict[int, Solution] = {}
        self.printed = 0

    def add(self, solution: Solution) -> None:
        self.solved[solution.problem.key] = solution
        while self.printed < len(self.problems) and self.problems[self.printed].key in self.solved:
            self._print(self.problems[self.printed])
            self.printed += 1

    def flush(self) -> None:
        """Print what is solved behind a problem that is not: the run was cut short."""
        for problem in self.problems[self.printed :]:
            if problem.key in self.solved:
                self._print(problem)

    def _print(self, problem: Problem) -> None:
        solution = self.solved[problem.key]
        if self.as_json:
            print(json.dumps(as_dict(solution, problem)), flush=True)
        else:
            self.console.print(problem.text, style="cyan", markup=False, highlight=False)
            self.console.print(verdict(solution), "")


def run(
    arguments: Sequence[str],
    model: str,
    device: str | None,
    settings: Settings,
    as_json: bool,
    save: Path | None,
    resume: bool,
    quiet: bool,
) -> int:
    """Solve the problems that the arguments give; the exit code.

    What cannot be read, or does not fit the model, is said and skipped; the rest is solved.
    """
    if resume and save is None:
        raise OptionError("--resume goes on from the --save file. Try: give --save FILE")
    problems, complaints = read_problems(arguments)
    if not problems:
        for complaint in complaints[:-1]:
            log.info(complaint)
        raise InputError(complaints[-1])
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, settings)
    fitting = []
    for problem in problems:
        try:
            make_prompt(problem, backbone)
            fitting.append(problem)
        except InputError as error:
            complaints.append(f"{problem.id}: {error}" if problem.id else str(error))
    for complaint in complaints:
        log.info(complaint)
    if not fitting:
        return 2
    console = Console()
    output = Output(fitting, as_json, console)
    source = origin(settings.thinking, backbone, _decided(settings, backbone, scorer))
    stored = read_traces(save, source) if save and resume and os.path.exists(save) else ()
    # What this run would grow itself: the file may hold other seeds, and more paths.
    begun = [_freed(t, settings) for t, _ in stored if t.seed == settings.seed and t.index < settings.schedule.most]
    events = stream(backbone, fitting, settings, scorer, begun, choose_calibration(backbone, scorer, settings))
    store = _Saving(save, backbone, source)
    # The race shares the console of the answers; beside JSON it may only have standard error to itself.
    stage = Console(stderr=True) if as_json else console
    racing = not quiet and stage.is_terminal and not (as_json and console.is_terminal)
    watch = Race(stage, len(fitting)) if racing else _Lines(len(fitting), quiet)
    pruned, longest = Counter[str](), 0
    try:
        with watch:
            for event in events:
                if isinstance(event, Stopped):
                    store.keep(event.trace)
                    pruned[event.trace.reason] += 1
                    longest = max(longest, event.trace.tokens)
                watch.show(event)
                if isinstance(event, Solved):
                    output.add(event.solution)
    except BaseException:  # Ctrl-C, or what nobody foresaw: what is finished is shown and kept all the same
        for trace in events.unfinished():
            store.keep(trace)
        output.flush()  # last, as standard output may be what failed
        raise
    finally:
        store.close()
    for rule in pruning.parse(settings.prune).rules:
        if not pruned[rule.spelled]:
            log.info(f"pruning by {rule.spelled!r} has retired no path; the longest had {longest} tokens")
    if late := answers_pool.workers.timeouts:
        log.info(
            f"{late} comparisons of answers were too slow and were given up: those answers count apart, or as ungraded"
        )
    if complaints or store.failed:
        return 2
    return 0 if all(s.answer is not None for s in output.solved.values()) else 1


def _decided(settings: Settings, backbone: Backbone, scorer: Scorer | None) -> dict[str, Any]:
    """What the scores of a run's traces and their retirement come from."""
    return {
        "verifier": belongs(backbone, scorer, settings.verifier)["verifier"] if scorer else "none",
        "probe_every": settings.probe_every if scorer else None,
        "prune": settings.prune,
        "alarms": [alarms.parse(alarm).spelled for alarm in settings.alarms],
    }


def _freed(trace: Trace, settings: Settings) -> Trace:
    """A trace that the budget of an earlier run stopped, as it was when it lived: it goes on in this one's."""
    halted = ("token budget", "time budget", *(() if settings.thinking.ending.max_seconds else ("time limit",)))
    if trace.status is not Status.TRUNCATED or trace.reason not in halted:
        return trace
    thought = trace.thinking_tokens if trace.closing else 0
    return replace(trace, status=Status.RUNNING, reason="", text="", answer=None, correct=None, thinking_tokens=thought)


class _Saving:
    """Appends traces to the --save file; a disk that fills up is said once and stops only the saving."""

    def __init__(self, path: Path | None, backbone: Backbone, source: Origin) -> None:
        self.backbone, self.source, self.failed = backbone, source, False
        self._store = open_store(path) if path else None
        self._prompts: dict[int, tuple[int, ...]] = {}

    def keep(self, trace: Trace) -> None:
        if self._store is None or self.failed:
            return
        ids = self._prompts.setdefault(trace.problem.key, make_prompt(trace.problem, self.backbone).ids)
        try:
            self._store.append([to_row(trace, ids, self.source)])
        except StoreError as error:
            self.failed = True
            log.info(str(error))

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


class _Lines:
    """Progress as plain lines on standard error, for logs and pipes."""

    def __init__(self, problems: int, quiet: bool) -> None:
        self.problems, self.quiet = problems, quiet
        self.solved = self.stopped = self.retired = 0
        self._said = time.monotonic()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, event: Event) -> None:
        self.solved += isinstance(event, Solved)
        if isinstance(event, Stopped):
            self.stopped += 1
            self.retired += event.trace.status is Status.PRUNED
        if isinstance(event, AlarmRaised) and not self.quiet:
            log.info(
                f"alarm: path {event.alarm.index} at {event.alarm.tokens} tokens: {event.alarm.why}; stopped: {event.alarm.stopped}"
            )
        if not self.quiet and time.monotonic() - self._said > BETWEEN_LINES:
            self._said = time.monotonic()
            log.info(
                f"{self.solved} of {self.problems} problems solved, {self.stopped} paths stopped ({self.retired} retired)"
            )
