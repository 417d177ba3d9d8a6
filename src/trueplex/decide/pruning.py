"""Pruning policies: which live traces to stop, and when. Plain Python over numbers.

The grammar, joined with ``+``: ``none`` · ``half:EVERY`` · ``keep:FRACTION@EVERY`` · ``drop:N@EVERY`` · ``stop:AT`` ·
``keep-top:N@AT`` · ``retain:LENGTH@AT`` · ``floor:SCORE`` · ``deepconf:high|low[@AFTER[/WARMUP]]`` · ``consensus:SHARE`` · ``auto``. ``half``,
``keep`` and ``drop`` take ``/LEAST``: ``half:32/4`` halves until four are left. `trueplex.decide.rules` says what each
rule does; ``auto`` is adaptive sampling (`trueplex.decide.adaptive`): ``--paths 64 --prune half:4/4+auto`` starts few
traces of a problem and adds more, up to 64, while its vote is open. A policy means the same live and simulated on
stored traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trueplex.decide.retention import retained
from trueplex.decide.rules import Consensus, DeepConf, Floor, Keep, KeepTop, Own, Prune, Rule, Standing
from trueplex.errors import OptionError
from trueplex.grading.answers import group as by_value
from trueplex.grading.calls import called, spelled
from trueplex.grading.kinds import Grouping
from trueplex.types import Status, Stop, Trace

GRAMMAR = (
    "none, half:EVERY, keep:FRACTION@EVERY, drop:N@EVERY (each also /LEAST), stop:AT, keep-top:N@AT, retain:LENGTH@AT, "
    "floor:SCORE, deepconf:high|low[@AFTER[/WARMUP]], consensus:SHARE, call:MODULE:FUNCTION, auto, joined with +"
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules applied in order to each problem; make one with `parse`.

    Attributes:
        rules: the rules, in the order in which they were written; none for ``none`` and ``auto``.
        spelled: the text that the policy was read from.
        adaptive: traces are added while the vote is open (``auto``).
    """

    rules: tuple[Rule, ...]
    spelled: str
    adaptive: bool = False

    @property
    def stride(self) -> int:
        """Tokens between decisions: the largest step that meets every rule's cadence; 0 if none has one."""
        return math.gcd(*(rule.every for rule in self.rules))

    @property
    def needs_scores(self) -> bool:
        return any(rule.needs_scores for rule in self.rules)

    @property
    def compares(self) -> bool:
        """Whether some rule needs the traces of a problem to start together."""
        return bool(self.rules)  # even a floor spares the last live one

    @property
    def warmup(self) -> int:
        """Traces of a problem that must have stopped before the others start; 0 when all start together."""
        return max((rule.warmup for rule in self.rules if isinstance(rule, DeepConf)), default=0)

    def __call__(self, standing: Standing) -> list[Stop]:
        """The live traces of one problem to stop, each with the rule that chose it as the reason.

        The traces themselves are not changed. Each rule sees what the rules before it have left.
        Raises OptionError when a rule needs a score that a trace does not have.
        """
        live, stops = list(standing.live), []
        for rule in self.rules:
            chosen = rule(Standing(live, standing.stopped, standing.group))
            indices = {t.index for t in chosen}
            live = [t for t in live if t.index not in indices]
            stops += [Stop(trace, Status.PRUNED, rule.spelled) for trace in chosen]
        return stops

    def settled(self, stopped: Sequence[Trace], group: Grouping = by_value) -> bool:
        """Whether a rule finds that no further trace of the problem needs to start."""
        return any(isinstance(rule, Consensus) and rule.reached(stopped, group) for rule in self.rules)

    def voters(self, traces: Sequence[Trace]) -> list[Trace]:
        """The traces that may vote once all have stopped."""
        for rule in self.rules:
            if isinstance(rule, DeepConf):
                traces = rule.voters(traces)
        return list(traces)

    def check(self, paths: int, longest: int, highest: float = 1.0) -> None:
        """Raise OptionError when a rule has no effect on `paths` traces of at most `longest` tokens.

        A floor above `highest`, the highest score that the scorer can give, is refused too.
        """
        for rule in self.rules:
            if isinstance(rule, Floor) and rule.score > highest:
                raise OptionError(f"the pruning rule {rule.spelled!r} is above every score. Try: at most {highest:g}")
            if why := rule.inert(paths, longest):
                raise OptionError(f"the pruning rule {rule.spelled!r} has no effect here: {why}")


def parse(text: str | Prune) -> Policy:
    """Read the pruning grammar, or take a function that chooses what to prune (see `rules.Prune`). Raises OptionError naming the part that is wrong and the grammar."""
    if callable(text):
        return Policy((Own(text, spelled(text)),), spelled(text))
    if text.strip() == "none":
        return Policy((), "none")
    parts = [part.strip() for part in text.split("+")]
    return Policy(tuple(_rule(part) for part in parts if part != "auto"), text, adaptive="auto" in parts)


def _rule(part: str) -> Rule:
    name, _, rest = part.partition(":")
    if own := called(part, "policy"):
        return Own(own, part)
    try:
        if name in ("half", "keep", "drop"):
            return _keep(name, rest, part)
        if name == "stop":
            return KeepTop(_count(rest), lambda n: 1, part)
        if name == "keep-top":
            return _keep_top(rest, part)
        if name == "retain":
            return _retain(rest, part)
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


def _keep_top(rest: str, part: str) -> KeepTop:
    amount, _, at = rest.partition("@")
    number = _count(amount)
    return KeepTop(_count(at), lambda n: number, part)


def _retain(rest: str, part: str) -> KeepTop:
    length, at = map(_count, rest.partition("@")[::2])
    if at >= length:
        raise ValueError(f"whole traces of {length} tokens have ended by token {at}")
    return KeepTop(at, lambda n: retained(n, at, length), part)


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
        raise ValueError(f"the {what} {text!r} is not a number") from None
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"the {what} {text} is not in [{least:g}, {most:g}]")
    return number
