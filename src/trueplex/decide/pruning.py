"""Pruning policies: which live traces to retire, and when. Plain Python over numbers.

The grammar, joined with ``+``: ``none`` · ``half:EVERY`` · ``keep:FRACTION@EVERY`` · ``drop:N@EVERY`` ·
``stop:AT`` · ``floor:SCORE`` · ``deepconf:high|low[@AFTER[/WARMUP]]`` · ``consensus:SHARE``. The first three
take ``/LEAST``: ``half:32/4`` halves until four are left. `trueplex.decide.rules` says what each does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from trueplex.decide.rules import Consensus, DeepConf, Floor, Keep, Rule, Standing
from trueplex.decide.rules import Stop as StopAt
from trueplex.errors import OptionError
from trueplex.types import Status, Stop, Trace

GRAMMAR = (
    "none, half:EVERY, keep:FRACTION@EVERY, drop:N@EVERY (each also /LEAST), stop:AT, floor:SCORE, "
    "deepconf:high|low[@AFTER[/WARMUP]], consensus:SHARE, joined with +"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules applied in order to each problem; make one with `parse`.

    ``acted`` counts, by rule, the traces that it has retired: a rule that never acted is worth a word.
    """

    rules: tuple[Rule, ...]
    spelled: str
    acted: Counter[str] = field(default_factory=Counter)

    @property
    def stride(self) -> int:
        """Tokens between decisions: the largest step that meets every rule's cadence; 0 if none has one."""
        return math.gcd(*(rule.every for rule in self.rules))

    @property
    def needs_scores(self) -> bool:
        return any(rule.needs_scores for rule in self.rules)

    @property
    def compares(self) -> bool:
        """Whether some rule needs the traces of a problem to begin together."""
        return bool(self.rules)  # even a floor spares the last live one

    @property
    def warmup(self) -> int:
        """Traces of a problem that must have stopped before the others begin; 0 when all begin together."""
        return max((rule.warmup for rule in self.rules if isinstance(rule, DeepConf)), default=0)

    def __call__(self, standing: Standing) -> list[Stop]:
        """What to stop of the running traces of one problem; the reason is the rule that chose it.

        Raises OptionError when a rule meets a trace without a score.
        """
        live, stops = list(standing.live), list[Stop]()
        for rule in self.rules:
            chosen = rule(Standing(live, standing.stopped))
            self.acted[rule.spelled] += len(chosen)
            names = {t.index for t in chosen}
            live = [t for t in live if t.index not in names]
            stops += [Stop(trace, Status.PRUNED, rule.spelled) for trace in chosen]
        return stops

    def settled(self, stopped: Sequence[Trace]) -> bool:
        """Whether a rule holds that no further trace of the problem needs to begin."""
        return any(isinstance(rule, Consensus) and rule.reached(stopped) for rule in self.rules)

    def voters(self, traces: Sequence[Trace]) -> list[Trace]:
        """The traces that may vote once all have stopped."""
        for rule in self.rules:
            if isinstance(rule, DeepConf):
                traces = rule.voters(traces)
        return list(traces)

    def check(self, paths: int, longest: int, highest: float = 1.0) -> None:
        """Raise OptionError when a rule could never act on `paths` traces of at most `longest` tokens.

        Neither may a floor lie above the `highest` score that there is.
        """
        for rule in self.rules:
            if isinstance(rule, Floor) and rule.score > highest:
                raise OptionError(f"the pruning rule {rule.spelled!r} is above every score. Try: at most {highest:g}")
            if why := rule.inert(paths, longest):
                raise OptionError(f"the pruning rule {rule.spelled!r} could never act: {why}")


def parse(text: str) -> Policy:
    """Read the pruning grammar. Raises OptionError naming the part that is wrong and the grammar."""
    if text.strip() == "none":
        return Policy((), "none")
    return Policy(tuple(_rule(part.strip()) for part in text.split("+")), text)


def _rule(part: str) -> Rule:
    name, _, rest = part.partition(":")
    try:
        if name in ("half", "keep", "drop"):
            return _keep(name, rest, part)
        if name == "stop":
            return StopAt(_count(rest), part)
        if name == "floor":
            return Floor(_number(rest, "score", 0, math.inf), part)
        if name == "consensus":
            return Consensus(_number(rest, "share", 0.5, 1), part)
        if name == "deepconf":
            return _deepconf(rest, part)
    except ValueError as error:
        raise OptionError(f"cannot read pruning rule {part!r}: {error}. Try: use {GRAMMAR}") from error
    raise OptionError(f"unknown pruning rule {part!r}. Try: use {GRAMMAR}")


def _keep(name: str, rest: str, part: str) -> Keep:
    rest, slash, least = rest.partition("/")
    left = _count(least) if slash else 1
    if name == "half":
        return Keep(_count(rest), lambda n: (n + 1) // 2, part, left)
    amount, at, every = rest.partition("@")
    if not at:
        raise ValueError("it does not say how often, as @EVERY")
    if name == "drop":
        number = _count(amount)
        return Keep(_count(every), lambda n: n - number, part, left)
    fraction = _number(amount, "fraction", 0, 1)
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction {amount} is not between 0 and 1")
    return Keep(_count(every), lambda n: math.ceil(fraction * n - 1e-9), part, left)


def _deepconf(rest: str, part: str) -> DeepConf:
    kind, at, numbers = rest.partition("@")
    if kind not in DeepConf.KEEPS:
        raise ValueError(f"{kind!r} is neither high nor low")
    after, slash, warmup = numbers.partition("/")
    return DeepConf(
        DeepConf.KEEPS[kind],
        part,
        _count(after) if at else DeepConf.AFTER,
        _count(warmup) if slash else DeepConf.WARMUP,
    )


def _count(text: str) -> int:
    if not text.strip().isdecimal() or not (number := int(text)):
        raise ValueError(f"{text!r} is not a positive whole number")
    return number


def _number(text: str, what: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"the {what} {text!r} is no number") from None
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"the {what} {text} is not in [{least:g}, {most:g}]")
    return number
