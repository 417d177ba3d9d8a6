"""The whole product: problems in, traces grown, scored, pruned and voted on, solutions out.

    live = engine.start(prompts, paths, thinking, seed)
    while live:
        live.advance(stride)
        live.record(scorer(live))
        live.retire(policy(live.traces))
    return selector(live.finished)

`stream` is that loop as an iterator of events, and every other entry (the command line, rollouts,
evaluation) consumes it: there is no second decode loop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trueplex.decide import alarms
from trueplex.decide import pruning as policy
from trueplex.decide.calibration import Calibration, condition
from trueplex.decide.rules import Standing
from trueplex.engine import start as engine
from trueplex.engine.batch import LiveBatch
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.solving.run import Run
from trueplex.solving.settings import DEFAULT_STRIDE, Settings, configuration
from trueplex.types import Alarmed, Problem, Solution, Status, Steps, Trace
from trueplex.verify import confidence
from trueplex.verify.scorer import Scorer


@dataclass(frozen=True, slots=True)
class LiveLook:
    """A live batch as scorers see it."""

    live: LiveBatch

    @property
    def traces(self) -> Sequence[Trace]:
        return self.live.scorable

    @property
    def readings(self) -> np.ndarray | None:
        return self.live.readings

    def steps(self) -> Iterator[Steps]:
        return self.live.so_far()


# -- events ---------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Advanced:
    """The live traces have grown (and been scored, if anything scores them)."""

    traces: list[Trace]


@dataclass(slots=True, frozen=True)
class Stopped:
    """A trace has stopped: its status, text and answer are final."""

    trace: Trace


@dataclass(slots=True, frozen=True)
class AlarmRaised:
    """An alarm has stopped a trace, its problem or the whole run."""

    problem: Problem
    alarm: Alarmed


@dataclass(slots=True, frozen=True)
class Solved:
    """All traces of a problem have stopped and its vote is counted."""

    solution: Solution


Event = Advanced | Stopped | AlarmRaised | Solved


class Stream(Iterator[Event]):
    """The events of a run, in order; what `stream` gives.

    Attributes:
        rule: the pruning policy; it counts what each of its rules has retired.
        longest: tokens of the longest trace so far.
        unfinished: see there; may be called whenever the run was broken off.
    """

    def __init__(self, backbone: Backbone, problems: Sequence[Problem], settings: Settings, scorer: Scorer | None,
                 begun: Sequence[Trace], calibration: Calibration | None) -> None:  # fmt: skip
        self.rule, self.schedule, self.budget = policy.parse(settings.prune), settings.schedule, settings.budget
        self.alarms = [alarms.parse(alarm) for alarm in settings.alarms]
        longest = settings.thinking.ending.most(backbone.default_max_tokens)
        highest = confidence.highest(settings.verifier)
        self.rule.check(self.schedule.most, longest, highest)
        for alarm in self.alarms:
            if why := alarm.inert(_stride(self.rule, scorer), longest, highest):
                raise OptionError(f"the alarm {alarm.spelled!r} could never ring: {why}")
        select = settings.select or ("weighted" if scorer else "majority")
        scored = self.rule.needs_scores or select != "majority" or any(a.needs_scores for a in self.alarms)
        if scored and scorer is None:
            raise OptionError(
                "pruning, score-based selection and alarms need a scorer. Try: give a verifier, or majority and none"
            )
        settings = replace(settings, select=select, verifier=settings.verifier if scorer else "none")
        self.settings, self.scorer, self.longest = settings, scorer, 0
        least = _least(settings, backbone, calibration)
        if calibration and not calibration.covers(condition(configuration(settings, backbone))):
            calibration = None  # what it learned of other runs says nothing of these
        prompts = [make_prompt(p, backbone) for p in {p.key: p for p in problems}.values()]
        self.runs = {p.problem.key: Run(p, settings, backbone, self.rule, calibration, least) for p in prompts}
        self._start(backbone, [t for t in begun if t.problem.key in self.runs])
        self._events = self._run()

    def _start(self, backbone: Backbone, begun: Sequence[Trace]) -> None:
        """The first wave of every problem, with what was begun of later ones, as far as the budget of paths goes."""
        self._paths = self.budget.paths or math.inf
        for key, run in self.runs.items():
            highest = max((t.index + 1 for t in begun if t.problem.key == key), default=0)
            run.begun = int(min(max(self.schedule.first, highest), self._paths))
            self._paths -= run.begun
        prompts, counts = [run.prompt for run in self.runs.values()], [run.begun for run in self.runs.values()]
        settings = self.settings
        together = self.rule.compares or any(alarm.scope == "problem" for alarm in self.alarms)
        self.live = engine.start(backbone, prompts, counts, settings.thinking, settings.seed, settings.rows, begun,
                                 together, self.schedule.most)  # fmt: skip
        for trace in begun:
            if trace.status is not Status.RUNNING:
                self.runs[trace.problem.key].traces.append(trace)
        # A run answers for what it spends itself: what was begun before is no part of its budget.
        self.spent = -sum(t.tokens + t.probe_tokens for t in begun if t.status is Status.RUNNING)

    def __next__(self) -> Event:
        return next(self._events)

    def _run(self) -> Iterator[Event]:
        live, scorer = self.live, self.scorer
        stride, probe = _stride(self.rule, scorer), scorer.probe if scorer else None
        live.deadline = self.budget.deadline()
        for key in list(self.runs):  # solved before this run began
            yield from self._settle(key)
        while live:
            for key in live.admit():
                self.runs[key].begin()
            affordable = self.budget.stride(stride, self._spent(), len(live.traces), probe is not None)
            if affordable and time.monotonic() < live.deadline:
                live.advance(affordable, probe)
                if scorer and not self._affords(scorer):
                    for trace in live.finished:  # what was never looked at cannot weigh in a vote
                        if not trace.scores:
                            trace.status, trace.reason = Status.TRUNCATED, "never scored"
                    yield from self._stopped()
                    yield from self._halt("token budget")
                    continue
                if scorer:
                    live.record(scorer(LiveLook(live)))
                yield from self._stopped()
                yield from self._sound()
                self._retire()
                yield from self._stopped()
            else:
                yield from self._halt("time budget" if affordable else "token budget")
            if live.traces:
                yield Advanced(list(live.traces))

    def _spent(self) -> int:
        """Tokens and probes of all traces so far."""
        return self.spent + sum(t.tokens + t.probe_tokens for t in [*self.live.traces, *self.live.finished])

    def _affords(self, scorer: Scorer) -> bool:
        """Whether the budget has room for a look at what lives; only one that reads texts again may not."""
        return self.budget.tokens is None or self._spent() + scorer.cost(LiveLook(self.live)) <= self.budget.tokens

    def _stopped(self) -> Iterator[Event]:
        """What has just stopped; then more traces for its problem, or the vote."""
        touched = {}
        while self.live.finished:
            trace = self.live.finished.pop(0)
            self.spent += trace.tokens + trace.probe_tokens
            self.longest = max(self.longest, trace.tokens)
            self.runs[trace.problem.key].stop(trace)
            touched[trace.problem.key] = True
            yield Stopped(trace)
        for key in touched:
            yield from self._settle(key)

    def _settle(self, key: int) -> Iterator[Event]:
        """When all begun traces of a problem have stopped: begin more, or count the vote."""
        run = self.runs[key]
        if len(run.traces) < run.begun:
            return
        open_still = not run.closed and time.monotonic() < self.live.deadline and not self.rule.settled(run.traces)
        more = int(min(self.schedule.more(run.traces), self._paths)) if open_still else 0
        if more:
            self._paths -= more
            problem, first = run.prompt.problem, run.begun
            run.begun += more
            self.live.add(run.prompt, [Trace(problem, first + i, self.settings.seed) for i in range(more)])
            return
        if run.traces:
            run.prompt_tokens = max(len(run.prompt.ids), self.live.prompt_tokens[key])
        yield Solved(self.runs.pop(key).solution())

    def _halt(self, reason: str) -> Iterator[Event]:
        """Truncate all that lives and begin nothing more: every problem is voted on as it stands."""
        self.live.halt(reason)
        for run in self.runs.values():
            run.closed = True
        yield from self._stopped()
        for key, run in list(self.runs.items()):
            run.begun = len(run.traces)
            yield from self._settle(key)

    def _sound(self) -> Iterator[Event]:
        """Let alarms stop what they must."""
        for trace, alarm, why in alarms.ringing(self.alarms, list(self.live.traces)):
            if trace.status is not Status.RUNNING:
                continue  # an alarm before has stopped it
            key, reason = trace.problem.key, f"alarm: {why}"
            rang = Alarmed(trace.index, trace.tokens, alarm.scope, why)
            for run in self.runs.values() if alarm.scope == "run" else [self.runs[key]]:
                run.alarms.append(rang)
            yield AlarmRaised(trace.problem, rang)
            if alarm.scope == "run":
                yield from self._halt(reason)
                return
            self.runs[key].closed |= alarm.scope == "problem"
            stopping = [trace] if alarm.scope == "trace" else [t for t in self.live.traces if t.problem.key == key]
            for stopped in stopping:
                stopped.reason = reason
            self.live.retire(stopping)

    def _retire(self) -> None:
        """Let the policy look at every problem that has live traces."""
        groups: dict[int, list[Trace]] = {}
        for trace in self.live.traces:
            groups.setdefault(trace.problem.key, []).append(trace)
        for key, group in groups.items():
            self.live.retire(self.rule(Standing(group, self.runs[key].traces)))

    def unfinished(self) -> list[Trace]:
        """The live traces as they stood after the last whole stride: store them, and give them as ``begun`` later."""
        return self.live.snapshot()


def stream(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, scorer: Scorer | None = None,
    begun: Sequence[Trace] = (), calibration: Calibration | None = None,
) -> Stream:  # fmt: skip
    """Solve problems, telling what happens as it happens. Without a scorer the vote is a plain majority.

    Traces that were ``begun`` in an earlier run count as they are when they have stopped, and go on
    exactly where they were otherwise. Ctrl-C stops at once: what was yielded is complete, and
    `Stream.unfinished` gives the rest. Without a ``calibration``, or with one of other
    runs, confidence is the share of the votes.

    Raises:
        InputError: a prompt does not fit the model.
        OptionError: the policy, the selector or an alarm needs scores and there is no scorer; a rule could never
            act; the largest error cannot be promised; or a begun trace belongs to other options.
    """
    return Stream(backbone, problems, settings, scorer, begun, calibration)


def _stride(rule: policy.Policy, scorer: Scorer | None) -> int:
    return math.gcd(rule.stride, scorer.every if scorer else 0) or DEFAULT_STRIDE


def _least(settings: Settings, backbone: Backbone, calibration: Calibration | None) -> float:
    """The confidence below which no answer is given."""
    if settings.max_error is None:
        return settings.abstain_below or 0.0
    if calibration is None:
        raise OptionError("--max-error needs a calibration, and there is none for this model and verifier. Try: run "
                          "`trueplex calibrate`, or use --abstain-below")  # fmt: skip
    return calibration.threshold(condition(configuration(settings, backbone)), settings.max_error)
