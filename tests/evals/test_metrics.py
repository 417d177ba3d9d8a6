"""Numbers that agree with closed forms and with scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from conftest import stored_trace as trace
from trueplex.evals import metrics
from trueplex.evals.curves import score_at
from trueplex.evals.metrics import auroc, auroc_over_all, interval, pass_at, per_problem_auroc, within_auroc
from trueplex.evals.summary import summarise


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(n: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    flags = [i < right for i in range(n)]
    subsets = list(itertools.combinations(flags, k))
    assert pass_at(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_refuses_more_than_there_are() -> None:
    with pytest.raises(ValueError, match="k is 5"):
        pass_at(4, 1, 5)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auroc_is_scikit_learns(pairs: list[tuple[bool, int]]) -> None:
    right, wrong = [s for c, s in pairs if c], [s for c, s in pairs if not c]
    if right and wrong:
        assert auroc(right, wrong) == pytest.approx(roc_auc_score([c for c, _ in pairs], [s for _, s in pairs]))
    else:
        assert np.isnan(auroc(right, wrong))


def test_within_is_blind_to_which_problems_are_hard() -> None:
    """A score that knows only the problem has AUROC 0.5 within, however good it looks over all."""
    problems = ["easy"] * 10 + ["hard"] * 10
    correct = [True] * 8 + [False] * 2 + [True] * 2 + [False] * 8
    scores = [0.9] * 10 + [0.1] * 10
    assert within_auroc(problems, correct, scores) == 0.5
    assert (
        auroc(
            [s for s, c in zip(scores, correct, strict=True) if c],
            [s for s, c in zip(scores, correct, strict=True) if not c],
        )
        > 0.7
    )
    assert len(per_problem_auroc(["a", "a", "b"], [True, False, True], [1, 0, 1])) == 1


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_auroc_over_all_draws_problems_whole(rows: list[tuple[int, bool, int]]) -> None:
    """As counted from the traces of the drawn problems, each as often as it was drawn."""
    problems, correct, scores = zip(*rows, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "ALL_DRAWS", 40)
        patch.setattr(metrics, "AT_ONCE", 70)
        found = auroc_over_all(problems, correct, scores)
    if all(correct) or not any(correct):
        assert found is None
        return
    names = list(dict.fromkeys(problems))
    areas = []
    for pick in metrics._picks(0, 40, len(names)):
        drawn = [row for place in pick for row in rows if row[0] == names[place]]
        areas.append(auroc([s for _, c, s in drawn if c], [s for _, c, s in drawn if not c]))
    assert found["mean"] == pytest.approx(roc_auc_score(correct, scores), abs=1e-4)
    assert [found["low"], found["high"]] == pytest.approx(np.nanquantile(areas, [0.025, 0.975]), abs=1e-4)


def test_bootstrap_intervals_cover_about_as_often_as_they_say() -> None:
    rng, covered = np.random.default_rng(0), 0
    for seed in range(200):
        low, high = interval(rng.normal(1.0, 1.0, 60), draws=300, seed=seed)
        covered += low <= 1.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_summary_of_known_traces() -> None:
    traces = [trace(i, "4" if i % 2 else "5", bool(i % 2), 0.9 if i % 2 else 0.2) for i in range(4)]
    traces += [trace(i, "5", False, 0.3, "other") for i in range(3)] + [trace(3, "4", True, 0.1, "other")]
    figures = summarise(traces)
    assert figures["problems"] == 2 and figures["samples"] == 4
    assert figures["pass"]["1"]["mean"] == pytest.approx((0.5 + 0.25) / 2)
    assert figures["pass"]["4"]["mean"] == 1.0
    assert figures["methods"]["majority"]["4"]["mean"] == 0.0  # a tie won by the first path, and three against one
    assert figures["methods"]["weighted"]["4"]["mean"] == 0.5 and figures["methods"]["best"]["4"]["mean"] == 0.5
    assert figures["auroc_within"]["1.0"]["mean"] == 0.5 and figures["auroc_within"]["0.5"]["mean"] == 0.5
    assert score_at(traces[1], 0.5) == 0.1 and score_at(traces[1], 0.2) == 0.5
