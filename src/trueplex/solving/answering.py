"""The answer of a stopped trace, and whether it is right: the same for live traces and for stored ones."""

from __future__ import annotations

import json
from pathlib import Path

from trueplex.data.traces import read
from trueplex.grading.kinds import AUTO, AnswerKind, answer_kind
from trueplex.models.backbone import Backbone
from trueplex.types import Status, Trace


def read_answer(trace: Trace, backbone: Backbone, kind: AnswerKind) -> None:
    """Find the answer in what a stopped trace wrote after its thinking.

    Thinking that was never closed has no answer: what it boxed on the way was not its answer. Nor has a trace that was cut off.
    """
    assert trace.steps is not None
    trace.answer, trace.found = None, ""
    answering = trace.thinking_tokens if backbone.markers else 0  # without markers all of it may hold the answer
    if trace.status is Status.FINISHED and trace.tokens > answering:
        ids = [i for i in trace.steps.ids[answering:, 0].tolist() if i not in backbone.ends]
        if found := kind(backbone.decode(ids)):
            trace.answer, trace.found = found.answer, found.how


def label(trace: Trace, kind: AnswerKind) -> None:
    """Grade a stopped trace where the right answers are known; one without an answer is wrong.

    None stays where the grader cannot tell, and for a trace that was pruned before it could answer.
    """
    known = trace.problem.answers
    if known is not None and trace.status is not Status.PRUNED:
        trace.correct = kind.grade(trace.answer, known).correct


class Again:
    """Reads the answers of stored traces anew, as another kind, and grades them. Raises OptionError for an unknown kind."""

    def __init__(self, backbone: Backbone, name: str) -> None:
        self.backbone, self.kind = backbone, answer_kind(name)

    def __call__(self, trace: Trace) -> None:
        if trace.status in (Status.FINISHED, Status.TRUNCATED):
            read_answer(trace, self.backbone, self.kind)
            label(trace, self.kind)


def stored_kind(path: Path) -> AnswerKind:
    """The answer kind that the traces of a store were read by.

    Raises:
        StoreError: it cannot be read. OptionError: it was a function that cannot be imported here.
    """
    for row in read(path, ("thinking",), complain=False):
        options = json.loads(row["thinking"] or "{}")
        return answer_kind(options.get("decided", {}).get("answer", AUTO))
    return answer_kind(AUTO)
