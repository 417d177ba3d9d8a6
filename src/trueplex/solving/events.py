"""What happens while requests run, in order."""

from __future__ import annotations

from dataclasses import dataclass

from trueplex.types import Alarmed, Problem, Solution, Trace


@dataclass(slots=True, frozen=True)
class Advanced:
    """The running traces have grown (and been scored, if anything scores them)."""

    traces: list[Trace]


@dataclass(slots=True, frozen=True)
class Stopped:
    """A trace has stopped: its status, text and answer are final."""

    trace: Trace


@dataclass(slots=True, frozen=True)
class AlarmRaised:
    """An alarm has stopped a trace, its problem or all that was submitted with it."""

    problem: Problem
    alarm: Alarmed


@dataclass(slots=True, frozen=True)
class Solved:
    """All traces of a request have stopped and its vote is counted; ``request`` is the request's id."""

    solution: Solution
    request: int


Event = Advanced | Stopped | AlarmRaised | Solved
