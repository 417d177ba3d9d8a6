"""Methods compared at equal numbers of tokens.

A method at k traces has an average cost in tokens; between two sizes it is interpolated: taking the larger one
with the probability that spends the budget on average. So its accuracy between two sizes is a straight line,
problem by problem, and two methods can be paired there. Outside its own range a method has no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trueplex.evals.metrics import figure, paired


class Spent(NamedTuple):
    """A method's result at one size: right [P] and tokens [P] of each problem, means over its groups."""

    right: np.ndarray
    tokens: np.ndarray


def at_budget(sizes: Sequence[Spent], budget: float) -> np.ndarray | None:
    """How often right [P] when `budget` tokens a problem are spent on average; None outside the method's range."""
    points = sorted(sizes, key=lambda point: point.tokens.mean())
    costs = [float(point.tokens.mean()) for point in points]
    if not costs[0] <= budget <= costs[-1] * (1 + 1e-9):
        return None
    above = min(int(np.searchsorted(costs, budget)), len(costs) - 1)
    if above == 0 or costs[above] == costs[above - 1]:
        return points[above].right
    share = min(1.0, (budget - costs[above - 1]) / (costs[above] - costs[above - 1]))
    return (1 - share) * points[above - 1].right + share * points[above].right


def equal_budgets(methods: Mapping[str, Sequence[Spent]], budgets: Sequence[float], against: str) -> dict[str, Any]:
    """Accuracy of every method at each budget, and its paired difference to the method `against` there."""
    out: dict[str, Any] = {"tokens": [round(b) for b in budgets], "against": against, "right": {}, "minus": {}}
    for name, sizes in methods.items():
        right, minus = [], []
        for budget in budgets:
            own, other = at_budget(sizes, budget), at_budget(methods[against], budget)
            right.append(None if own is None else figure(own.tolist()))
            minus.append(None if own is None or other is None else paired(own.tolist(), other.tolist()))
        out["right"][name] = right
        if name != against:
            out["minus"][name] = minus
    return out
