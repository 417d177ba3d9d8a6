"""The stored traces of one problem in compact form: answers normalised, steps summarised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trueplex.grading.kinds import AUTO, AnswerKind, answer_kind
from trueplex.types import Problem, Status, Trace
from trueplex.verify import confidence

Row = tuple[Trace, dict[str, list[tuple[int, float]]], np.ndarray]  # scores by untrained scorer; numbers of the steps
TENTHS = 10  # of a trace's thinking, where entropy and exploration are kept


@dataclass(slots=True)
class Samples:
    """All traces of a problem, by index, without their steps.

    ``traces`` have their answers spelled as the first equal one, and ``right`` says of each spelling whether
    it is right. ``views`` are the same traces scored by each untrained scorer, at their end alone or all along. entropy [N] and
    explored [N] are means over the thinking steps; along [N, 2, TENTHS] the same by tenths of the thinking,
    NaN where a trace has no step.
    """

    problem: Problem
    traces: list[Trace] = field(default_factory=list)
    right: dict[str, bool] = field(default_factory=dict)
    views: dict[str, list[Trace]] = field(default_factory=dict)
    entropy: np.ndarray = field(default_factory=lambda: np.empty(0))
    explored: np.ndarray = field(default_factory=lambda: np.empty(0))
    along: np.ndarray = field(default_factory=lambda: np.empty((0, 2, TENTHS)))
    surer: np.ndarray = field(default_factory=lambda: np.empty(0))  # minus the mean entropy of all steps

    @property
    def correct(self) -> np.ndarray:
        """[N] bool; what could not be graded counts as wrong."""
        return np.array([t.correct is True for t in self.traces])


def gather(traces: Iterable[Trace], scorers: Mapping[str, int | None] | None = None, order: Sequence[int] = (),
           read_truncated: bool = False, kind: AnswerKind | None = None) -> list[Samples]:  # fmt: skip
    """Samples of each problem, in the `order` of problem keys, others after them by key, never in order of completion.

    ``scorers`` are untrained ones, each with the number of tokens between its scores, None for one at the end.
    ``read_truncated`` also takes what a trace that a limit cut off marks as its answer. ``kind`` says what counts as an answer,
    None for ``auto``.
    """
    kept: dict[int, list[Row]] = {}
    kind = kind or answer_kind(AUTO)
    parsed = {name: (confidence.parse(name), every) for name, every in (scorers or {}).items()}
    for trace in traces:
        if trace.status is Status.RUNNING:
            continue
        assert trace.steps is not None
        if read_truncated and trace.status is Status.TRUNCATED:
            _read_what_was_cut_off(trace, kind)
        scores = {name: _scored(score, trace, every) for name, (score, every) in parsed.items() if score is not None}
        entropy, explores = trace.steps.entropy, ~trace.steps.consensus
        thought = trace.thinking_tokens
        told = np.stack([entropy[:thought], explores[:thought].astype(np.float32)])
        whole = told.mean(1) if thought else np.zeros(2)
        numbers = np.concatenate([whole, [-float(entropy.mean())], _tenths(told).ravel()])
        kept.setdefault(trace.problem.key, []).append((replace(trace, steps=None, text=""), scores, numbers))
    places = {key: place for place, key in enumerate(order)}
    keys = sorted(kept, key=lambda key: (places.get(key, len(places)), key))
    return [_samples(kept[key], kind) for key in keys]


def _scored(score: confidence.Confidence, trace: Trace, every: int | None) -> list[tuple[int, float]]:
    """(tokens, score) every so many tokens and at the end."""
    assert trace.steps is not None
    looks = range(every, trace.tokens, every) if every else ()
    return [(at, score(trace.steps, at)) for at in (*looks, trace.tokens)]


def _read_what_was_cut_off(trace: Trace, kind: AnswerKind) -> None:
    found = kind(trace.text, whole=False)
    trace.answer = found.answer if found else None
    if trace.answer is not None and trace.problem.answers is not None:
        trace.correct = kind.grade(trace.answer, trace.problem.answers).correct


def _samples(rows: list[Row], kind: AnswerKind) -> Samples:
    rows = sorted(rows, key=lambda row: row[0].index)
    traces, numbers = [row[0] for row in rows], np.stack([row[2] for row in rows])
    answered = [t for t in traces if t.answer is not None]
    right = {}
    for members in kind.group([t.answer or "" for t in answered]):
        first = answered[members[0]]
        right[first.answer or ""] = first.correct is True
        for member in members:
            answered[member].answer = first.answer
    views = {
        name: [replace(t, scores=row[1][name], probe_tokens=0) for t, row in zip(traces, rows, strict=True)]
        for name in rows[0][1]
    }
    return Samples(traces[0].problem, traces, right, views, numbers[:, 0], numbers[:, 1],
                   numbers[:, 3:].reshape(len(rows), 2, TENTHS), numbers[:, 2])  # fmt: skip


def _tenths(values: np.ndarray) -> np.ndarray:
    """Means of values [2, T] over T's tenths [2, TENTHS]; a short trace has its step stand for several tenths."""
    steps = values.shape[1]
    if not steps:
        return np.full((2, TENTHS), np.nan)
    edges = np.arange(TENTHS + 1) * steps // TENTHS
    summed = np.concatenate([np.zeros((2, 1)), np.cumsum(values, axis=1, dtype=np.float64)], axis=1)
    low, high = np.minimum(edges[:-1], steps - 1), np.maximum(edges[1:], edges[:-1] + 1)
    return (summed[:, high] - summed[:, low]) / (high - low)


def outcomes(samples: Sequence[Samples], kind: AnswerKind | None = None) -> dict[str, int]:
    """How the traces ended, each counted once: ungradable answers are separate from wrong ones, with the reason.

    The grader is asked for the reason again; if it can grade the answer now, it had timed out
    before.
    """
    counts: Counter[str] = Counter()
    for one in samples:
        for trace in one.traces:
            counts[_outcome(trace, kind or answer_kind(AUTO))] += 1
    names = ("right", "wrong", "no answer", "truncated", "retired", "unreadable", "incomparable", "timed out")
    return {name: counts[name] for name in names}


def _outcome(trace: Trace, kind: AnswerKind) -> str:
    if trace.correct is True:
        return "right"
    if trace.status is Status.PRUNED:
        return "retired"
    if trace.answer is None:
        return "truncated" if trace.status is Status.TRUNCATED else "no answer"
    if trace.correct is False:
        return "wrong"
    why = kind.grade(trace.answer, trace.problem.answers or ()).why
    return "unreadable" if "parse" in why else "incomparable" if "compare" in why else "timed out"
