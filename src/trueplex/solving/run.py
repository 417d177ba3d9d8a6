"""One request while it runs: its traces, from their start to the vote, and what they spent."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from trueplex.decide import alarms, pruning, voting
from trueplex.decide.calibration import Calibration, condition
from trueplex.decide.rules import Standing
from trueplex.engine.grow import check, check_resumed
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.solving.answering import label, read_answer
from trueplex.solving.request import Account, Request
from trueplex.solving.settings import DEFAULT_STRIDE, Settings, configuration, reads_scores, usual_select
from trueplex.types import Alarmed, Solution, Status, Stop, Trace, Usage
from trueplex.verify import confidence


class Run:
    """A request being solved.

    Attributes:
        started: traces that were started, with indices 0 … started − 1.
        closed: no more are to start.
        traces: those of them that have stopped.
        alarms: those that were raised.
        stride: tokens between two looks of its scorer, policy and alarms.
        constraint: what its answers must follow.
        clock: tokens since its first running trace entered; looks fall on multiples of the stride.
        least: the confidence below which it is not answered.

    Raises:
        InputError: the prompt does not fit the model.
        OptionError: a policy, a selector or an alarm needs scores and there is no scorer; a rule has no effect; the largest
            error cannot be promised; or a resumed trace belongs to other options.
    """

    def __init__(self, number: int, request: Request, backbone: Backbone) -> None:
        self.id, self.backbone, self.scorer = number, backbone, request.scorer
        self.constraint = request.constraint
        self.policy, self.schedule = pruning.parse(request.settings.prune), request.settings.schedule
        self.rules = [alarms.parse(alarm) for alarm in request.settings.alarms]
        self.stride = math.gcd(self.policy.stride, self.scorer.every if self.scorer else 0) or DEFAULT_STRIDE
        self.settings = self._effective(request.settings)
        self.least = _least(self.settings, backbone, request.calibration)
        self.calibration = request.calibration
        if self.calibration and not self.calibration.covers(condition(configuration(self.settings, backbone))):
            self.calibration = None  # what it learned of other runs says nothing of this one
        self.prompt = request.prompt or make_prompt(request.problem, backbone)
        self.account = request.account or Account(request.settings.budget)
        self.started, self.closed, self.clock = 0, False, 0
        self.traces: list[Trace] = []
        self.alarms: list[Alarmed] = []
        self._resumed = [t for t in request.resumed if t.problem.key == request.problem.key]
        for trace in self._resumed:
            check_resumed(trace, self.settings.thinking, self.settings.seed, self.schedule.most)
        self._began: float | None = None

    def _effective(self, settings: Settings) -> Settings:
        """The settings with their defaults filled in, checked against the model and the scorer."""
        settings = settings.resolved(self.backbone)
        check(self.backbone, settings.thinking)
        longest = settings.thinking.ending.most(self.backbone.default_max_tokens)
        highest = confidence.highest(settings.names["verifier"])
        self.policy.check(self.schedule.most, longest, highest)
        for alarm in self.rules:
            if why := alarm.inert(self.stride, longest, highest):
                raise OptionError(f"the alarm {alarm.spelled!r} has no effect here: {why}")
        select = settings.select or usual_select(settings.kind, self.scorer is not None)
        scored = self.policy.needs_scores or reads_scores(select) or any(alarm.needs_scores for alarm in self.rules)
        if scored and self.scorer is None:
            raise OptionError("pruning, selection by score and alarms need a scorer. Try: give a verifier, or select by majority "
                              "without pruning")  # fmt: skip
        return replace(settings, select=select, verifier=settings.verifier if self.scorer else "none")

    # -- traces start and stop --------------------------------------------------------------------

    @property
    def together(self) -> bool:
        """Whether all its traces must begin at once, as something compares them."""
        return self.policy.compares or any(alarm.scope == "problem" for alarm in self.rules)

    @property
    def to_next_look(self) -> int:
        return self.stride - self.clock % self.stride

    @property
    def between_looks(self) -> bool:
        """Whether traces may enter now: all of them are then looked at after whole strides."""
        return self.clock % self.stride == 0

    def begin(self) -> None:
        """Its first traces have entered: from here on its seconds count."""
        self._began = self._began or time.perf_counter()

    def first(self) -> list[Trace]:
        """The first traces to run, with those of an earlier run, as far as the account's paths go."""
        highest = max((t.index + 1 for t in self._resumed), default=0)
        traces = self._start(max(self.schedule.first, highest))
        known = {t.index: replace(t, request=self.id) for t in self._resumed}
        traces = [known.get(t.index, t) for t in traces]
        self.traces = [t for t in traces if t.status is not Status.RUNNING]
        running = [t for t in traces if t.status is Status.RUNNING]
        # A run answers for what it spends itself: what was spent before is no part of its budget.
        self.account.spent -= sum(t.tokens + t.probe_tokens for t in running)
        return running

    def more(self) -> list[Trace]:
        """More traces to start, now that all others have stopped; none when that is enough."""
        if self.closed or self.account.late or self.policy.settled(self.traces, self.settings.kind.group):
            return []
        return self._start(self.schedule.more(self.traces, self.settings.kind.group))

    def _start(self, count: int) -> list[Trace]:
        first, taken = self.started, self.account.take_paths(count)
        self.started += taken
        return [Trace(self.prompt.problem, first + i, self.settings.seed, request=self.id) for i in range(taken)]

    def prune(self, running: Sequence[Trace]) -> list[Stop]:
        """What the policy stops of the running traces."""
        return self.policy(Standing(running, self.traces, self.settings.kind.group))

    def stop(self, trace: Trace) -> None:
        """Give a stopped trace its text and answer, and grade it where the answers are known."""
        assert trace.steps is not None
        self.account.spent += trace.tokens + trace.probe_tokens
        trace.text = self.backbone.decode(trace.steps.ids[:, 0].tolist())
        read_answer(trace, self.backbone, self.settings.kind)
        label(trace, self.settings.kind)
        self.traces.append(trace)

    # -- the vote ---------------------------------------------------------------------------------

    def solution(self, prompt_tokens: int) -> Solution:
        """The vote of the stopped traces, its confidence, and whether that is enough to answer."""
        select = self.settings.select or "majority"
        voters = self.policy.voters(self.traces)
        votes = voting.selector(select, self.settings.kind.group)(voters)
        config = configuration(self.settings, self.backbone)
        name = condition(config)
        calibrated = self.calibration is not None and self.calibration.covers(name, policy=True)
        confidence = (
            self.calibration.confidence(name.select, votes, voters, name) if self.calibration and calibrated else None
        )
        config["calibrated"] = confidence is not None
        agreement = votes[0].paths / len(self.traces) if votes else 0.0
        if self.calibration and (band := self.calibration.band(name)):
            for trace in self.traces:
                if trace.status is Status.FINISHED and trace.score is not None:
                    trace.trust = band.state(trace.score)
        state = (
            "none"
            if not votes
            else "uncertain"
            if (agreement if confidence is None else confidence) < self.least
            else "answered"
        )
        return Solution(
            problem=self.prompt.problem,
            answer=votes[0].answer if state == "answered" else None,
            confidence=confidence,
            agreement=agreement,
            votes=votes,
            traces=sorted(self.traces, key=lambda t: t.index),
            usage=usage_of(self.traces, max(len(self.prompt.ids), prompt_tokens) if self.traces else 0),
            seconds=time.perf_counter() - self._began if self._began else 0.0,
            config=config,
            state=state,
            alarms=self.alarms,
        )


def _least(settings: Settings, backbone: Backbone, calibration: Calibration | None) -> float:
    """The confidence below which no answer is given."""
    if settings.max_error is None:
        return settings.abstain_below or 0.0
    if calibration is None:
        raise OptionError("--max-error needs a calibration, and there is none for this model and verifier. Try: run "
                          "`trueplex calibrate`, or use --abstain-below")  # fmt: skip
    return calibration.threshold(condition(configuration(settings, backbone)), settings.max_error)


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
