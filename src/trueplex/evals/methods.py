"""Methods that choose one answer from a problem's stored traces.

`METHODS` is the whole registry of votes: name → function of k traces of one problem, by index, whose equal answers
are spelled equally → the answer and the tokens spent on it. A vote that needs scores reads ``trace.scores``,
as the verifier gave them while the trace grew; with ``NAME:SCORER`` it gets the traces scored anew by that
scorer. Add a line to add one; ``weighted:POWER``, ``weighted:odds`` and ``top:SHARE`` are those of `trueplex.decide.voting`, by
the verifier's scores. ``NAME~POLICY`` and ``NAME:SCORER~POLICY`` are the same vote on what a pruning
policy would have left of the k traces, simulated; ``auto`` in the policy starts few paths and adds more while the vote is open.

The votes are those of `trueplex.decide.voting`, with its rules for ties (a test holds them together); this form counts
hundreds of thousands of small votes without asking the grader again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from trueplex.decide import pruning, voting
from trueplex.decide.adaptive import FIRST, PathSchedule
from trueplex.decide.pruning import Policy
from trueplex.decide.simulate import simulate, spent
from trueplex.errors import OptionError
from trueplex.types import Status, Trace
from trueplex.verify import confidence


class Outcome(NamedTuple):
    """A method's result: its answer, None without any, and the tokens it used (probes included)."""

    answer: str | None
    tokens: int


Method = Callable[[Sequence[Trace]], Outcome]


def majority(traces: Sequence[Trace]) -> Outcome:
    """Every trace counts once; no score is read, so no probe is paid for."""
    return Outcome(_winner(traces, lambda trace, sofar: sofar + 1.0), sum(t.tokens for t in traces))


def _once(traces: Sequence[Trace]) -> int:
    """Tokens, and one look at each trace: these votes read last scores alone, however often a trace was scored."""
    return sum(t.tokens + math.ceil(t.probe_tokens / max(1, len(t.scores))) for t in traces)


def weighted(traces: Sequence[Trace]) -> Outcome:
    """Every trace counts its last score."""
    return Outcome(_winner(traces, lambda trace, sofar: sofar + (trace.score or 0.0)), _once(traces))


def best(traces: Sequence[Trace]) -> Outcome:
    """The answer of the trace with the highest last score."""
    return Outcome(_winner(traces, lambda trace, sofar: max(sofar, trace.score or 0.0)), _once(traces))


METHODS: dict[str, Method] = {
    "majority": majority,
    "weighted": weighted,
    "best": best,
}


def _voted(name: str) -> Method | None:
    """The vote of that name in the grammar of `trueplex.decide.voting`, where it has an option."""
    if name in METHODS:
        return None
    if weigh := voting.weighing(name):
        return lambda traces: Outcome(_winner(traces, lambda trace, sofar: sofar + weigh(trace)), _once(traces))
    if share := voting.top_share(name):
        return lambda traces: Outcome(weighted(_topmost(traces, share)).answer, _once(traces))
    return None


def _topmost(traces: Sequence[Trace], share: float) -> list[Trace]:
    """The best `share` of the traces that vote, in their order."""
    voting = [t for t in traces if t.answer is not None and t.status is not Status.PRUNED]
    kept = sorted(voting, key=lambda t: (-(t.score or 0.0), t.index))[: max(1, math.ceil(share * len(voting) - 1e-9))]
    return sorted(kept, key=lambda t: t.index)


BLIND = frozenset({"majority"})  # those that read no score
UNTRAINED = ("logprob", "entropy", "deepconf:mean")  # scorers that every run allows, as they read stored steps


def _winner(traces: Sequence[Trace], add: Callable[[Trace, float], float]) -> str | None:
    """The answer of the greatest weight; ties by more traces, then by the lowest index."""
    groups: dict[str, tuple[float, int]] = {}
    for trace in traces:
        if trace.answer is not None and trace.status is not Status.PRUNED:
            weight, paths = groups.get(trace.answer, (0.0, 0))
            groups[trace.answer] = (add(trace, weight), paths + 1)
    # max keeps the first of equals, and groups stand in the order of their first trace
    return max(groups, key=lambda answer: groups[answer]) if groups else None


def after(rule: Policy, adaptive: bool, every: int, method: Method, reads: bool) -> Method:
    """The method on what a run with this policy, looking every so many tokens, would have left of the traces.

    A run that ``reads`` no scores has none, so none weighs in a consensus and no probe is paid for.
    """

    def thinned(traces: Sequence[Trace]) -> Outcome:
        size = len(traces)
        schedule = PathSchedule(FIRST, size, adaptive=True) if adaptive and size > FIRST else PathSchedule(size, size)
        grown = [replace(t, index=i) if reads else replace(t, index=i, scores=[], probe_tokens=0)
                 for i, t in enumerate(traces)]  # fmt: skip
        left = simulate(grown, rule, schedule, every, _by_spelling)
        return Outcome(method(rule.voters(left)).answer, spent(left))

    return thinned


def _by_spelling(answers: Sequence[str]) -> list[list[int]]:
    """The indices of equal answers, which are spelled equally here."""
    groups: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        groups.setdefault(answer, []).append(index)
    return list(groups.values())


class Chosen(NamedTuple):
    """A method by its full name, with the scorer that its traces are scored by; None for the scores they have.

    ``along`` says that it reads the scores of a running trace, not its last one alone.
    """

    name: str
    method: Method
    scorer: str | None
    along: bool = False


def choose(names: Sequence[str] | None, scored: bool, every: int = 32, paths: int | None = None,
           longest: int | None = None) -> list[Chosen]:  # fmt: skip
    """The methods of these names; None is all that a run allows, `scored` telling whether its traces have scores.

    ``every`` is how many tokens lie between two scores of a trace; a policy that has no effect on so many ``paths``
    of at most so many tokens is refused where they are given.

    Raises:
        OptionError: an unknown name, scorer or policy, or a method whose scores the run does not have.
    """
    if names is None:
        own = [name for name in METHODS if scored or name in BLIND]
        names = [
            *own,
            *((f"weighted~half:{2 * every}", "weighted~auto") if scored else ()),
            *(f"{name}:{scorer}" for scorer in UNTRAINED for name in METHODS if name in ("weighted", "best")),
        ]
        paths = None  # these are defaults, so one that has no effect is dropped silently
    chosen = []
    for name in dict.fromkeys(names):
        called, thins, rules = name.partition("~")
        optioned = _voted(called)
        base, _, scorer = (called, "", "") if optioned or called in METHODS else called.partition(":")
        if not (optioned or base in METHODS) or (scorer and base in BLIND and not thins):
            raise OptionError(f"unknown method {name!r}. Try: one of {', '.join(METHODS)}, or NAME:SCORER with a scorer such "
                              f"as {', '.join(UNTRAINED)}, weighted:POWER, weighted:odds or top:SHARE, each also with ~POLICY "
                              "(pass@k is always there)")  # fmt: skip
        if scorer and confidence.parse(scorer) is None:
            raise OptionError(f"{name!r}: {scorer!r} cannot score stored steps. Try: deepconf[:KIND[@WINDOW]], logprob or "
                              "entropy; a verifier's scores are given by --verifier")  # fmt: skip
        method, reads = optioned or METHODS[base], base not in BLIND
        if thins:
            rule, adaptive = _parse(name, rules, every)
            if paths is not None and longest is not None:
                rule.check(paths, longest, confidence.highest(scorer))
            reads = reads or rule.needs_scores
            method = after(rule, adaptive, rule.stride or every, method, reads)
        if not scorer and reads and not scored:
            raise OptionError(f"{name!r} needs scores and the run has none. Try: give --verifier, or weighted:logprob")
        chosen.append(Chosen(name, method, scorer or None, bool(thins)))
    return chosen


def _parse(name: str, rules: str, every: int) -> tuple[Policy, bool]:
    """The policy of a method, and whether traces are added while its vote is open."""
    rule = pruning.parse(rules)
    if not (rule.rules or rule.adaptive):
        raise OptionError(f"{name!r} prunes nothing. Try: drop ~{rules}")
    if rule.stride % every:
        raise OptionError(f"{name!r} looks every {rule.stride} tokens, but the stored scores are {every} tokens apart. Try: --probe-every "
                          f"{rule.stride}, or a multiple of {every} in the policy")  # fmt: skip
    return rule, rule.adaptive
