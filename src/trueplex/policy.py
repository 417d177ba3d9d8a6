"""Pruning policies: which live traces to retire, and when. Plain Python over numbers.

The grammar: ``none`` · ``half:EVERY`` · ``keep:FRACTION@EVERY`` · ``drop:N@EVERY`` · ``stop:AT`` ·
``floor:SCORE``, joined with ``+``. A rule that compares acts within a problem, when its traces reach
EVERY, 2·EVERY … tokens, and always leaves one. Only live traces are compared: one that has
finished stays a candidate for the vote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trueplex.errors import OptionError
from trueplex.types import Trace

GRAMMAR = "none, half:EVERY, keep:FRACTION@EVERY, drop:N@EVERY, stop:AT, floor:SCORE, joined with +"


def ranked(traces: Sequence[Trace]) -> list[Trace]:
    """Best score first; ties by the lower trace index, never by luck."""
    return sorted(traces, key=lambda t: (-_score(t), t.index))


def _score(trace: Trace) -> float:
    score = trace.score
    if score is None or math.isnan(score):
        raise OptionError(f"trace {trace.index} has score {score}; mend: prune with a scorer that scores every trace")
    return score


@dataclass(frozen=True, slots=True)
class Keep:
    """Every `every` tokens keep the best `kept(n)` of n live traces of a problem."""

    every: int
    kept: Callable[[int], int]
    spelled: str

    def __call__(self, group: Sequence[Trace]) -> list[Trace]:
        due = [t for t in group if t.tokens and t.tokens % self.every == 0]
        if len(due) < 2:
            return []
        return ranked(due)[max(1, self.kept(len(due))) :]


@dataclass(frozen=True, slots=True)
class Stop:
    """At `at` tokens, once, keep the single best live trace of a problem."""

    at: int
    spelled: str

    @property
    def every(self) -> int:
        return self.at

    def __call__(self, group: Sequence[Trace]) -> list[Trace]:
        return ranked([t for t in group if t.tokens == self.at])[1:]


@dataclass(frozen=True, slots=True)
class Floor:
    """Whenever scored, retire traces under `score`, but never the last of a problem."""

    score: float
    spelled: str
    every: int = 0  # acts at every score: it asks for no cadence of its own

    def __call__(self, group: Sequence[Trace]) -> list[Trace]:
        return [t for t in ranked(group)[1:] if _score(t) < self.score]


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules applied in order to the live traces of each problem; make one with `parse`."""

    rules: tuple[Keep | Stop | Floor, ...]
    spelled: str

    @property
    def stride(self) -> int:
        """Tokens between decisions: the largest step that meets every rule's cadence; 0 if none has one."""
        return math.gcd(*(rule.every for rule in self.rules))

    def __call__(self, traces: Sequence[Trace]) -> list[Trace]:
        """The live traces to retire, each with the rule that chose it as its ``reason``.

        Raises OptionError when a rule meets a trace without a score.
        """
        groups: dict[int, list[Trace]] = {}
        for trace in traces:
            groups.setdefault(trace.problem.key, []).append(trace)
        retired = []
        for group in groups.values():
            for rule in self.rules:
                chosen = rule(group)
                for trace in chosen:
                    trace.reason = rule.spelled
                names = {t.index for t in chosen}
                group = [t for t in group if t.index not in names]
                retired += chosen
        return retired


def parse(text: str) -> Policy:
    """Read the pruning grammar. Raises OptionError naming the part that is wrong and the grammar."""
    if text.strip() == "none":
        return Policy((), "none")
    return Policy(tuple(_rule(part.strip()) for part in text.split("+")), text)


def _rule(part: str) -> Keep | Stop | Floor:
    name, _, rest = part.partition(":")
    try:
        if name == "half":
            return Keep(_count(rest), lambda n: (n + 1) // 2, part)
        if name == "keep":
            share, every = rest.split("@")
            fraction = float(share)
            if not 0 < fraction < 1:
                raise ValueError(f"the fraction {share} is not between 0 and 1")
            return Keep(_count(every), lambda n: math.ceil(fraction * n - 1e-9), part)
        if name == "drop":
            dropped, every = rest.split("@")
            number = _count(dropped)
            return Keep(_count(every), lambda n: n - number, part)
        if name == "stop":
            return Stop(_count(rest), part)
        if name == "floor":
            score = float(rest)
            if not 0 <= score <= 1:
                raise ValueError(f"the score {rest} is not in [0, 1]")
            return Floor(score, part)
    except ValueError as error:
        raise OptionError(f"cannot read pruning rule {part!r}: {error}; mend: use {GRAMMAR}") from error
    raise OptionError(f"unknown pruning rule {part!r}; mend: use {GRAMMAR}")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} is not a positive whole number")
    return number
