"""A policy on stored traces: which would have been pruned, when, and what the run would have spent.

The same policy, schedule and selectors as in the decode loop see the same numbers at the same moments, so the same
traces survive (a law: tests/decide/test_simulate.py). Needs traces that ran to their end, with a score at every
decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trueplex.decide.adaptive import PathSchedule
from trueplex.decide.pruning import Policy
from trueplex.decide.rules import Standing
from trueplex.errors import OptionError
from trueplex.grading.answers import group as by_value
from trueplex.grading.kinds import Grouping
from trueplex.types import Status, Trace


def simulate(grown: Sequence[Trace], rule: Policy, schedule: PathSchedule, stride: int,
             group: Grouping = by_value) -> list[Trace]:  # fmt: skip
    """The traces of one problem as a run would have left them, in the order of their index.

    Args:
        grown: whole traces with indices 0 … n − 1, with a score at every `stride` tokens and at the end.
        stride: tokens between decisions.
        group: which answers are the same.

    Raises:
        OptionError: there are too few traces, or one was not scored at a decision.
    """
    whole = {t.index: t for t in grown}
    scores = {t.index: dict(t.scores) for t in grown}
    if not set(whole) >= set(range(schedule.most)):
        raise OptionError(f"{len(whole)} traces are stored and the run may need {schedule.most}. Try: fewer paths")
    stopped: list[Trace] = []
    more = schedule.first
    while more:
        started = len(stopped)
        live = [replace(whole[started + i], status=Status.RUNNING, tokens=0, scores=[], answer=None, correct=None,
                        probe_tokens=0) for i in range(more)]  # fmt: skip
        tokens = 0
        while live:
            tokens += stride
            for trace in live:
                _advance(trace, whole[trace.index], scores[trace.index], tokens)
            stopped += [t for t in live if t.status is not Status.RUNNING]
            live = [t for t in live if t.status is Status.RUNNING]
            for stop in rule(Standing(live, stopped, group)):
                trace = stop.trace
                trace.status, trace.reason = stop.status, stop.reason
                trace.thinking_tokens = min(trace.tokens, trace.thinking_tokens)
                stopped.append(trace)
            live = [t for t in live if t.status is Status.RUNNING]
        more = 0 if rule.settled(stopped, group) else schedule.more(stopped, group)
    return sorted(stopped, key=lambda t: t.index)


def _advance(trace: Trace, whole: Trace, scores: Mapping[int, float], tokens: int) -> None:
    """Let a trace grow to `tokens` tokens, or to its end, and take the score that it had there.

    A score costs as many probe tokens as each of the stored trace did: an untrained score reads what is stored anyway.
    """
    trace.tokens = min(tokens, whole.tokens)
    if scores:
        score = scores.get(trace.tokens)
        if score is None:
            raise OptionError(
                f"trace {trace.index} has no score at {trace.tokens} tokens. Try: a cadence at which the traces are scored"
            )
        trace.scores.append((trace.tokens, score))
        trace.probe_tokens += math.ceil(whole.probe_tokens / len(scores))
    if trace.tokens == whole.tokens:
        trace.status, trace.answer, trace.correct = whole.status, whole.answer, whole.correct


def spent(traces: Sequence[Trace]) -> int:
    """Tokens of these traces, probes included."""
    return sum(t.tokens + t.probe_tokens for t in traces)
