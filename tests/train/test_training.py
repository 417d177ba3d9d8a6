"""Training a verifier: exact resume, two processes, and every option doing what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import grown, slow
from trueplex.data.embedded import tasks
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, OptionError, TrueplexError, VerifierError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load, reference_path
from trueplex.models.prompt import make_prompt
from trueplex.solving.rollouts import rollout
from trueplex.solving.settings import Settings
from trueplex.train.common import watch as watch_module
from trueplex.train.common.batches import Labelled, Order, Probes, collate
from trueplex.train.common.footprint import GIB, Footprint
from trueplex.train.common.labels import Worth, labels
from trueplex.train.common.watch import Watch, watched
from trueplex.train.verifier import (
    ProbeTask,
    Recipe,
    by_hardness,
    ranking_loss,
    read_labelled,
    standardise,
    train_verifier,
)
from trueplex.types import Problem, Steps, Trace
from trueplex.verify.base import base_pass
from trueplex.verify.lora import left_out
from trueplex.verify.one_token import OneTokenVerifier, ProbeShape, linear_names
from trueplex.verify.probe import OneTokenScorer, probe_pass, score_stored

RECIPE = Recipe(rank=4, positions=4, batch_size=8, epochs=1, lr=1e-2, every=3)


@pytest.fixture(scope="module")
def traces(qwen: Backbone, tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    """Random traces, right when their first id is even."""

    def odd_or_even(trace: Trace, kind: object) -> None:
        trace.correct = bool(trace.steps.ids[0, 0] % 2 == 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trueplex.solving.run.label", odd_or_even)
        problems = [Problem(f"Problem {i}", answers=("1",)) for i in range(8)]
        settings = Settings(paths=8, thinking=Thinking("discrete", ending=Ending(12)), verifier="none")
        return read_labelled(rollout(qwen, problems, settings, tmp_path_factory.mktemp("r")), qwen)


def trained(qwen: Backbone, traces: list[Labelled], recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    verifier = train_verifier(qwen, traces, traces, recipe, out)
    return {n: p.detach().clone() for n, p in verifier.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all((a[n] - b[n]).abs().max() <= tolerance for n in a)


@pytest.mark.parametrize(
    "recipe",
    [
        *slow([replace(RECIPE, epochs=2)]),
        replace(RECIPE, epochs=2, ranking=0.5, balanced=True),
    ],
)
def test_a_run_that_was_killed_ends_in_the_same_weights(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Golden trajectory: killed in the second epoch, between checkpoints, and taken up again."""
    whole = trained(qwen, traces, recipe, tmp_path / "whole")
    forward, calls = ProbeTask.forward, 0

    def dies(self: ProbeTask, inputs, columns, labels, weights, correct, problems) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 11:
            raise KeyboardInterrupt
        return forward(self, inputs, columns, labels, weights, correct, problems)

    monkeypatch.setattr(ProbeTask, "forward", dies)
    with pytest.raises(KeyboardInterrupt):
        train_verifier(qwen, traces, traces, recipe, tmp_path / "cut")
    monkeypatch.undo()
    again = trained(qwen, traces, recipe, tmp_path / "cut")
    assert same(whole, again)
    with pytest.raises(InputError, match="another recipe"):
        train_verifier(qwen, traces, traces, replace(recipe, lr=1e-3), tmp_path / "cut")


def test_a_run_that_is_at_its_end_learns_no_further(qwen: Backbone, traces: list[Labelled], tmp_path: Path) -> None:
    """Half an epoch ends in its midst, which transformers notices one step late; with best weights kept, as well."""
    for patience in (0, 9):
        out, recipe = tmp_path / str(patience), replace(RECIPE, epochs=0.5, every=2, patience=patience)
        first = trained(qwen, traces, recipe, out)
        steps = sorted(p.name for p in (out / "checkpoints").iterdir())
        assert same(first, trained(qwen, traces, recipe, out))
        assert steps == sorted(p.name for p in (out / "checkpoints").iterdir()) and len(steps) == 2


def test_beside_a_base_in_bfloat16_the_verifier_learns_in_float32(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path
) -> None:
    """The same up to the base's rounding; its live scores are the stored ones."""
    half = load(qwen.name, "cpu", torch.bfloat16)
    learned = []
    for base in (qwen, half):
        torch.manual_seed(RECIPE.seed)
        before = {n: p.detach().clone() for n, p in OneTokenVerifier(qwen, RECIPE.rank).named_parameters()}
        after = trained(base, traces, replace(RECIPE, epochs=2, lr=3e-4, every=99), tmp_path / str(base.dtype))
        assert all(p.dtype == torch.float32 for p in after.values())
        learned.append(torch.cat([(after[n] - before[n]).flatten() for n in sorted(before)]))
    assert torch.cosine_similarity(*learned, dim=0) > 0.7
    verifier = OneTokenVerifier.load(tmp_path / "torch.bfloat16", half)
    assert verifier.card["dtype"] == "bfloat16"
    prompt = make_prompt(Problem("Problem 0"), half)
    scorer = OneTokenScorer(verifier, 4)
    traces = grown(half, [prompt], 3, Thinking("discrete", ending=Ending(12)), scorer=scorer, stride=4)
    for trace, scores in zip(traces, score_stored(verifier, [(prompt.ids, t.steps) for t in traces]), strict=True):
        for tokens, score in trace.scores:
            assert score == pytest.approx(scores[tokens - 1], abs=0.02)


def test_a_run_knows_its_base_and_its_traces(
    qwen: Backbone, backbones: Callable[[str], Backbone], traces: list[Labelled], tmp_path: Path
) -> None:
    """Else it would be certified for what it never saw."""
    trained(qwen, traces, RECIPE, tmp_path)
    for other, what in (
        (traces[8:], "traces"),
        ([replace(traces[0], correct=not traces[0].correct), *traces[1:]], "traces"),
    ):
        with pytest.raises(InputError, match=rf"another recipe \({what}\)"):
            train_verifier(qwen, other, traces, RECIPE, tmp_path)
    with pytest.raises(InputError, match=r"another recipe \(base\)"):
        train_verifier(backbones("qwen2"), traces, traces, RECIPE, tmp_path)


def test_a_checkpoint_that_a_kill_left_unjudged_is_judged(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while judging the best checkpoint: it is the best of the run that goes on, too."""
    figures = {2: 0.9, 4: 0.5, 5: 0.4}
    state = {"calls": 0}

    def judged(verifier: object, *given: object) -> dict[str, float]:
        state["calls"] += 1
        if state["calls"] == 1:
            raise KeyboardInterrupt
        return {
            "within_auroc@1.0": list(figures.values())[min(state["calls"] - 2, 2)],
            "ece@1.0": 0.0,
            "brier@1.0": 0.0,
        }

    monkeypatch.setattr("trueplex.train.verifier.quality", judged)
    recipe = replace(RECIPE, every=2, epochs=0.5, patience=9)
    with pytest.raises(KeyboardInterrupt):
        train_verifier(qwen, traces, traces, recipe, tmp_path)
    trained(qwen, traces, recipe, tmp_path)
    log = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [(r["step"], r["within_auroc@1.0"]) for r in log][:2] == [(2, 0.9), (4, 0.5)]


@pytest.mark.parametrize(
    ("patience", "figures", "killed"),
    [(9, [0.5, 0.9], "_judged"), (1, [0.9, 0.5, 0.4, 0.3], "restore")],
    ids=["judging the last checkpoint", "after patience had ended it"],
)
def test_a_kill_at_the_end_changes_nothing(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, figures: list[float], killed: str
) -> None:  # fmt: skip
    """The last checkpoint was never judged, or a run that had lost patience took one more step."""
    recipe = replace(RECIPE, every=1, epochs=len(figures) / 8, patience=patience)

    def run(out: Path) -> tuple[str, dict[str, torch.Tensor]]:
        log = out / "validation.jsonl"

        def judged(verifier: object, *given: object) -> dict[str, float]:
            done = len(log.read_text().splitlines()) if log.exists() else 0
            return {"within_auroc@1.0": [*figures, 0.0][done], "ece@1.0": 0.0, "brier@1.0": 0.0}

        monkeypatch.setattr("trueplex.train.verifier.quality", judged)
        weights = trained(qwen, traces, recipe, out)
        return log.read_text(), weights

    log, weights = run(tmp_path / "whole")
    assert len(log.splitlines()) == 2
    with monkeypatch.context() as patch:
        own = getattr(Watch, killed)

        def dies(self: Watch, step: int = 2, *given: object) -> object:
            if step == 2:
                raise KeyboardInterrupt
            return own(self, step, *given)

        patch.setattr(Watch, killed, dies)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed")
    again, resumed = run(tmp_path / "killed")
    assert again == log and same(weights, resumed)


def test_what_is_watched_is_whole_problems_of_all(traces: list[Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "WATCHED", 16)
    few = watched(traces)
    assert 8 <= len(few) <= 24 and few[-1].problem != few[0].problem
    assert all(
        sum(t.problem == p for t in few) == sum(t.problem == p for t in traces) for p in {t.problem for t in few}
    )
    problems = list(dict.fromkeys(t.problem for t in traces))
    assert [problems.index(p) for p in dict.fromkeys(t.problem for t in few)][-1] >= len(problems) // 2


CHANGES: list[dict[str, object]] = [
    {"labels": "constant"}, {"loss": "bce"}, {"ranking": 1.0}, {"balanced": True}, {"rank": 0}, {"seed": 1},
    {"labels": "power"}, {"labels": "final", "positions": 1}, {"positions": None}, {"target_modules": ("q_proj", "v_proj")}, {"lr": 1e-3},
]  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES[:6], *slow(CHANGES[6:])], ids=str)
def test_every_option_changes_what_is_learned(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path, change: dict, plain: dict[str, torch.Tensor]
) -> None:
    other = trained(qwen, traces, replace(RECIPE, **change), tmp_path)
    assert not same(plain, other)
    card = json.loads((tmp_path / "verifier.json").read_text())
    assert {"within_auroc@1.0", "ece@1.0", "brier@1.0"} <= card["validation"].keys()
    assert f"- ece@1.0: {card['validation']['ece@1.0']:.3f}" in (tmp_path / "README.md").read_text()
    if "target_modules" in change:
        assert {name.rpartition(".")[2] for name in card["targets"]} == {"q_proj", "v_proj"}
        loaded = OneTokenVerifier.load(tmp_path, qwen)
        assert loaded.targets == card["targets"]
    if change.get("rank") == 0:
        assert {n.split(".")[0] for n in other} == {"probe"}


@pytest.fixture(scope="module")
def plain(qwen: Backbone, traces: list[Labelled], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return trained(qwen, traces, RECIPE, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt_oss"])
def test_recomputing_activations_changes_no_gradient(
    backbones: Callable[[str], Backbone], family: str, tmp_path: Path
) -> None:
    backbone = backbones(family)
    from trueplex.models.prompt import make_prompt

    rng = np.random.default_rng(0)
    ids = rng.integers(9, 200, (10, 1)).astype(np.int32)
    ones = np.ones((10, 1), dtype=np.float32)
    prompt = make_prompt(Problem("Hi"), backbone).ids
    batch_of = [Labelled(prompt, Steps(ids, ones, ones, ones[:, 0], ones[:, 0]), right, 3) for right in (True, False)]
    probes = Probes(batch_of, 5, 0)
    batch = collate(backbone, "ramp")([probes[0], probes[1]])
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        verifier = OneTokenVerifier(backbone, 4)
        task = ProbeTask(verifier, Recipe(gradient_checkpointing=checkpointing))
        task(**batch)["loss"].backward()
        gradients.append({n: p.grad.clone() for n, p in verifier.named_parameters()})
        task.release()
        assert not any(m.training for m in backbone.model.modules())
    assert all(g.abs().max() > 0 for n, g in gradients[0].items() if "lora_B" in n or "probe" in n)
    assert same(gradients[0], gradients[1], 1e-6)


def test_a_head_begins_with_standardised_states_and_ends_with_plain_ones(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the head reads at first is centred; what is saved is a plain head with the same scores."""
    verifier, probes = OneTokenVerifier(qwen, 4), Probes(traces, 4, 0)
    batch = collate(qwen, "ramp")([probes[i] for i in range(len(traces))])
    read: list[torch.Tensor] = []
    standardise(verifier, probes, collate(qwen, "ramp"), 3)
    hook = verifier.probe.head.register_forward_pre_hook(lambda head, given: read.append(given[0].flatten(0, -2)))
    before = probe_pass(verifier, base_pass(qwen, batch["inputs"]), batch["columns"])
    hook.remove()
    assert len(traces) <= 64
    assert read[0].mean(0).abs().max() < 1e-3 and (read[0].std(0) - 1).abs().max() < 0.1
    verifier.fold()
    after = probe_pass(verifier, base_pass(qwen, batch["inputs"]), batch["columns"])
    assert before.abs().max() > 0.1 and torch.allclose(before, after, atol=1e-3, rtol=1e-3)
    assert verifier.center.abs().max() == 0 and (verifier.spread == 1).all()
    folded: list[float] = []
    fold = OneTokenVerifier.fold
    monkeypatch.setattr(OneTokenVerifier, "fold", lambda own: folded.append(float(own.center.abs().max())) or fold(own))
    trained(qwen, traces, RECIPE, tmp_path / "yes")
    trained(qwen, traces, replace(RECIPE, standardise=False), tmp_path / "no")
    assert folded[0] > 0 and folded[1] == 0


def test_patience_stops_early_and_keeps_the_best(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.6, 0.9, 0.8, 0.7, 0.6, 0.5])
    kept: list[dict] = []

    def judged(verifier: OneTokenVerifier, *given: object) -> dict[str, float]:
        kept.append({n: p.detach().clone() for n, p in verifier.named_parameters()})
        return {"within_auroc@1.0": next(figures)}

    monkeypatch.setattr("trueplex.train.verifier.quality", judged)
    best = trained(qwen, traces, replace(RECIPE, epochs=9, patience=2, standardise=False), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [r["within_auroc@1.0"] for r in lines] == [0.6, 0.9, 0.8, 0.7]
    assert same(best, kept[1])


def test_a_probe_of_several_tokens_is_trained_saved_and_loaded(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path
) -> None:
    """Every token learns, and the folder says how many there are; what one token cannot have is refused."""
    recipe = replace(RECIPE, probe_tokens=4, probe_pool="learned")
    weights = trained(qwen, traces, recipe, tmp_path)
    start = qwen.model.get_input_embeddings().weight[: qwen.vocabulary].float().mean(0)
    assert weights["probe.token"].shape == (4, qwen.hidden_size)
    assert ((weights["probe.token"] - start).abs().amax(-1) > 1e-4).all() and weights["probe.pool"].abs().min() > 0
    loaded = OneTokenVerifier.load(tmp_path, qwen)
    assert loaded.shape == ProbeShape(4, False, "learned") and same(dict(loaded.named_parameters()), weights, 0)
    card = json.loads((tmp_path / "verifier.json").read_text())
    del card["checksum"]  # as for every file that is edited by hand
    (tmp_path / "verifier.json").write_text(json.dumps(card | {"probe": {"token": 4}}))
    with pytest.raises(VerifierError, match="layers"):
        OneTokenVerifier.load(tmp_path, qwen)
    for wrong in ({"probe_tokens": 0}, {"probe_tokens": 99}, {"probe_repeated": True}, {"probe_pool": "learned"}):
        with pytest.raises(OptionError, match="Try:"):
            Recipe(**wrong)


def test_soft_labels_are_values_or_what_such_traces_were_worth() -> None:
    ends = np.array([0, 10])
    worth = Worth.of([(10, True, (ends, np.array([0.4, 1.0]))), (10, True, (ends, np.array([0.6, 1.0])))])
    values = np.array([0, 4, 8]), np.array([0.5, 0.25, 0.0])
    assert labels("soft", 8, np.array([3, 7]), True, values, worth).tolist() == [0.25, 0.0]
    assert labels("soft", 20, np.array([9, 19]), True, None, worth).tolist() == pytest.approx([0.75, 1.0])
    assert labels("soft", 20, np.array([9, 19]), False, None, worth).tolist() == pytest.approx([0.25, 0.0])  # the ramp


def test_a_wrong_answer_that_many_share_counts_more(traces: list[Labelled]) -> None:
    answers = ["1", "2", "2", "2", None, "3"]
    some = [replace(traces[0], problem=7, correct=a == "1", answer=a) for a in answers]
    weights = [t.weight for t in by_hardness(some)]
    assert (
        weights[0] == 1
        and weights[1:] == pytest.approx([15 / 11] * 3 + [5 / 11] * 2)
        and sum(weights[1:]) == pytest.approx(5)
    )


def test_spread_positions_lie_one_in_each_part(traces: list[Labelled]) -> None:
    long = [replace(traces[0], steps=Steps(*(np.repeat(a, 100, 0) for a in traces[0].steps.arrays())))]
    probes = Probes(long, 11, 0, spread=True)
    length = len(long[0].steps)
    for probes.epoch in range(5):
        at = probes[0].positions
        assert at[-1] == length - 1 and (at[:-1] * 10 // length).tolist() == list(range(10))


def test_a_verifier_goes_on_from_another(qwen: Backbone, traces: list[Labelled], tmp_path: Path) -> None:
    """What it begins with scores as the other did; of one token come several; another rank is refused."""
    before = trained(qwen, traces, RECIPE, tmp_path / "first")
    still = replace(RECIPE, lr=1e-30, start=str(tmp_path / "first"))
    assert same(trained(qwen, traces, still, tmp_path / "again"), before, 1e-6)
    four = trained(qwen, traces, replace(still, probe_tokens=4), tmp_path / "four")
    assert torch.allclose(four["probe.token"], before["probe.token"].expand(4, -1))
    with pytest.raises(OptionError, match="rank=4"):
        trained(qwen, traces, replace(still, rank=2), tmp_path / "other")


def test_ranking_compares_right_with_wrong_traces_of_one_problem() -> None:
    logits = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, -1.0], [9.0, 9.0]])
    correct = torch.tensor([True, False, True, False])
    problems = torch.tensor([7, 7, 7, 8])
    soft = torch.nn.functional.softplus
    expected = torch.stack([soft(torch.tensor(3.0 - 1)), soft(torch.tensor(0.0)), soft(torch.tensor(3.0 - 2)),
                            soft(torch.tensor(0.0 + 1))]).mean()  # fmt: skip
    assert torch.allclose(ranking_loss(logits, correct, problems), expected)
    assert ranking_loss(logits[:1], correct[:1], problems[:1]) == 0


def test_labels_as_stated() -> None:
    at = np.arange(5)
    assert labels("constant", 5, at, True).tolist() == [1] * 5 and labels("constant", 5, at, False).tolist() == [0] * 5
    assert labels("power", 5, at, True).tolist() == [0.5, 0.53125, 0.625, 0.78125, 1.0]
    for kind in ("ramp", "power"):  # of a right and of a wrong trace, mirrored
        assert np.allclose(labels(kind, 9, np.arange(9), True) + labels(kind, 9, np.arange(9), False), 1)
    with pytest.raises(OptionError, match="unknown labels"):
        Recipe(labels="ladder")


def test_balance_order_and_positions(qwen: Backbone, traces: list[Labelled]) -> None:
    data = Probes(traces, 4, 0, together=True)
    order = Order(data, 8, balanced=True)
    drawn = list(order)
    sides = Counter((traces[i].problem, traces[i].correct) for i in drawn)
    assert len(drawn) == len(order) == len(set(drawn))
    assert all(sides[p, True] == sides[p, False] for p, _ in sides)
    runs = [p for i, p in enumerate(traces[n].problem for n in drawn) if i == 0 or p != traces[drawn[i - 1]].problem]
    assert len(runs) == len(set(runs))  # a problem's traces stand together
    alike: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for i in drawn:
        alike.setdefault((traces[i].problem, len(traces[i].steps)), set()).add(tuple(data[i].positions.tolist()))
    assert all(len(positions) == 1 for positions in alike.values())  # a problem's traces are probed at the same shares
    first = list(order)
    order.set_epoch(1)
    assert first == drawn != list(order)
    assert all(data[i].positions[-1] == len(traces[i].steps) - 1 for i in drawn)
    whole = Order(Probes(traces, None, 0), 8, balanced=False)
    assert sorted(whole) == list(range(len(traces)))
    batch = collate(qwen, "ramp")([Probes(traces, None, 0)[i] for i in range(8)])
    lengths = [len(t.steps) for t in traces[:8]]
    assert batch["weights"].sum(1).tolist() == lengths and batch["columns"].shape[1] == max(lengths)


@pytest.mark.parametrize(
    "options",
    [{"rank": 0, "target_modules": ("q_proj",)}, {"ranking": 1.0, "positions": None}, {"labels": "final"}, {"loss": "mae"},
     {"patience": -1}, {"every": 0}],
)  # fmt: skip
def test_recipes_that_cannot_act_are_refused(options: dict) -> None:
    with pytest.raises(OptionError, match="Try:"):
        Recipe(**options)


def test_unknown_targets_are_refused_with_the_known_ones(qwen: Backbone) -> None:
    with pytest.raises(OptionError, match=r"no linear layer is called 'query'.*q_proj"):
        OneTokenVerifier(qwen, 4, targets=("query",))


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rollouts of the embedded model."""
    settings = Settings(8, Thinking("discrete"), "none")
    return rollout(
        load("reference", "cpu"),
        tasks.problems("remainder-easy", "practice", 12),
        settings,
        tmp_path_factory.mktemp("r"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "weights"),
    [
        ("verifier --positions 4 --every 2 --patience 9", "adapter_model.safetensors"),
        ("reward --kind outcome --every 99", "model.safetensors"),
    ],
    ids=["verifier", "reward"],
)
def test_two_processes_learn_what_one_learns(rolled: Path, tmp_path: Path, trueplex, what: str, weights: str) -> None:
    """torchrun with two CPU processes and the same global batch: the same weights, written once."""
    options = ["train", *what.split(), "--data", str(rolled), "--batch", "8", "--rank", "2",
               "--device", "cpu"]  # fmt: skip
    code, _, said = trueplex(*options, "--out", str(tmp_path / "one"))
    assert code == 0, said
    two = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trueplex",
                          *options, "--out", str(tmp_path / "two")],
                         capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert two.returncode == 0, two.stderr[-2000:]
    a, b = (load_file(tmp_path / name / weights) for name in ("one", "two"))
    assert same(a, b, 2e-4)
    before = load_file(reference_path() / "model.safetensors")
    moved = [(t.float() - before[n].float() if n in before else t).abs().max() for n, t in a.items()]
    assert max(moved) > 1e-3


@pytest.mark.parametrize("most", [3, *slow((4, 1))])
def test_a_batch_that_does_not_fit_is_learned_from_in_parts(
    said: list[str], qwen: Backbone, traces: list[Labelled], tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, whatever fits, and it is said once; where nothing is to be parted, how to fix it.

    Memory runs out in a later part too, when some gradient is there already, and traces count by their lengths.
    """
    recipe = replace(RECIPE, positions=None)
    whole = trained(qwen, traces, recipe, tmp_path / "whole")
    forward, calls = ProbeTask.forward, Counter()

    def small(self: ProbeTask, inputs: torch.Tensor, **others: torch.Tensor) -> dict[str, torch.Tensor]:
        size = len(inputs)
        calls[size] += size > most
        if size > most and (size == RECIPE.batch_size or calls[size] == 2):
            raise torch.OutOfMemoryError("no room")
        return forward(self, inputs, **others)

    monkeypatch.setattr(ProbeTask, "forward", small)
    verifier = train_verifier(qwen, traces, traces, recipe, tmp_path / "parts")
    parted = {n: p.detach().clone() for n, p in verifier.named_parameters()}
    assert same(whole, parted, 2e-4) and len(said) == {4: 1, 3: 2, 1: 3}[most] and "do not fit into memory" in said[0]

    def nothing(self: ProbeTask, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(ProbeTask, "forward", nothing)
    for refused, why in (
        (recipe, "out of memory with 1 trace at once"),
        (replace(RECIPE, ranking=0.5), "8 traces .*keeps a batch whole.*smaller batch"),
    ):
        with pytest.raises(TrueplexError, match=why):
            train_verifier(qwen, traces, traces, refused, tmp_path / str(refused.ranking))
        for module in qwen.model.modules():  # it broke off with its verifier attached
            if hasattr(module.forward, "func"):
                module.forward = module.forward.args[0]


def test_what_lora_leaves_out_is_said(backbones: Callable[[str], Backbone]) -> None:
    assert "2 fused tensors" in left_out(backbones("qwen3_moe").model.model.layers[0]) and not left_out(
        backbones("qwen3").model
    )
    assert {"shared_expert.up_proj", "shared_expert_gate"} <= {
        ".".join(n.split(".")[-2:]).replace("mlp.", "") for n in linear_names(backbones("qwen2_moe"))
    }


# -- a budget of memory ---------------------------------------------------------------------------


def test_a_batch_is_read_in_parts_that_fit_the_budget(qwen: Backbone, traces: list[Labelled], tmp_path: Path) -> None:
    """The same weights, and every part within the budget by the estimate."""
    recipe, footprint = replace(RECIPE, positions=None, epochs=1.0), Footprint.of(qwen)
    whole = trained(qwen, traces, recipe, tmp_path / "whole")
    longest = max(traces, key=len)
    budget = 3 * footprint.row(len(longest), len(longest.steps))
    sizes: list[int] = []
    forward = ProbeTask.forward

    def noted(self: ProbeTask, inputs: torch.Tensor, **others: torch.Tensor) -> dict[str, torch.Tensor]:
        sizes.append(len(inputs))
        assert len(inputs) * footprint.row(inputs.shape[1], others["columns"].shape[1]) <= budget
        return forward(self, inputs, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProbeTask, "forward", noted)
        parted = trained(qwen, traces, replace(recipe, memory=budget / GIB), tmp_path / "parts")
    assert max(sizes) < recipe.batch_size and sum(sizes) == len(traces)
    assert same(whole, parted, 2e-4)


def test_a_budget_below_one_trace_is_refused_with_the_figures(
    qwen: Backbone, traces: list[Labelled], tmp_path: Path
) -> None:
    for change, what in (
        ({}, "the longest trace takes"),
        ({"ranking": 0.5}, "a batch of 8 traces, which cannot be split"),
    ):
        with pytest.raises(
            OptionError,
            match=rf"{what}.* GiB in training \(\d+ tokens, \d+ probes each\) and memory is .*Try: more memory",
        ):
            train_verifier(qwen, traces, traces, replace(RECIPE, memory=1e-6, **change), tmp_path / what[:9])


@pytest.mark.parametrize(
    ("change", "grows"), [({"size": 4}, 1.4), ({"layers": 8}, 1.8), ({"recomputed": True}, 0.0)], ids=str
)
def test_the_estimate_follows_the_sizes(change: dict, grows: float) -> None:
    plain = Footprint(4, 64, 128, 4, 2, 16, 2, 1, 0, True, False)
    other = replace(plain, **change)
    before, after = plain.row(400, 100), other.row(400, 100)
    assert after > grows * before if grows else after < before
    assert plain.row(400, 100, learning=False) < plain.row(400, 100) < plain.row(800, 100) < plain.row(800, 200)
    assert plain.parts([(400, 100)] * 8, 3 * plain.row(400, 100)) == 3 and plain.parts([(400, 100)] * 8, 1) == 8
