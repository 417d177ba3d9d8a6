"""Alarms: rules on live scores that stop a trace, its problem or the whole run at once, and say why.

The grammar: ``fall:DROP@SPAN`` (the score is DROP below its highest of the last SPAN tokens), ``under:SCORE@SPAN``
(it has stayed under SCORE for SPAN tokens), ``call:MODULE:FUNCTION`` (your own: it gets the `Trace` and
returns why to stop it, or None); each with what it stops: ``=trace`` (the default), ``=problem`` or ``=run``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from trueplex.errors import OptionError
from trueplex.grading.calls import called
from trueplex.types import Trace

GRAMMAR = "fall:DROP@SPAN, under:SCORE@SPAN or call:MODULE:FUNCTION, with =trace, =problem or =run"
SCOPES = ("trace", "problem", "run")
Look = Callable[[Trace], str | None]


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule, and what it stops. Called with a live trace, it returns why that must stop, or None.

    ``drop``, ``level`` and ``span`` (tokens) are those of the grammar, 0 where a rule has none.
    """

    look: Look
    scope: str
    spelled: str
    needs_scores: bool = True
    drop: float = 0.0
    level: float = 0.0
    span: int = 0

    def inert(self, every: int, longest: int, highest: float) -> str | None:
        """Why the alarm would never be raised, or would stop every trace, and what to try; else None.

        Args:
            every: tokens between two scores.
            longest: tokens of the longest trace that there can be.
            highest: the highest score that there can be.
        """
        if self.drop > highest:
            return f"no score can fall by {self.drop:g}. Try: at most {highest:g}"
        if self.drop and self.span < every:
            return f"there is at most one score in {self.span} tokens. Try: a span of at least {every}, or --probe-every {self.span}"
        if self.level > highest:
            return f"it would stop every trace, as no score is above {highest:g}. Try: at most {highest:g}"
        # A trace that stays under a level has been scored for a whole span, and is scored again before its end.
        needed = -(-(every + self.span) // every) * every if self.level else self.span
        if needed >= longest:
            return f"no trace is longer than {longest}. Try: a smaller span, or a smaller --probe-every"
        return None

    def __call__(self, trace: Trace) -> str | None:
        return self.look(trace)


def fall(trace: Trace, drop: float, span: int) -> str | None:
    """Why to stop the trace, if its score has fallen by `drop` within the last `span` tokens."""
    if trace.score is None:
        return None
    highest = max(s for at, s in trace.scores if at >= trace.tokens - span)
    fell = highest - trace.score
    return f"the score fell by {fell:.2f} within {span} tokens" if fell >= drop else None


def under(trace: Trace, score: float, span: int) -> str | None:
    """Why to stop the trace, if all its scores of the last `span` tokens are under `score` and it is as long as that."""
    since = [s for at, s in trace.scores if at >= trace.tokens - span]
    whole = bool(trace.scores) and trace.scores[0][0] <= trace.tokens - span
    return f"the score stayed under {score:g} for {span} tokens" if whole and max(since) < score else None


def parse(text: str | Look) -> Alarm:
    """Read one alarm, or take a function that stops its trace. Raises OptionError naming what is wrong and the grammar."""
    if callable(text):
        name = getattr(text, "__name__", type(text).__name__)
        return Alarm(_careful(text, name), "trace", f"call:{name}", needs_scores=False)
    rule, equals, scope = text.partition("=")
    scope = scope if equals else "trace"
    name, _, rest = rule.partition(":")
    try:
        if scope not in SCOPES:
            raise ValueError(f"{scope!r} is not one of {', '.join(SCOPES)}")
        if name == "call":
            own = called(rule, "alarm")
            assert own is not None
            return Alarm(_careful(own, rest), scope, text, needs_scores=False)
        if name not in ("fall", "under"):
            raise ValueError(f"unknown rule {name!r}")
        amount, span = rest.split("@")
        level, tokens = float(amount), int(span)
        if not 0 < level < math.inf or tokens < 1:
            raise ValueError(f"{rest!r} is not a positive number, then @ and a number of tokens")
    except ValueError as error:
        raise OptionError(f"cannot read alarm {text!r}: {error}. Try: use {GRAMMAR}") from error
    look: Look = partial(fall, drop=level, span=tokens) if name == "fall" else partial(under, score=level, span=tokens)
    return Alarm(look, scope, text, drop=level if name == "fall" else 0.0,
                 level=level if name == "under" else 0.0, span=tokens)  # fmt: skip


def _careful(look: Look, name: str) -> Look:
    """The user's function; an exception that it raises is reported as an error of that function."""

    def checked(trace: Trace) -> str | None:
        try:
            return look(trace)
        except (Exception, SystemExit) as error:
            raise OptionError(f"the alarm {name!r} failed on trace {trace.index} at {trace.tokens} tokens: {error!r}. Try: "
                              "return the reason to stop as text, or None") from error  # fmt: skip

    return checked


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm that a live trace has raised, and why. What is to stop (`Alarm.scope`) is up to the caller."""

    trace: Trace
    alarm: Alarm
    reason: str


def raised(alarms: Sequence[Alarm], traces: Sequence[Trace]) -> list[Raised]:
    """The alarms that these live traces raise, in the order of the traces: at most one each, the first that applies."""
    found = []
    for trace in traces:
        for alarm in alarms:
            if reason := alarm(trace):
                found.append(Raised(trace, alarm, reason))
                break
    return found
