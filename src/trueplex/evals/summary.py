"""Summary of one suite's stored traces: every figure with an interval over its problems.

A vote over k of n traces is taken over each disjoint group of k, in index order, and its outcome is the mean
over those groups: groups that share no trace are independent, and nothing is drawn. (pass@k has a closed form
over all subsets and uses it.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from trueplex.evals.budget import Spent, equal_budgets
from trueplex.evals.curves import curves, score_at
from trueplex.evals.methods import Chosen, choose
from trueplex.evals.metrics import auroc_over_all, figure, paired, pass_at, per_problem_auroc
from trueplex.evals.samples import Samples, gather, outcomes
from trueplex.grading.kinds import AUTO, AnswerKind, answer_kind
from trueplex.types import Trace, Vote

SHARES = (0.25, 0.5, 0.75, 1.0)  # of a trace, where scores are judged
GROUP = 16  # traces a vote, beside all of them

Votes = Callable[[Sequence[Trace]], list[Vote]]


def chosen_right(votes: list[Vote], answers: Sequence[str], kind: AnswerKind | None = None) -> float:
    """1 when the first vote is a right answer, else 0."""
    return float(bool(votes) and (kind or answer_kind(AUTO)).grade(votes[0].answer, answers).correct is True)


def summarise(traces: Iterable[Trace], methods: Sequence[str] | None = None, order: Sequence[int] = (),
              scored: bool | None = None, read_truncated: bool = False, every: int = 32,
              kind: AnswerKind | None = None) -> dict[str, Any]:  # fmt: skip
    """Figures of one suite: pass@k, every method at every size, lengths, entropy and the quality of scores.

    An answer that the grader could not judge counts as wrong here and is counted by itself. ``right`` and
    ``ids`` are the number of right traces of each problem, and its name with its `Problem.key` in hexadecimal, in the
    `order` of problem keys: so two results can be compared pair by pair, and only where they asked the same. ``scored`` says whether the traces have scores; None looks. ``every`` is how
    many tokens lie between them, ``kind`` what counts as an answer, None for ``auto``.

    Raises:
        OptionError: a method is unknown or needs scores that are not there.
    """
    stored = iter(traces)
    if scored is None:
        first = next(stored)
        scored, stored = bool(first.scores), itertools.chain([first], stored)
    chosen = choose(methods, scored, every)
    scorers = {c.scorer: every if any(o.along for o in chosen if o.scorer == c.scorer) else None
               for c in chosen if c.scorer}  # fmt: skip
    samples = gather(stored, scorers, order, read_truncated, kind)
    n = min(len(s.traces) for s in samples)
    whole = [t for s in samples for t in s.traces]
    right = [int(s.correct.sum()) for s in samples]
    tokens = np.array([t.tokens for t in whole])
    ended = outcomes(samples, kind)
    out: dict[str, Any] = {
        "problems": len(samples), "samples": n, "outcomes": ended,
        "ungraded": ended["unreadable"] + ended["incomparable"] + ended["timed out"],
        "pass": {str(k): figure([pass_at(len(s.traces), r, k) for s, r in zip(samples, right, strict=True)])
                 for k in sizes(n)},
        "tokens": {**(figure([float(np.mean([t.tokens for t in s.traces])) for s in samples]) or {}),
                   "p5": int(np.quantile(tokens, 0.05)), "p95": int(np.quantile(tokens, 0.95)), "max": int(tokens.max())},
        "truncated": round(float(np.mean([t.status.value == "truncated" for t in whole])), 4),
        "entropy": figure([float(s.entropy.mean()) for s in samples]),
        "explored": figure([float(s.explored.mean()) for s in samples]),
    }  # fmt: skip
    out |= _methods(samples, chosen, n, float(tokens.mean()))
    # The simplest score without training: a trace with lower entropy is trusted more.
    problems = [key for s in samples for key in [s.problem.key] * len(s.traces)]
    correct = np.concatenate([s.correct for s in samples]).tolist()
    surer = np.concatenate([s.surer for s in samples]).tolist()
    out["auroc_within_entropy"] = figure(per_problem_auroc(problems, correct, surer))
    if all(t.scores for t in whole):
        out |= _ranking(whole, problems, correct)
        out |= _gains(samples, right, n)
    return out | {
        "curves": curves(samples),
        "ids": [f"{s.problem.id}#{s.problem.key:016x}" for s in samples],
        "right": right,
    }


def of_size(samples: Sequence[Samples], chosen: Chosen, size: int) -> Spent:
    """How often a method is right over `size` traces, and its tokens: means over disjoint groups, in index order."""
    right, tokens = np.empty(len(samples)), np.empty(len(samples))
    for place, one in enumerate(samples):
        traces = one.views[chosen.scorer] if chosen.scorer else one.traces
        groups = [traces[i : i + size] for i in range(0, len(traces) - size + 1, size)]
        found = [chosen.method(g) for g in groups]
        right[place] = np.mean([f.answer is not None and one.right[f.answer] for f in found])
        tokens[place] = np.mean([f.tokens for f in found])
    return Spent(right, tokens)


def _methods(samples: Sequence[Samples], chosen: Sequence[Chosen], n: int, length: float) -> dict[str, Any]:
    """Every method at every size, all pairs at the full size, and all at equal budgets."""
    spent = {c.name: {k: of_size(samples, c, k) for k in sizes(n)} for c in chosen}
    out: dict[str, Any] = {
        "methods": {name: {str(k): {**(figure(s.right.tolist()) or {}), "tokens": round(float(s.tokens.mean()), 1)}
                           for k, s in by_size.items()} for name, by_size in spent.items()},
        "pairs": [{"one": a, "other": b, "of": n, **paired(spent[a][n].right.tolist(), spent[b][n].right.tolist())}
                  for a, b in itertools.combinations(spent, 2)],
        "votes": {name: [round(float(r), 4) for r in by_size[n].right] for name, by_size in spent.items()},
    }  # fmt: skip
    if spent:
        against = "majority" if "majority" in spent else next(iter(spent))
        budgets = [length * k for k in sizes(n)]
        out["budget"] = equal_budgets({name: list(s.values()) for name, s in spent.items()}, budgets, against)
    return out


def _ranking(every: Sequence[Trace], problems: Sequence[int], correct: Sequence[bool]) -> dict[str, Any]:
    """AUROC of the stored scores within problems and over all traces, at shares of a trace."""
    out: dict[str, Any] = {"auroc_within": {}, "auroc_all": {}}
    for share in SHARES:
        scores = [score_at(t, share) for t in every]
        out["auroc_within"][str(share)] = figure(per_problem_auroc(problems, correct, scores))
        out["auroc_all"][str(share)] = auroc_over_all(problems, correct, scores)
    return out


def _gains(samples: Sequence[Samples], right: Sequence[int], n: int) -> dict[str, Any]:
    """What the stored scores add to a majority vote, and to one sample, paired on the same traces."""
    by_name = {c.name: c for c in choose(("majority", "weighted", "best"), True)}
    out: dict[str, Any] = {"weighted_minus_majority": {}, "best_minus_pass1": {}}
    single = np.array([pass_at(len(s.traces), r, 1) for s, r in zip(samples, right, strict=True)])
    for k in sorted({min(GROUP, n), n}):
        heads, weights, top = (of_size(samples, by_name[name], k).right for name in ("majority", "weighted", "best"))
        out["weighted_minus_majority"][str(k)] = paired(weights.tolist(), heads.tolist())
        out["best_minus_pass1"][str(k)] = paired(top.tolist(), single.tolist())
    return out


def sizes(n: int) -> list[int]:
    """1, 2, 4 … and n itself."""
    return sorted({*(2**i for i in range(n.bit_length()) if 2**i <= n), n})
