"""Many problems with the same options, as an iterator of events; the loop itself is `Scheduler.step`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from trueplex.decide.calibration import Calibration
from trueplex.models.backbone import Backbone
from trueplex.solving.events import Advanced, AlarmRaised, Event, Solved, Stopped
from trueplex.solving.request import Account, Request
from trueplex.solving.scheduler import Scheduler
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Trace
from trueplex.verify.scorer import Scorer

__all__ = ["Advanced", "AlarmRaised", "Event", "Solved", "Stopped", "Stream", "stream"]


class Stream(Iterator[Event]):
    """The events of a run, in order; what `stream` gives. ``unfinished`` may be called whenever it was interrupted."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._events = scheduler.events()

    def __next__(self) -> Event:
        return next(self._events)

    def unfinished(self) -> list[Trace]:
        """The running traces as they stood after the last step: store them, and give them as ``resumed`` later."""
        return self.scheduler.suspend()


def stream(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, scorer: Scorer | None = None,
    resumed: Sequence[Trace] = (), calibration: Calibration | None = None,
) -> Stream:  # fmt: skip
    """Solve problems, telling what happens as it happens. Without a scorer the vote is a plain majority.

    Each problem is a request, whose id is its number; equal ones are solved each on its own, with equal draws. They
    share the settings' budget. Traces of an earlier run that are ``resumed`` count as they are when they have stopped,
    and go on exactly where they were otherwise. Ctrl-C stops at once: what was yielded is complete, and
    `Stream.unfinished` gives the rest. Without a ``calibration``, or with one of other runs, confidence is None.

    Raises:
        InputError: a prompt does not fit the model.
        OptionError: the policy, the selector or an alarm needs scores and there is no scorer; a rule has no effect; the
            largest error cannot be promised; or a resumed trace belongs to other options.
    """
    scheduler, account = Scheduler(backbone, settings.rows), Account(settings.budget)
    by_problem: dict[int, list[Trace]] = {}
    for trace in resumed:
        by_problem.setdefault(trace.problem.key, []).append(trace)
    for problem in problems:
        own = by_problem.get(problem.key, ())
        scheduler.submit(Request(problem, replace(settings, rows=None), scorer, calibration, own, account))
    return Stream(scheduler)
