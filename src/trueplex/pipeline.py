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
from typing import Protocol

from trueplex import answers, policy, vote
from trueplex.backbone import Backbone
from trueplex.engine import engine
from trueplex.engine.live import LiveBatch, Rider
from trueplex.errors import OptionError
from trueplex.prompt import make_prompt
from trueplex.settings import DEFAULT_STRIDE, Settings, configuration
from trueplex.types import Problem, Prompt, Solution, Status, Trace, Usage


class Scorer(Protocol):
    """Anything that gives live traces a score."""

    @property
    def every(self) -> int:
        """Tokens between scores."""

    @property
    def rider(self) -> Rider | None:
        """The query column that must ride in the decode forward, if the scores come from one."""

    def __call__(self, live: LiveBatch) -> Sequence[float] | None:
        """Scores for `live.scorable`, in its order, higher is better; None when there is nothing to say yet."""


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
class Solved:
    """All traces of a problem have stopped and its vote is counted."""

    solution: Solution


Event = Advanced | Stopped | Solved


class Stream(Iterator[Event]):
    """The events of a run, in order; what `stream` gives.

    Attributes:
        unfinished: see there; may be called whenever the run was broken off.
    """

    def __init__(self, backbone: Backbone, problems: Sequence[Problem], settings: Settings, scorer: Scorer | None,
                 begun: Sequence[Trace]) -> None:  # fmt: skip
        self.rule = policy.parse(settings.prune)
        select = settings.select or ("weighted" if scorer else "majority")
        if scorer is None and (self.rule.rules or select != "majority"):
            raise OptionError(
                "pruning and score-based selection need a scorer; mend: give a verifier, or majority and none"
            )
        self.settings, self.scorer = replace(settings, select=select), scorer
        prompts = [make_prompt(p, backbone) for p in {p.key: p for p in problems}.values()]
        self.runs = {p.problem.key: _Run(p, self.settings, backbone) for p in prompts}
        begun = [t for t in begun if t.problem.key in self.runs]
        self.live = engine.start(
            backbone, prompts, settings.paths, settings.thinking, settings.seed, settings.rows, begun
        )
        for trace in begun:
            if trace.status is not Status.RUNNING:
                self.runs[trace.problem.key].traces.append(trace)
        self._events = self._run()

    def __next__(self) -> Event:
        return next(self._events)

    def _run(self) -> Iterator[Event]:
        live, scorer = self.live, self.scorer
        stride, rider = _stride(self.rule, scorer), scorer.rider if scorer else None
        for key in list(self.runs):  # solved before this run began
            yield from self._solved(key)
        while live:
            live.advance(stride, rider)
            if scorer:
                live.record(scorer(live))
            live.retire(self.rule(live.traces))
            if live.traces:
                yield Advanced(list(live.traces))
            while live.finished:
                trace = live.finished.pop(0)
                self.runs[trace.problem.key].stop(trace)
                yield Stopped(trace)
                yield from self._solved(trace.problem.key)

    def _solved(self, key: int) -> Iterator[Event]:
        if len(self.runs[key].traces) == self.settings.paths:
            yield Solved(self.runs.pop(key).solution())

    def unfinished(self) -> list[Trace]:
        """The live traces as they stood after the last whole stride: store them, and give them as ``begun`` later."""
        return self.live.snapshot()


def stream(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, scorer: Scorer | None = None,
    begun: Sequence[Trace] = (),
) -> Stream:  # fmt: skip
    """Solve problems, telling what happens as it happens. Without a scorer the vote is a plain majority.

    Traces that were ``begun`` in an earlier run count as they are when they have stopped, and go on
    exactly where they were otherwise. Ctrl-C stops at once: what was yielded is complete, and
    `Stream.unfinished` gives the rest.

    Raises:
        InputError: a prompt does not fit the model.
        OptionError: the policy or the selector needs scores and there is no scorer, or a begun trace
            belongs to other options.
    """
    return Stream(backbone, problems, settings, scorer, begun)


def _stride(rule: policy.Policy, scorer: Scorer | None) -> int:
    return math.gcd(rule.stride, scorer.every if scorer else 0) or DEFAULT_STRIDE


class _Run:
    """One problem's stopped traces, until its vote."""

    def __init__(self, prompt: Prompt, settings: Settings, backbone: Backbone) -> None:
        self.prompt, self.settings, self.backbone = prompt, settings, backbone
        self.traces: list[Trace] = []
        self.started = time.perf_counter()

    def stop(self, trace: Trace) -> None:
        """Give a stopped trace its text and answer, and grade it where the answers are known.

        Thinking that was never closed has no answer: what it boxed on the way was not its answer.
        """
        assert trace.steps is not None
        trace.text = self.backbone.decode(trace.steps.ids[:, 0].tolist())
        closed = self.backbone.think_end is None or trace.answer_tokens > 0
        if trace.status is Status.FINISHED and closed:
            tail = self.backbone.decode(trace.steps.ids[trace.thinking_tokens :, 0].tolist())
            trace.answer = answers.extract(trace.text if self.backbone.think_end is None else tail)
        label(trace)
        self.traces.append(trace)

    def solution(self) -> Solution:
        votes = vote.selector(self.settings.select or "majority")(self.traces)
        return Solution(
            problem=self.prompt.problem,
            answer=votes[0].answer if votes else None,
            confidence=vote.share(votes),
            votes=votes,
            traces=sorted(self.traces, key=lambda t: t.index),
            usage=usage_of(self.traces, len(self.prompt.ids)),
            seconds=time.perf_counter() - self.started,
            config=configuration(self.settings, self.backbone),
        )


def label(trace: Trace) -> None:
    """Grade a stopped trace where the right answers are known; one without an answer is wrong.

    None stays where the grader cannot tell, and for a trace that was retired before it could answer.
    """
    known = trace.problem.answers
    if known is not None and trace.status is not Status.PRUNED:
        trace.correct = False if trace.answer is None else answers.grade(trace.answer, known).correct


def usage_of(traces: Sequence[Trace], prompt_tokens: int) -> Usage:
    """The sum of what the traces of one problem spent (law 9)."""
    whole = [t.tokens for t in traces if t.status is not Status.PRUNED]
    mean = sum(whole) / len(whole) if whole else 0.0
    saved = sum(max(0, round(mean) - t.tokens) for t in traces if t.status is Status.PRUNED)
    return Usage(
        prompt_tokens=prompt_tokens,
        thinking_tokens=sum(t.thinking_tokens for t in traces),
        answer_tokens=sum(t.answer_tokens for t in traces),
        probe_tokens=sum(t.probe_tokens for t in traces),
        saved_tokens=saved,
    )
