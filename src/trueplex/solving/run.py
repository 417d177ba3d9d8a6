"""One problem's traces, from their stop to the vote, and what they spent."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trueplex.decide import voting as vote
from trueplex.decide.calibration import Calibration, condition
from trueplex.decide.pruning import Policy
from trueplex.grading import answers
from trueplex.models.backbone import Backbone
from trueplex.solving.settings import Settings, configuration
from trueplex.types import Alarmed, Prompt, Solution, Status, Trace, Usage


class Run:
    """A problem being solved.

    Attributes:
        begun: traces that were begun, with indices 0 … begun − 1.
        closed: no more are to begin.
        traces: those of them that have stopped.
        alarms: what rang.
        prompt_tokens: tokens of its prompt that were read.
        least: the confidence below which it is not answered.
    """

    def __init__(self, prompt: Prompt, settings: Settings, backbone: Backbone, rule: Policy,
                 calibration: Calibration | None, least: float) -> None:  # fmt: skip
        self.prompt, self.settings, self.backbone, self.rule = prompt, settings, backbone, rule
        self.calibration, self.least = calibration, least
        self.begun, self.closed = 0, False
        self.traces: list[Trace] = []
        self.alarms: list[Alarmed] = []
        self.prompt_tokens = 0
        self.started: float | None = None

    def begin(self) -> None:
        """Its first traces have entered: from here on its seconds count."""
        self.started = self.started or time.perf_counter()

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
        """The vote of the stopped traces, its confidence, and whether that is enough to answer."""
        select = self.settings.select or "majority"
        voters = self.rule.voters(self.traces)
        votes = vote.selector(select)(voters)
        config = configuration(self.settings, self.backbone)
        name = condition(config)
        confidence = self.calibration.confidence(select, votes, voters, name) if self.calibration else None
        # By a policy that was not calibrated the confidence is an estimate, from what votes look like behind others.
        covered = self.calibration is not None and self.calibration.covers(name, policy=True)
        config["calibrated"] = confidence is not None and covered
        confidence = vote.share(votes) if confidence is None else confidence
        if self.calibration and (band := self.calibration.band(name)):
            for trace in self.traces:
                if trace.status is Status.FINISHED and trace.score is not None:
                    trace.trust = band.state(trace.score)
        state = "none" if not votes else "uncertain" if confidence < self.least else "answered"
        return Solution(
            problem=self.prompt.problem,
            answer=votes[0].answer if state == "answered" else None,
            confidence=confidence,
            votes=votes,
            traces=sorted(self.traces, key=lambda t: t.index),
            usage=usage_of(self.traces, self.prompt_tokens),
            seconds=time.perf_counter() - self.started if self.started else 0.0,
            config=config,
            state=state,
            alarms=self.alarms,
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
