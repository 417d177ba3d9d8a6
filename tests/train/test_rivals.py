"""Monte-Carlo values, and reward models trained on a verifier's rollouts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import slow
from trueplex.data.embedded import tasks
from trueplex.data.traces import read_traces
from trueplex.engine.batch import Batch
from trueplex.engine.grow import grow
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.slots import Entry
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, OptionError, StoreError, VerifierError
from trueplex.models.backbone import Backbone
from trueplex.models.load import REFERENCE, load
from trueplex.models.prompt import make_prompt
from trueplex.solving.request import Request
from trueplex.solving.rollouts import rollout
from trueplex.solving.run import Run
from trueplex.solving.settings import Settings
from trueplex.train.common.batches import Labelled
from trueplex.train.common.labels import labels
from trueplex.train.reward import KINDS, SHARES, RewardRecipe, RewardTask, quality, train_reward
from trueplex.train.values import APART, Valuing, cuts, read_values, thinking_of, value
from trueplex.train.verifier import Recipe, read_labelled, train_verifier
from trueplex.types import Problem, Steps, Trace
from trueplex.verify.open import open_scorer
from trueplex.verify.readers.checkpoint import NAMES, card_of
from trueplex.verify.readers.reading import Written
from trueplex.verify.readers.transcript import Transcript

VALUING = Valuing(traces=2, prefixes=2, samples=2)


@pytest.fixture(scope="module")
def reference() -> Backbone:
    return load(REFERENCE, device="cpu")


@pytest.fixture(scope="module")
def rolled(reference: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Multiplex rollouts of the embedded model, some right and some wrong."""
    problems = tasks.problems("chain-easy", "train", 5, 3)
    out = tmp_path_factory.mktemp("r")
    rollout(reference, problems, Settings(8, Thinking(width=2), "none"), out)
    return out


@pytest.fixture(scope="module")
def known(reference: Backbone, rolled: Path) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
    value(reference, rolled, VALUING)
    return read_values(rolled)


# -- values -----------------------------------------------------------------------------------------


def test_a_value_is_the_share_of_continuations_that_end_right(reference: Backbone, rolled: Path, known: dict) -> None:
    """Against each prefix continued by itself, one at a time, by the engine alone."""
    traces = {(t.problem.text, t.seed, t.index): (t, prompt) for t, prompt in read_traces(rolled)}
    words, checked = Transcript(reference), 0
    by_problem: dict[str, int] = {}
    for (text, seed, index), (tokens, worth) in known.items():
        trace, _ = traces[text, seed, index]
        number = by_problem.setdefault(text, 0)
        at = cuts(words, trace, VALUING)
        others = [t.correct for t, _ in traces.values() if t.problem.text == text]
        assert tokens.tolist() == [0, *at, trace.tokens]
        assert worth[0] == pytest.approx(np.mean(others), abs=1e-4) and worth[-1] == trace.correct
        for place, cut in enumerate(at if checked < 8 else ()):
            right = []
            for sample in range(VALUING.samples):
                steps = Steps(*(a[:cut] for a in trace.steps.arrays()))
                begun = Trace(
                    trace.problem, (number + place) * VALUING.samples + sample, APART, tokens=cut, steps=steps
                )
                batch = Batch(reference, 1)
                batch.submit(Entry(0, make_prompt(trace.problem, reference), Thinking(width=2), [begun]))
                (grown,) = [t for stopped in grow(batch) for t in stopped]
                Run(0, Request(trace.problem, Settings(verifier="none")), reference).stop(grown)
                assert np.array_equal(grown.steps.ids[:cut], trace.steps.ids[:cut])
                right.append(grown.correct)
                checked += 1
            assert worth[1 + place] == np.mean(right)
        by_problem[text] += len(at)
    assert checked >= 8 and {bool(t[0].correct) for n, t in traces.items() if n in known} == {True, False}
    assert any(0 < v < 1 for _, worth in known.values() for v in worth)


def test_values_that_were_interrupted_are_resumed(
    reference: Backbone, rolled: Path, known: dict, tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "traces.arrow").write_bytes((rolled / "traces.arrow").read_bytes())

    def dies(done: int, tokens: int) -> None:
        if tokens and (tmp_path / "values.jsonl").read_bytes():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        value(reference, tmp_path, VALUING, max_batch_size=8, progress=dies)
    begun = read_values(tmp_path)
    assert 0 < len(begun) < len(known)
    with (tmp_path / "values.jsonl").open("ab") as file:
        file.write(b'{"problem": "cut o')
    value(reference, tmp_path, VALUING, max_batch_size=8)
    said.clear()
    again = read_values(tmp_path)
    assert not said
    assert again.keys() == known.keys()
    assert all(np.array_equal(again[n][i], known[n][i]) for n in known for i in (0, 1))
    with pytest.raises(StoreError, match="values of other options"):
        value(reference, tmp_path, replace(VALUING, samples=3))


@pytest.mark.parametrize(
    "thinking",
    [Thinking("discrete", sampling=Sampling(0.0)), Thinking("multiplex", 2, "mean", replacement=False, ending=Ending(20, 10)),
     Thinking("soft", 4, answer_sampling=Sampling(0.5, 0.9)), Thinking("stochastic-soft", noise="dirichlet", strength=0.5)],
    ids=str,
)  # fmt: skip
def test_the_way_of_thinking_is_read_from_the_store(qwen: Backbone, tmp_path: Path, thinking: Thinking) -> None:
    thinking = replace(thinking, ending=replace(thinking.ending, max_tokens=20))
    rollout(qwen, [Problem("Hi", answers=("1",))], Settings(1, thinking, "none", answer="number"), tmp_path)
    read = thinking_of(tmp_path)
    from trueplex.solving.settings import thinking_options

    assert thinking_options(read) == thinking_options(thinking)


def test_values_need_right_and_wrong_traces(qwen: Backbone, tmp_path: Path) -> None:
    rollout(qwen, [Problem("Hi", answers=("1",))], Settings(2, Thinking(ending=Ending(5)), "none"), tmp_path)
    with pytest.raises(InputError, match="no problem with right and wrong traces"):
        value(qwen, tmp_path, VALUING)
    for wrong in ({"traces": 0}, {"steps": "pages"}):
        with pytest.raises(OptionError, match="Try:"):
            Valuing(**wrong)


def test_monte_carlo_labels_lie_between_the_values_and_need_them(
    reference: Backbone, rolled: Path, known: dict, tmp_path: Path
) -> None:
    at, worth = np.array([0, 4, 8]), np.array([0.5, 1.0, 0.0], dtype=np.float32)
    assert labels("monte-carlo", 8, np.arange(8), False, (at, worth)).tolist() == [
        0.625,
        0.75,
        0.875,
        1,
        0.75,
        0.5,
        0.25,
        0,
    ]
    measured = [labels("measured", 8, np.arange(8), False, v).tolist() for v in ((at, worth), None)]
    assert measured[0][:3] == [0.625, 0.75, 0.875] and measured[1] == labels("ramp", 8, np.arange(8), False).tolist()
    traces = read_labelled(rolled, reference)
    with_values = [t for t in traces if t.values is not None]
    assert len(with_values) == len(known) < len(traces)
    recipe = Recipe(2, positions=4, batch_size=2, epochs=3, labels="monte-carlo", every=99)
    with pytest.raises(InputError, match=r"have no Monte-Carlo values.*trueplex train values"):
        train_verifier(reference, traces, traces, recipe, tmp_path / "none")
    verifiers = []
    for kind in ("monte-carlo", "ramp"):
        verifier = train_verifier(reference, with_values, with_values, replace(recipe, labels=kind), tmp_path / kind)
        verifiers.append(verifier.probe.head.weight.detach().clone())
    assert not torch.equal(*verifiers)


# -- reward models ----------------------------------------------------------------------------------

RECIPE = RewardRecipe(rank=2, batch_size=4, lr=1e-2, every=4)


def whole(traces: Sequence[Labelled]) -> tuple[list[Written], list[list[int]]]:
    written = [Written(t.text, t.steps.ids[:, 0].tolist(), True) for t in traces]
    return written, [[len(w.ids)] for w in written]


@pytest.mark.parametrize(
    ("kind", "rank"),
    [("process", 0), *(pytest.param(k, 2, marks=pytest.mark.slow) for k in ("outcome", "process", "generative"))],
)
def test_what_is_trained_learns_and_loads_by_name(
    reference: Backbone, rolled: Path, known: dict, tmp_path: Path, kind: str, rank: int
) -> None:
    traces = read_labelled(rolled, reference)[:24]
    card = train_reward(reference, traces, traces, replace(RECIPE, kind=kind, rank=rank, lr=3e-3), tmp_path, "here")
    stored = card_of(str(tmp_path), kind, card.get("form"))
    assert json.loads(json.dumps(card)) == stored and card["base_fingerprint"] == reference.fingerprint
    scorer = open_scorer(reference, NAMES[kind].format(tmp_path))
    found = quality(scorer.reader, traces)
    assert found == pytest.approx(card["validation"], abs=0.02)  # merging LoRA rounds
    log = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    # Most of them are right, so what is first learned is to say so: labels, or Yes and No, are not turned round.
    before, _ = KINDS[kind](reference, replace(RECIPE, kind=kind, rank=rank)).reader.read(*whole(traces))
    after, _ = scorer.reader.read(*whole(traces))
    gained = np.array(after)[:, 0] - np.array(before)[:, 0]
    assert np.mean([t.correct for t in traces]) > 0.8 and gained.mean() > 0.02
    assert [r["step"] for r in log] == [4, 6] and all(f"within_auroc@{s}" in log[0] for s in SHARES)
    assert not any(p.requires_grad for p in reference.model.parameters())
    for other in {"orm:{}", "prm:versaprm:{}", "genrm:{}"} - {NAMES[kind]}:
        with pytest.raises(VerifierError, match=f"is another reward model. Try: {NAMES[kind].format('')}"):
            open_scorer(reference, other.format(tmp_path))


@pytest.mark.parametrize(
    ("kind", "rank"), [("outcome", 2), pytest.param("process", 0, marks=pytest.mark.slow)], ids=["adapter", "whole"]
)
def test_in_bfloat16_what_is_learned_stays_in_float32(
    reference: Backbone,
    rolled: Path,
    known: dict,
    tmp_path: Path,
    kind: str,
    rank: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Updates far below bfloat16's resolution add up to what they are in float32; what reads runs in bfloat16."""
    half = load(REFERENCE, "cpu", torch.bfloat16)
    traces = read_labelled(rolled, reference)[:12]
    seen: list[tuple[torch.dtype, dict[str, torch.Tensor]]] = []
    forward = RewardTask.forward

    def look(self: RewardTask, ids, mask, rows, columns, labels) -> dict[str, torch.Tensor]:
        hidden: list[torch.Tensor] = []
        layer = next(m for m in self.rewarding.model.base_model.modules() if isinstance(m, torch.nn.Linear))
        hook = layer.register_forward_hook(lambda module, arguments, output: hidden.append(output))
        found = forward(self, ids, mask, rows, columns, labels)
        hook.remove()
        logits = found["logits"].detach()
        assert (logits != logits.bfloat16().float()).any(), "rounded to 8 bits"
        seen.append((hidden[0].dtype, {n: p.detach().clone() for n, p in self.state_dict().items()}))
        return found

    monkeypatch.setattr(RewardTask, "forward", look)
    learned = []
    for base in (reference, half):
        recipe = replace(RECIPE, kind=kind, rank=rank, lr=1e-5)
        card = train_reward(base, traces, traces, recipe, tmp_path / str(base.dtype), "here")
        first, last = seen[0], seen[-1]
        assert all(p.dtype == torch.float32 for p in last[1].values())
        learned.append({n: last[1][n] - first[1][n] for n in first[1]})
        assert first[0] == base.dtype and f"torch.{card['dtype']}" == str(base.dtype)
        seen.clear()
    weights = load_file(tmp_path / "torch.bfloat16" / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    one, other = (torch.cat([d[n].flatten() for n in sorted(d)]) for d in learned)
    assert (other.abs() < 1e-4).all() and torch.cosine_similarity(one, other, dim=0) > 0.7
    with pytest.raises(InputError, match="another recipe \\(dtype\\)"):
        train_reward(
            reference, traces, traces, replace(RECIPE, kind=kind, rank=rank, lr=1e-5), tmp_path / "torch.bfloat16"
        )
    assert open_scorer(half, NAMES[kind].format(tmp_path / "torch.bfloat16"))


def test_the_loss_is_binary_cross_entropy_at_the_steps_that_are_known(
    reference: Backbone, rolled: Path, known: dict
) -> None:
    from trueplex.train.reward import collate

    traces = read_labelled(rolled, reference)
    learner = KINDS["process"](reference, RewardRecipe("process"))
    chosen = [next(t for t in traces if t.values is not None), next(t for t in traces if t.values is None)]
    examples = [learner.example(t) for t in chosen]
    _, worth = chosen[0].values
    assert examples[0].labels == pytest.approx(worth[1:].tolist()) and examples[1].labels == [float(chosen[1].correct)]
    loss = RewardTask(learner.rewarding)(**collate(examples))["loss"].item()
    tag = learner.rewarding.tokenizer("ки")["input_ids"][0]
    plus, minus = (learner.rewarding.tokenizer(w)["input_ids"][0] for w in "+-")
    each = []
    for example in examples:
        logits = learner.rewarding.model(torch.tensor([example.ids])).logits[0]
        for column, label in zip(example.columns, example.labels, strict=True):
            assert example.ids[column] == tag
            good, bad = torch.log_softmax(logits[column, [plus, minus]], 0).tolist()
            each.append(-(label * good + (1 - label) * bad))
    assert loss == pytest.approx(np.mean(each), abs=1e-5)


@pytest.mark.parametrize("kind", ["outcome", *slow(("process", "generative"))])
def test_a_run_that_was_killed_ends_in_the_same_weights(
    reference: Backbone, rolled: Path, known: dict, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = read_labelled(rolled, reference)[:12]
    recipe = replace(RECIPE, kind=kind, every=2, epochs=2, rank=0 if kind == "outcome" else 2)
    train_reward(reference, traces, traces[:4], recipe, tmp_path / "whole")
    forward, calls = RewardTask.forward, 0

    def dies(self: RewardTask, ids, mask, rows, columns, labels) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return forward(self, ids, mask, rows, columns, labels)

    monkeypatch.setattr(RewardTask, "forward", dies)
    with pytest.raises(KeyboardInterrupt):
        train_reward(reference, traces, traces[:4], recipe, tmp_path / "cut")
    monkeypatch.undo()
    train_reward(reference, traces, traces[:4], recipe, tmp_path / "cut")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(InputError, match="another recipe"):
        train_reward(reference, traces, traces, replace(recipe, lr=1e-4), tmp_path / "cut")


@pytest.mark.parametrize(
    "wrong", [{"kind": "best"}, {"rank": -1}, {"lr": 0}, {"steps": "lines"}, {"kind": "process", "steps": "pages"}]
)
def test_recipes_that_cannot_act_are_refused(wrong: dict) -> None:
    with pytest.raises(OptionError, match="Try:"):
        RewardRecipe(**wrong)


@pytest.mark.parametrize(
    "card", ['{"kind": ', "[]", "{}", '{"kind": "best"}', '{"kind": "process", "form": "qwen", "steps": "pages"}']
)
def test_a_damaged_card_of_a_reward_model_is_refused_in_one_line(tmp_path: Path, card: str) -> None:
    (tmp_path / "reward.json").write_text(card)
    with pytest.raises(VerifierError, match=r"card of the reward model in .* cannot be read: .*Try:") as refused:
        card_of(str(tmp_path), "process", "qwen")
    assert "\n" not in str(refused.value)
