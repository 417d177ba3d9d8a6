"""Watching a policy learn: what one step's rollouts look like, and what in it should alarm.

A reward that rises says nothing by itself: a policy that learned to please its reward function shows it too. So every
step keeps lengths, truncation, entropy, exploration, repeated rollouts and answers without thinking beside the reward,
and validation, which the reward function has no part in, is judged apart.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trueplex.train.grpo.batches import Rollout
from trueplex.types import Status, Trace

UNTHOUGHT = 2  # a trace whose thinking had fewer tokens than this answered without thinking


@dataclass(slots=True, frozen=True)
class Record:
    """A rollout in a few numbers, small enough to be sent to every process."""

    problem: int
    suite: str
    reward: float
    correct: bool | None
    tokens: int
    truncated: bool
    unthought: bool
    entropy: float
    joint_entropy: float
    explored: float
    emitted: bytes


def suite_of(name: str) -> str:
    """The suite of a problem's id: what stands before its first slash."""
    return name.partition("/")[0] or "problems"


def record_of(trace: Trace, number: int, reward: float = float("nan")) -> Record:
    """What is remembered of a stopped trace of the step's problem `number`."""
    steps, thought = trace.steps, trace.thinking_tokens
    assert steps is not None
    closed = trace.answer_tokens > 0
    return Record(
        number, suite_of(trace.problem.id), reward, trace.correct, trace.tokens, trace.status is Status.TRUNCATED,
        closed and thought <= UNTHOUGHT, float(steps.entropy[:thought].mean()), float(steps.joint_entropy[:thought].mean()),
        1.0 - float(steps.consensus[:thought].mean()), hashlib.blake2b(steps.ids.tobytes(), digest_size=12).digest(),
    )  # fmt: skip


def record(rollout: Rollout) -> Record:
    return record_of(rollout.trace, rollout.number, rollout.reward)


def mean(values: Sequence[float]) -> float | None:
    """The mean of the finite values; None without any."""
    known = [v for v in values if math.isfinite(v)]
    return float(np.mean(known)) if known else None


def picture(records: Sequence[Record]) -> dict[str, Any]:
    """What rollouts look like: means over traces, by suite too. Ungradable answers count as not right."""
    suites = sorted({r.suite for r in records})
    copies = Counter((r.problem, r.emitted) for r in records)
    return {
        "traces": len(records),
        "reward": mean([r.reward for r in records]),
        "right": mean([float(r.correct is True) for r in records]),
        "ungraded": sum(r.correct is None for r in records),
        "unrewarded": sum(math.isnan(r.reward) for r in records),
        "tokens": mean([r.tokens for r in records]),
        "most_tokens": max((r.tokens for r in records), default=0),
        "truncated": mean([r.truncated for r in records]),
        "entropy": mean([r.entropy for r in records]),
        "joint_entropy": mean([r.joint_entropy for r in records]),
        "explored": mean([r.explored for r in records]),
        "duplicates": mean([copies[r.problem, r.emitted] > 1 for r in records]),
        "unthought": mean([r.unthought for r in records]),
        "reward_by_suite": {s: mean([r.reward for r in records if r.suite == s]) for s in suites},
        "right_by_suite": {s: mean([float(r.correct is True) for r in records if r.suite == s]) for s in suites},
    }


def judgement(records: Sequence[Record]) -> dict[str, Any]:
    """What validation rollouts say: ``right``, the mean over suites of pass@1 with its standard error, and the picture."""
    by_suite: dict[str, dict[int, list[float]]] = {}
    for r in records:
        by_suite.setdefault(r.suite, {}).setdefault(r.problem, []).append(float(r.correct is True))
    each = [np.array([np.mean(traces) for traces in problems.values()]) for problems in by_suite.values()]
    variance = sum(float(np.var(values)) / len(values) for values in each)
    return {
        "right": float(np.mean([values.mean() for values in each])),
        "error": math.sqrt(variance) / len(each),
        "problems": sum(map(len, each)),
        **{name: value for name, value in picture(records).items() if "reward" not in name and name != "right"},
    }


# What alarms, as (figure, what it says, whether it is so given this step and the first one).
SIGNS: tuple[tuple[str, str, Any], ...] = (
    ("truncated", "of the rollouts run into the token limit", lambda now, first: now > 0.5 and now > 1.5 * first),
    (
        "duplicates",
        "of the rollouts repeat another of their problem",
        lambda now, first: now > 0.5 and now > 1.5 * first,
    ),
    ("unthought", "of the rollouts answer without thinking", lambda now, first: now > 0.2 and now > 1.5 * first),
    ("entropy", "nats is what is left of the entropy", lambda now, first: now < 0.1 * first),
    ("tokens", "tokens is the mean length now", lambda now, first: now > 3 * first or now < first / 3),
    ("kl", "nats a step is the divergence from the first model", lambda now, first: now > 1.0),
    ("clipped", "of the slots are held by the clip", lambda now, first: now > 0.5),
)


def signs(now: dict[str, Any], first: dict[str, Any]) -> dict[str, str]:
    """The alarms of a step, by figure, given the figures of the run's first step."""
    found = {}
    for name, what, alarming in SIGNS:
        value, start = now.get(name), first.get(name)
        if value is not None and start is not None and alarming(value, start):
            found[name] = f"{value:.3g} {what} ({start:.3g} at the start)"
    return found


WINDOW = 3  # judgements that a trend is read from
CERTAIN = 2.0  # standard errors


def cheating(judgements: Sequence[dict[str, Any]]) -> bool:
    """Whether the reward rose while validation fell, at the last judgement.

    Each has ``right``, its standard error ``error``, and ``reward``, the mean reward of the steps since the one before
    (None at the start). Validation fell when it is below the best of the three before by two standard errors of the
    difference; the reward rose when it is higher than it was then.
    """
    *before, now = judgements
    if not before:
        return False
    recent = before[-WINDOW:]
    best = max(range(len(recent)), key=lambda i: recent[i]["right"])
    then = next((j["reward"] for j in (*recent[best:], now) if j["reward"] is not None), None)
    fell = recent[best]["right"] - now["right"] > CERTAIN * math.hypot(recent[best]["error"], now["error"])
    return fell and now["reward"] is not None and then is not None and now["reward"] > then
