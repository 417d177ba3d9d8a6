"""A policy on stored traces: who would have been retired, when, and what the run would have spent.

The same policy, schedule and selectors as in the decode loop look at the same numbers at the same moments, so the same
traces survive (a law: tests/test_simulate.py). Needs traces that were grown to their end, scored at every look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from trueplex.decide.adaptive import PathSchedule
from trueplex.decide.pruning import Policy
from trueplex.decide.rules import Standing
from trueplex.errors import OptionError
from trueplex.types import Status, Trace


def simulate(grown: Sequence[Trace], rule: Policy, schedule: PathSchedule, stride: int) -> list[Trace]:
    """The traces of one problem as a run would have left them, in the order of their index.

    Args:
        grown: traces with indices 0 … n − 1, whole, with a score at every `stride` tokens and at the end.
        stride: tokens between looks.

    Raises:
        OptionError: there are too few traces, or one was not scored at a look.
    """
    whole = {t.index: t for t in grown}
    scores = {t.index: dict(t.scores) for t in grown}
    if not set(whole) >= set(range(schedule.most)):
        raise OptionError(f"{len(whole)} traces are stored and the run may need {schedule.most}. Try: fewer paths")
    stopped: list[Trace] = []
    more = schedule.first
    while more:
        begun = len(stopped)
        live = [replace(whole[begun + i], status=Status.RUNNING, tokens=0, scores=[], answer=None, correct=None,
                        probe_tokens=0) for i in range(more)]  # fmt: skip
        tokens = 0
        while live:
            tokens += stride
            for trace in live:
                _advance(trace, whole[trace.index], scores[trace.index], tokens)
            stopped += [t for t in live if t.status is not Status.RUNNING]
            live = [t for t in live if t.status is Status.RUNNING]
            for stop in rule(Standing(live, stopped)):
                trace = stop.trace
                trace.status, trace.reason = stop.status, stop.reason
                trace.thinking_tokens = min(trace.tokens, trace.thinking_tokens)
                stopped.append(trace)
            live = [t for t in live if t.status is Status.RUNNING]
        more = 0 if rule.settled(stopped) else schedule.more(stopped)
    return sorted(stopped, key=lambda t: t.index)


def _advance(trace: Trace, whole: Trace, scores: Mapping[int, float], tokens: int) -> None:
    """Let a trace grow to so many tokens, or to its end, and take the score of that look.

    The look costs a probe, one token, if the stored trace took any: an untrained score reads what is there anyway.
    """
    trace.tokens = min(tokens, whole.tokens)
    if scores:
        score = scores.get(trace.tokens)
        if score is None:
            raise OptionError(
                f"trace {trace.index} has no score at {trace.tokens} tokens. Try: score the traces at every look"
            )
        trace.scores.append((trace.tokens, score))
        trace.probe_tokens += whole.probe_tokens > 0
    if trace.tokens == whole.tokens:
        trace.status, trace.answer, trace.correct = whole.status, whole.answer, whole.correct


def spent(traces: Sequence[Trace]) -> int:
    """Tokens and probes of these traces."""
    return sum(t.tokens + t.probe_tokens for t in traces)
