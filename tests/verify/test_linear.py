"""A linear verifier: live as stored on every family, fitted on what ranks, refused where it cannot be or does not belong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import SEED, grown, prompts_for
from trueplex.engine import rows
from trueplex.engine.limits import Ending
from trueplex.engine.pooling import WINDOWS, pooled
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, ModelError, VerifierError
from trueplex.models.backbone import Backbone
from trueplex.train.combined import comparable
from trueplex.train.linear import fit
from trueplex.types import Problem, Status, Steps, Trace
from trueplex.verify.base import base_pass
from trueplex.verify.combined import FREE, Phase
from trueplex.verify.linear import Card, LinearScorer, LinearVerifier, layers_read, read_pooled
from trueplex.verify.open import open_scorer
from trueplex.verify.stored import tokens_at

PHASES = [Phase(merged, answered).name for merged in (False, True) for answered in (False, True)]
SHARES = (0.3, 0.5, 1.0)


def verifier_of(backbone: Backbone) -> LinearVerifier:
    """Every feature weighs something, and every phase otherwise."""
    layers = layers_read(backbone)
    stored = [(one, (1, 2)) for one in traces_of(1, 2)]
    width = read_pooled(backbone, layers, stored, [[2], [2]])[0].shape[1] + len(FREE)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(width, generator=generator) / width**0.5 for name in PHASES}
    card = Card(
        backbone.name,
        backbone.fingerprint,
        layers,
        WINDOWS,
        tuple(FREE),
        {n: 0.1 * i for i, n in enumerate(PHASES)},
        "",
        0,
        {},
    )
    return LinearVerifier(card, weights)


def traces_of(problems: int, paths: int, seed: int = 0) -> list[Trace]:
    """Graded discrete traces: of a problem, the right ones write token 7 more often than the wrong ones."""
    rng, found = np.random.default_rng(seed), []
    for number in range(problems):
        for index in range(paths):
            right, n = bool(index % 2), int(rng.integers(20, 30))
            ids = np.where(rng.random((n, 1)) < (0.6 if right else 0.3), 7, rng.integers(3, 40, (n, 1))).astype(
                np.int32
            )
            ones = np.ones((n, 1), dtype=np.float32)
            entropy = rng.random(n).astype(np.float32)
            found.append(Trace(Problem(f"p{number}"), index, 0, Status.FINISHED, tokens=n, thinking_tokens=n,
                               steps=Steps(ids, ones, -ones, entropy, entropy), correct=right))  # fmt: skip
    return found


def test_pooling_is_a_mean_over_each_window() -> None:
    values = torch.randn(3, 2, 40, 4, generator=torch.Generator().manual_seed(0))
    first, last = np.array([[2, 2], [0, 5], [7, 7]]), np.array([[30, 40], [1, 9], [7, 12]])
    whole = pooled([values, 2 * values], first, last)
    assert torch.equal(whole[..., whole.shape[-1] // 2 :], 2 * whole[..., : whole.shape[-1] // 2]), "layer by layer"
    found = whole[..., : whole.shape[-1] // 2].view(3, 2, len(WINDOWS), 2, 4)
    for row in range(3):
        for look in range(2):
            a, b = first[row, look], last[row, look]
            own = values[row, :, a:b]
            plain = [own[:, -window:].mean(1) if b > a else torch.zeros(2, 4) for window in WINDOWS]
            for one, expected in zip(found[row, look], plain, strict=True):
                torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "thinking",
    [
        Thinking("multiplex", 3, ending=Ending(24)),
        Thinking("discrete", ending=Ending(24)),
        Thinking("discrete", ending=Ending(1)),
    ],
)
def test_live_scores_are_stored_scores(
    backbone: Backbone, thinking: Thinking, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rows.SHARED_BYTES, backbone.device.type, 0 if shared else 2**40)
    if set(backbone.kinds.layers) == {"sliding_attention"}:
        with pytest.raises(ModelError, match="no layer whose values"):
            layers_read(backbone)
        return
    scorer = LinearScorer(verifier_of(backbone), backbone, 1)
    prompts = {p.problem.text: p.ids for p in prompts_for(backbone)}
    traces = grown(backbone, prompts_for(backbone), 2, thinking, scorer=scorer, stride=1, seed=SEED)
    stored = scorer.score_shares([(t, prompts[t.problem.text]) for t in traces], SHARES)
    for trace, scores in zip(traces, stored, strict=True):
        live = dict(trace.scores)
        assert [live[tokens_at(trace.tokens, s)] for s in SHARES] == pytest.approx(scores.tolist(), abs=1e-4)
    assert np.ptp(stored) > 1e-3 and not any(trace.probe_tokens for trace in traces)


@pytest.mark.parametrize("family", ["lfm2", "deepseek_v3", "gemma4_text"])
def test_layers_that_store_something_else_are_left_out(backbones, family: str) -> None:
    """Of a hybrid those of attention are read; latent attention stores no values; shared ones are read once."""
    backbone = backbones(family)
    if family == "deepseek_v3":
        with pytest.raises(ModelError, match="train verifier"):
            layers_read(backbone)
        return
    read = layers_read(backbone)
    assert (
        read
        and {backbone.kinds.layers[n] for n in read} == {"full_attention"}
        and not set(read) & set(backbone.kinds.owners)
    )
    scorer = LinearScorer(verifier_of(backbone), backbone, 5)
    prompts = {p.problem.text: p.ids for p in prompts_for(backbone)}
    traces = grown(
        backbone, prompts_for(backbone), 2, Thinking("discrete", ending=Ending(24)), scorer=scorer, stride=5, seed=SEED
    )
    stored = [(t, prompts[t.problem.text]) for t in traces]
    for trace, scores in zip(
        traces, scorer.score_at(stored, [[at for at, _ in t.scores] for t in traces]), strict=True
    ):
        assert [score for _, score in trace.scores] == pytest.approx(scores, abs=1e-4)


def test_the_middle_third_is_read(backbones) -> None:
    class Deep:
        name, model = "deep", torch.nn.Module()

        class kinds:
            layers, owners = ("full_attention",) * 24, {9: 8}

    assert layers_read(Deep) == (8, 10, 11, 12, 13, 14, 15)  # type: ignore[arg-type]


def test_it_is_fitted_on_what_ranks_within_problems(qwen: Backbone) -> None:
    stored = [(trace, (1, 2)) for trace in traces_of(30, 6)]
    made = fit(qwen, comparable(stored), "somewhere")
    assert made.card.traces == 180 and made.card.validation["within_auroc@1.0"] > 0.8
    fresh = [(trace, (1, 2)) for trace in traces_of(20, 4, seed=1)]
    scores = LinearScorer(made, qwen).score_shares(fresh, SHARES)
    right = np.array([t.correct for t, _ in fresh])
    assert scores[right, -1].mean() > scores[~right, -1].mean() + 0.2
    assert np.abs(scores[:, -1].mean() - 0.5) < 0.1, "a score is a probability"
    shuffled = np.random.default_rng(0).permutation(right)
    chance = [(Trace(t.problem, t.index, 0, t.status, tokens=t.tokens, thinking_tokens=t.tokens, steps=t.steps, correct=bool(c)), p)
              for (t, p), c in zip([(trace, (1, 2)) for trace in traces_of(20, 4, seed=1)], shuffled, strict=True)]  # fmt: skip
    assert fit(qwen, comparable(chance), "").card.validation["within_auroc@1.0"] < 0.7, (
        "what is told is of problems held out"
    )


def test_what_cannot_teach_is_refused(qwen: Backbone) -> None:
    with pytest.raises(InputError, match="right and wrong"):
        comparable([(trace, (1, 2)) for trace in traces_of(3, 4) if trace.correct])
    with pytest.raises(InputError, match=r"5 problems have .*8 are needed"):
        fit(qwen, comparable([(trace, (1, 2)) for trace in traces_of(5, 4)]), "")


def test_it_belongs_to_its_model_and_is_refused_when_broken(qwen: Backbone, backbones, tmp_path: Path) -> None:
    made = verifier_of(qwen)
    made.save(tmp_path)
    scorer = open_scorer(qwen, str(tmp_path), 8)
    assert isinstance(scorer, LinearScorer) and scorer.every == 8 and scorer.fingerprint == made.fingerprint
    with pytest.raises(VerifierError, match="another model"):
        open_scorer(backbones("gemma"), str(tmp_path))
    (tmp_path / "verifier.json").write_text("{}")
    with pytest.raises(VerifierError, match="two verifiers"):
        open_scorer(qwen, str(tmp_path))
    (tmp_path / "verifier.json").unlink()
    card = json.loads((tmp_path / "linear.json").read_text())
    for broken in ({"weights": "other"}, {"free": []}, {"windows": [16]}, {"biases": {}}, {"layers": "all"}):
        (tmp_path / "linear.json").write_text(json.dumps(card | broken))
        with pytest.raises(VerifierError, match="Try: copy or fit"):
            open_scorer(qwen, str(tmp_path))
    (tmp_path / "linear.safetensors").write_bytes(b"no")
    with pytest.raises(VerifierError, match="cannot be read"):
        open_scorer(qwen, str(tmp_path))


def test_rollouts_to_verifier_to_solution(trueplex, tmp_path: Path) -> None:
    """The commands of the how-to, on the embedded model."""
    runs, out, scored = (str(tmp_path / name) for name in ("rollouts", "linear", "scored"))

    def told(line: str) -> str:
        code, output, errors = trueplex(*line.split())
        assert code == 0, errors
        return output

    told(f"rollout --data chain-hard --split practice --n 60 --samples 4 --thinking discrete --quiet --out {runs}")
    quality = json.loads(told(f"train linear --data {runs} --out {out} --quiet"))
    assert quality["within_auroc@1.0"] > 0.6
    told(f"score {runs} --verifier {out} --probe-every 8 --quiet --out {scored}")
    code, output, errors = trueplex("solve", "Tom has 3 apples. He buys 4 more. How many apples does Tom have now?", "--verifier", out,
                                    "--paths", "4", "--prune", "half:8", "--json")  # fmt: skip
    assert code == 0 and json.loads(output)["answer"], errors
    assert "within_auroc@1.0" in told(f"verifier info {out}") and out in told(f"verifier list {tmp_path}")
    assert "linear.safetensors" in told(f"push {out} owner/name --dry-run")


def test_the_base_is_read_no_further_than_what_is_wanted(qwen: Backbone) -> None:
    inputs = torch.randn(2, 9, qwen.input_size, generator=torch.Generator().manual_seed(0)).to(qwen.device)
    ends = torch.tensor([[8], [8]])
    whole, part = base_pass(qwen, inputs).at(ends).layers, base_pass(qwen, inputs, 0).at(ends).layers
    assert set(whole) == {0, 1} and set(part) == {0}
    assert all(torch.equal(one, other) for one, other in zip(whole[0], part[0], strict=True))
