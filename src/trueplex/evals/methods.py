"""Ways to get one answer from a problem's traces, as functions of stored traces.

`METHODS` is the whole registry: name → function of k traces of one problem, by index, whose equal answers
are spelled equally → the answer and the tokens spent on it. A method that needs scores reads ``trace.scores``,
as the verifier gave them while the trace grew; with ``NAME:SCORER`` it gets the traces scored anew by that
scorer at their end. A further method is one more line.

The votes are those of `trueplex.vote`, with its rules for ties (a test holds them together); this form counts
hundreds of thousands of small votes without asking the grader again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trueplex.errors import OptionError
from trueplex.types import Status, Trace
from trueplex.verify import confidence


class Outcome(NamedTuple):
    """What a method came to: its answer, None without any, and the tokens that it took (probes included)."""

    answer: str | None
    tokens: int


Method = Callable[[Sequence[Trace]], Outcome]


def majority(traces: Sequence[Trace]) -> Outcome:
    """Every trace counts once; no score is read, so no probe is paid for."""
    return Outcome(_winner(traces, lambda trace, sofar: sofar + 1.0), sum(t.tokens for t in traces))


def weighted(traces: Sequence[Trace]) -> Outcome:
    """Every trace counts its last score."""
    return Outcome(_winner(traces, lambda trace, sofar: sofar + (trace.score or 0.0)), spent(traces))


def best(traces: Sequence[Trace]) -> Outcome:
    """The answer of the trace with the highest last score."""
    return Outcome(_winner(traces, lambda trace, sofar: max(sofar, trace.score or 0.0)), spent(traces))


METHODS: dict[str, Method] = {
    "majority": majority,
    "weighted": weighted,
    "best": best,
}
BLIND = frozenset({"majority"})  # those that read no score
UNTRAINED = ("logprob", "entropy", "deepconf:mean")  # scorers that every run allows, as they read stored steps


def spent(traces: Sequence[Trace]) -> int:
    return sum(t.tokens + t.probe_tokens for t in traces)


def _winner(traces: Sequence[Trace], add: Callable[[Trace, float], float]) -> str | None:
    """The answer of the greatest weight; ties by more traces, then by the lowest index."""
    groups: dict[str, tuple[float, int]] = {}
    for trace in traces:
        if trace.answer is not None and trace.status is not Status.PRUNED:
            weight, paths = groups.get(trace.answer, (0.0, 0))
            groups[trace.answer] = (add(trace, weight), paths + 1)
    # max keeps the first of equals, and groups stand in the order of their first trace
    return max(groups, key=lambda answer: groups[answer]) if groups else None


class Chosen(NamedTuple):
    """A method by its full name, with the scorer that its traces are scored by; None for the scores they have."""

    name: str
    method: Method
    scorer: str | None


def choose(names: Sequence[str] | None, scored: bool) -> list[Chosen]:
    """The methods of these names; None is all that a run allows, `scored` telling whether its traces have scores.

    Raises:
        OptionError: an unknown name or scorer, or a method whose scores the run does not have.
    """
    if names is None:
        own = [name for name in METHODS if scored or name in BLIND]
        names = [
            *own,
            *(f"{name}:{scorer}" for scorer in UNTRAINED for name in METHODS if name in ("weighted", "best")),
        ]
    chosen = []
    for name in dict.fromkeys(names):
        base, _, scorer = (name, "", "") if name in METHODS else name.partition(":")
        if base not in METHODS or (scorer and base in BLIND):
            raise OptionError(f"unknown method {name!r}; mend: one of {', '.join(METHODS)}, or NAME:SCORER with a scorer such "
                              f"as {', '.join(UNTRAINED)} (pass@k is always there)")  # fmt: skip
        if scorer and confidence.parse(scorer) is None:
            raise OptionError(f"{name!r}: {scorer!r} is no score of stored steps; mend: deepconf[:KIND[@WINDOW]], logprob or "
                              "entropy; a verifier's scores are given by --verifier")  # fmt: skip
        if not scorer and base not in BLIND and not scored:
            raise OptionError(f"{name!r} needs scores and the run has none; mend: give --verifier, or {name}:logprob")
        chosen.append(Chosen(name, METHODS[base], scorer or None))
    return chosen
