"""One replica: it holds a model (and its verifier) and solves the problems it is given.

Nothing here knows Ray. What goes in and out is plain data: problems in; ids, weights, scores and votes out, never KV.
A trace belongs to (seed, problem, index), so it does not matter which replica draws it, or how often it is restarted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from trueplex import __version__
from trueplex.data.append import Row
from trueplex.data.traces import Origin, to_row
from trueplex.errors import InputError, TrueplexError
from trueplex.evals.run import machine, prompt_of
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.solving.loop import Solved, Stopped, stream
from trueplex.solving.scorers import choose_calibration, choose_scorer, decided
from trueplex.solving.settings import Settings, configuration, origin
from trueplex.types import Problem, Solution, Trace


@dataclass(frozen=True)
class Job:
    """What every replica is made of, and how it thinks.

    Attributes:
        load: makes the model. It is called on the replica's machine, and so has to find the model there.
        check: refuses a model that the options do not fit.
        strict: whether stored traces also say what scored and pruned them, as those of `trueplex solve` do.
    """

    load: Callable[[], Backbone]
    settings: Settings
    check: Callable[[Backbone], None] = lambda backbone: None
    strict: bool = False


@dataclass(frozen=True)
class Work:
    """Problems that are solved together, with their traces from an earlier run; without any, only `About` is returned.

    ``first`` is the place of the first of them in the list that they were cut from.
    """

    number: int
    problems: Sequence[Problem] = ()
    begun: Sequence[Trace] = ()
    first: int = 0


@dataclass(frozen=True)
class About:
    """Who a replica is: model, options and versions, which have to be the same on all; what it logged; and where it runs."""

    same: dict[str, Any]
    settings: Settings
    prompt: dict[str, Any]
    longest: int
    machine: dict[str, Any]
    logged: tuple[tuple[int, str], ...] = ()
    pid: int = field(default_factory=os.getpid)

    @property
    def origin(self) -> Origin:
        return Origin(*(self.same[name] for name in ("model", "tokenizer", "thinking")))

    @property
    def scorer(self) -> str | None:
        return self.same["scorer"]

    @property
    def config(self) -> dict[str, Any]:
        return self.same["config"]


@dataclass(frozen=True)
class Done:
    """A solved problem: its stopped traces as rows to store, and their vote, whose traces have no steps.

    ``place`` is the problem's in its `Work`. One that does not fit the model has neither, and ``complaint`` says why.
    """

    place: int
    rows: list[Row] = field(default_factory=list)
    solution: Solution | None = None
    complaint: str = ""


@dataclass(frozen=True)
class Failed:
    """A user error, by the name of its class: it ends the run, whichever replica raised it."""

    kind: str
    message: str


class Replica:
    """A model that is loaded once and then handed one `Work` after another.

    It raises no TrueplexError: what would be one is the answer to every `Work`, so that the one who asked can raise it.
    """

    def __init__(self, job: Job) -> None:
        self.failed: Failed | None = None
        heard = _Heard()
        logger = logging.getLogger("trueplex")
        logger.setLevel(logging.INFO)
        logger.addHandler(heard)
        try:
            self._open(job)
            self.about = self._about(heard)
        except TrueplexError as error:
            self.failed = Failed(type(error).__name__, error.args[0])
        finally:
            logger.removeHandler(heard)

    def _open(self, job: Job) -> None:
        self.backbone = job.load()
        job.check(self.backbone)
        self.scorer, self.settings = choose_scorer(self.backbone, job.settings)
        self.calibration = choose_calibration(self.backbone, self.scorer, self.settings)
        asked = decided(self.settings, self.backbone, self.scorer) if job.strict else None
        self.source = origin(self.settings.thinking, self.backbone, asked)

    def _about(self, heard: _Heard) -> About:
        same = {
            "version": __version__,
            "model": self.source.model,
            "tokenizer": self.source.tokenizer,
            "thinking": self.source.thinking,
            "scorer": self.scorer.fingerprint if self.scorer else None,
            "config": json.loads(json.dumps(configuration(self.settings, self.backbone))),
        }
        longest = self.settings.thinking.ending.most(self.backbone.default_max_tokens)
        return About(same, self.settings, prompt_of(self.backbone), longest, machine(), tuple(heard.told))

    def __call__(self, work: Work) -> Iterator[About | Done | Failed]:
        """Who it is, and then every problem as it is done."""
        if self.failed:
            yield self.failed
            return
        yield self.about
        try:
            yield from self._think(work)
        except TrueplexError as error:
            yield Failed(type(error).__name__, error.args[0])

    def _think(self, work: Work) -> Iterator[Done]:
        fitting: list[int] = []
        for place, problem in enumerate(work.problems):
            try:
                make_prompt(problem, self.backbone)
                fitting.append(place)
            except InputError as error:
                yield Done(place, complaint=f"{problem.id}: {error}" if problem.id else str(error))
        problems = [work.problems[place] for place in fitting]
        prompts = {p.key: make_prompt(p, self.backbone).ids for p in problems}
        rows: dict[int, list[Row]] = {}
        for event in stream(self.backbone, problems, self.settings, self.scorer, work.begun, self.calibration):
            if isinstance(event, Stopped):
                trace = event.trace
                rows.setdefault(trace.request, []).append(to_row(trace, prompts[trace.problem.key], self.source))
            if isinstance(event, Solved):
                solution = event.solution
                light = replace(solution, traces=[replace(t, steps=None) for t in solution.traces])
                yield Done(fitting[event.request], rows.pop(event.request, []), light)


class _Heard(logging.Handler):
    """Keeps what is logged while a replica is made, for the process that can show it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append((record.levelno, record.getMessage()))
