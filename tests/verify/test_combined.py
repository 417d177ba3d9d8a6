"""The combined score: live as stored, fitted on what ranks, refused where it does not belong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SEED, grown, prompts_for
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, VerifierError
from trueplex.models.backbone import Backbone
from trueplex.train.combined import fit
from trueplex.types import Problem, Status, Steps, Trace
from trueplex.verify.combined import FEATURES, Combination, CombinedScorer, Phase, features
from trueplex.verify.one_token import OneTokenVerifier, ProbeShape
from trueplex.verify.open import open_scorer
from trueplex.verify.probe import OneTokenScorer
from trueplex.verify.stored import tokens_at

PHASES = [Phase(merged, answered).name for merged in (False, True) for answered in (False, True)]


def combination(backbone: Backbone, verifier: OneTokenVerifier | None) -> Combination:
    """Every feature weighs something, and every phase otherwise."""
    weights = {p: {f: 0.1 * (i + 1) * (-1) ** j for j, f in enumerate(FEATURES)} for i, p in enumerate(PHASES)}
    biases = {p: 0.1 * i for i, p in enumerate(PHASES)}
    return Combination(backbone.fingerprint, verifier.fingerprint if verifier else None, weights, biases, {})


@pytest.mark.parametrize(
    "thinking", [Thinking("multiplex", 3, ending=Ending(24)), Thinking("discrete", ending=Ending(24))]
)
@pytest.mark.parametrize("probed", [True, False])
def test_live_scores_are_stored_scores(qwen: Backbone, thinking: Thinking, probed: bool) -> None:
    torch.manual_seed(0)
    verifier = OneTokenVerifier(qwen, 4, shape=ProbeShape(2)) if probed else None
    scorer = CombinedScorer(combination(qwen, verifier), OneTokenScorer(verifier, 1) if verifier else None, 1)
    prompts = {p.problem.text: p.ids for p in prompts_for(qwen)}
    traces = grown(qwen, prompts_for(qwen), 2, thinking, scorer=scorer, stride=1, seed=SEED)
    shares = (0.3, 0.5, 1.0)
    stored = scorer.score_shares([(t, prompts[t.problem.text]) for t in traces], shares)
    for trace, scores in zip(traces, stored, strict=True):
        live = dict(trace.scores)
        assert [live[tokens_at(trace.tokens, s)] for s in shares] == pytest.approx(scores.tolist(), abs=1e-4)
    assert np.ptp(stored) > 1e-3


def test_it_is_fitted_on_what_ranks_within_problems(qwen: Backbone) -> None:
    """Entropy tells right from wrong within a problem, its level tells problems apart, and the length tells nothing."""
    rng, stored = np.random.default_rng(0), []
    for number in range(24):
        level = rng.uniform(0.5, 3.0)
        for index in range(8):
            right, n = bool(index % 2), int(rng.integers(20, 40))
            entropy = (level + (0.0 if right else 0.4) + rng.normal(0, 0.2, n)).astype(np.float32)
            ones = np.ones((n, 1), dtype=np.float32)
            steps = Steps(ones.astype(np.int32), ones, -ones, entropy, ones[:, 0])
            stored.append((Trace(Problem(f"p{number}"), index, 0, Status.FINISHED, tokens=n, thinking_tokens=n - 2,
                                 steps=steps, correct=right), (1, 2)))  # fmt: skip
    made = fit(qwen, stored, None)
    for phase in ("discrete, thinking", "discrete, answered"):
        assert any("entropy" in name for name in made.weights[phase]) and "probe" not in made.weights[phase]
        assert made.fitted[phase]["within_auroc"] > 0.9
    low, high = (made(features(t.steps, len(t.steps), None), Phase(False, True)) for t, _ in (stored[1], stored[0]))
    assert 0 < high < low < 1
    with pytest.raises(InputError, match="right and wrong"):
        fit(qwen, [(t, p) for t, p in stored if t.correct], None)


def test_a_combination_is_of_one_model_and_one_verifier(qwen: Backbone, tmp_path: Path) -> None:
    torch.manual_seed(0)
    verifier = OneTokenVerifier(qwen, 4)
    verifier.save(tmp_path)
    with pytest.raises(VerifierError, match="train combined"):
        open_scorer(qwen, f"combined:{tmp_path}")
    made = combination(qwen, verifier)
    made.save(tmp_path)
    scorer = open_scorer(qwen, f"combined:{tmp_path}", 8)
    assert isinstance(scorer, CombinedScorer) and scorer.combination == made and scorer.every == 8
    assert scorer.probe is not None and scorer.fingerprint not in (None, verifier.fingerprint)
    stored = json.loads((tmp_path / "combined.json").read_text())
    for broken in (
        {"verifier": "another"},
        {"model": "another"},
        {"weights": {}},
        {"weights": {PHASES[3]: {"luck": 1}}},
    ):
        (tmp_path / "combined.json").write_text(json.dumps(stored | broken))
        with pytest.raises(VerifierError, match="Try: run"):
            open_scorer(qwen, f"combined:{tmp_path}")
