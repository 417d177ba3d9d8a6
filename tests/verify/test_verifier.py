"""The laws of probing, and a verifier's life: attach, score, train, save, load, refuse."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

import trueplex
from conftest import FAMILIES, LIKE_OTHERS, SEED, agree, grown, prompts_for, slow
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, StoreError, VerifierError
from trueplex.models import hub
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Solved, stream
from trueplex.solving.rollouts import rollout
from trueplex.solving.settings import Settings
from trueplex.train.common.labels import labels
from trueplex.train.verifier import ProbeTask, Recipe, read_labelled, train_verifier
from trueplex.types import Problem, Trace
from trueplex.verify.one_token import OneTokenVerifier, ProbeShape
from trueplex.verify.open import open_scorer
from trueplex.verify.probe import OneTokenScorer, base_pass, pad_inputs, probe_pass, score_stored

MULTIPLEX = Thinking("multiplex", 3, ending=Ending(24))
SEEDS = (SEED, 0)


SHAPES = (ProbeShape(), ProbeShape(2), ProbeShape(4), ProbeShape(4, repeated=True, pool="learned"))


def random_verifier(backbone: Backbone, rank: int = 4, shape: ProbeShape = SHAPES[0]) -> OneTokenVerifier:
    """A verifier whose LoRA really acts: a fresh one adds exactly nothing."""
    torch.manual_seed(3)
    verifier = OneTokenVerifier(backbone, rank, shape=shape)
    for name, parameter in verifier.named_parameters():
        if "lora_B" in name or "token" in name or "pool" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return verifier


LAYERS = ("qwen3", "gemma3_text", "gpt_oss")  # plain attention, sliding windows, and sinks


@pytest.fixture(
    params=[pytest.param((f, SHAPES[0]), marks=pytest.mark.slow if f in LIKE_OTHERS else ()) for f in FAMILIES]
    + [(f, s) for f in LAYERS for s in SHAPES[1:]],
    ids=lambda one: f"{one[0]}-{one[1].tokens}-{one[1].pool}",
)
def verifier(backbones: Callable[[str], Backbone], request: pytest.FixtureRequest) -> OneTokenVerifier:
    """Of every family with one probe token; of some with several, and with one that is repeated and pooled."""
    family, shape = request.param
    return random_verifier(backbones(family), shape=shape)


@pytest.fixture
def qwen_verifier(qwen: Backbone) -> OneTokenVerifier:
    return random_verifier(qwen)


def decode(backbone: Backbone, verifier: OneTokenVerifier | None, stride: int = 1, seed: int = SEED) -> list[Trace]:
    scorer = OneTokenScorer(verifier, stride) if verifier else None
    traces = grown(backbone, prompts_for(backbone), 3, MULTIPLEX, scorer=scorer, stride=stride, seed=seed)
    return sorted(traces, key=lambda t: (t.problem.text, t.index))


def test_law_5_the_traces_are_the_same_with_and_without_a_verifier(backbone: Backbone) -> None:
    """Equal draws over several seeds, but for near-ties.

    A probe column changes the shapes of matrix products and so the rounding of logits, by about 1e-6. A uniform that
    near to the border of two tokens is met about once in 300 traces of this length; one of 18 is allowed.
    """
    ties, prompts = 0, {p.problem.text: p for p in prompts_for(backbone)}
    for seed, shape in zip(SEEDS, (SHAPES[0], SHAPES[2]), strict=True):
        verifier = random_verifier(backbone, shape=shape)
        for a, b in zip(decode(backbone, None, seed=seed), decode(backbone, verifier, seed=seed), strict=True):
            assert a.probe_tokens == 0 and b.probe_tokens == shape.tokens * b.tokens and b.tokens == len(b.scores)
            ties += not agree(prompts[a.problem.text], a, b, backbone)
    assert ties <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_law_5_live_scores_are_stored_scores_at_every_position(verifier: OneTokenVerifier, seed: int) -> None:
    backbone = verifier.backbone
    prompts = {p.problem.text: p.ids for p in prompts_for(backbone)}
    traces = decode(backbone, verifier, seed=seed)
    stored = score_stored(verifier, [(prompts[t.problem.text], t.steps) for t in traces], chunk=7)
    for trace, scores in zip(traces, stored, strict=True):
        assert [at for at, _ in trace.scores] == list(range(1, trace.tokens + 1))
        assert np.abs(np.array([s for _, s in trace.scores]) - scores).max() < 1e-4
        assert np.ptp(scores) > 1e-3  # a constant score would agree with anything


@pytest.mark.parametrize("seed", SEEDS)
def test_law_5_a_coarser_cadence_reads_the_same_scores_and_every_last_token(
    qwen_verifier: OneTokenVerifier, seed: int
) -> None:
    backbone = qwen_verifier.backbone
    ties, prompts = 0, {p.problem.text: p for p in prompts_for(backbone)}
    for a, b in zip(decode(backbone, qwen_verifier, 1, seed), decode(backbone, qwen_verifier, 5, seed), strict=True):
        assert b.scores[-1][0] == b.tokens
        if not agree(prompts[a.problem.text], a, b, backbone):
            ties += 1
            continue
        for at, score in b.scores:
            assert score == pytest.approx(dict(a.scores)[at], abs=1e-4)
    assert ties <= 1


def test_law_6_a_loaded_verifier_leaves_the_base_as_it_was(backbone: Backbone, tmp_path: Path) -> None:
    """Bit for bit: loaded, attached, after a probe, and after one that failed."""
    ids = torch.tensor([prompts_for(backbone)[0].ids], device=backbone.device)

    def logits() -> torch.Tensor:
        return backbone.model(input_ids=ids).logits

    before, names = logits(), set(backbone.model.state_dict())
    random_verifier(backbone, shape=SHAPES[2]).save(tmp_path)
    loaded = OneTokenVerifier.load(tmp_path, backbone)
    assert torch.equal(logits(), before) and set(backbone.model.state_dict()) == names
    with loaded.attached():
        assert torch.equal(logits(), before)
        with loaded.probing(1):
            assert not torch.equal(logits(), before)
        assert torch.equal(logits(), before)
    with pytest.raises(RuntimeError, match="broken off"), loaded.probing(1):
        raise RuntimeError("broken off")
    assert torch.equal(logits(), before)


def test_law_6_verifiers_on_one_base_come_and_go_in_any_order(qwen: Backbone) -> None:
    ids = torch.tensor([prompts_for(qwen)[0].ids], device=qwen.device)
    verifiers = [random_verifier(qwen, rank) for rank in (2, 4, 4)]

    def probed(verifier: OneTokenVerifier) -> torch.Tensor:
        with verifier.probing(1):
            return qwen.model(input_ids=ids).logits

    before, hooks, own = qwen.model(input_ids=ids).logits, hooks_alive(), hooks_on(qwen.model)
    alone = [probed(v) for v in verifiers]
    assert hooks_on(qwen.model) == own
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        uses = [v.attached() for v in verifiers]
        for use in uses:
            use.__enter__()
        with verifiers[0].attached():  # twice is as once
            assert hooks_on(qwen.model) == own + sum(len(v.targets) + 1 for v in verifiers)
        for left, gone in enumerate(order):
            assert all(torch.equal(probed(v), logits) for v, logits in zip(verifiers, alone, strict=True))
            uses[gone].__exit__(None, None, None)
            rest = [len(verifiers[i].targets) + 1 for i in order[left + 1 :]]
            assert hooks_on(qwen.model) == own + sum(rest)
            assert torch.equal(qwen.model(input_ids=ids).logits, before)
    assert hooks_alive() == hooks


def hooks_alive() -> int:
    """How many hooks are on modules, anywhere in the process: seconds, where many tests have run."""
    gc.collect()
    return sum(_hooks(thing) for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Module))


def hooks_on(model: torch.nn.Module) -> int:
    """The same on one model."""
    return sum(map(_hooks, model.modules()))


def _hooks(module: torch.nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


@pytest.mark.parametrize("columns", [1, 3])
def test_a_recomputed_forward_pass_probes_what_it_probed_at_first(
    qwen_verifier: OneTokenVerifier, columns: int
) -> None:
    """The backward pass comes when nothing, or something else, is being probed."""
    layer = qwen_verifier.backbone.model.get_submodule(qwen_verifier.targets[0])
    x = torch.randn(2, 5, layer.in_features, generator=torch.Generator().manual_seed(0)).to(
        qwen_verifier.backbone.device
    )

    def gradients(run: Callable[[], torch.Tensor], later: int) -> list[torch.Tensor]:
        qwen_verifier.zero_grad()
        with qwen_verifier.probing(columns):
            out = run()
        with qwen_verifier.probing(later):
            out.square().sum().backward()
        return [p.grad.clone() for p in qwen_verifier.adapters.parameters() if p.grad is not None]

    plain = gradients(lambda: layer(x).tanh(), 0)

    def again() -> torch.Tensor:
        return checkpoint(lambda x: layer(x).tanh(), x, use_reentrant=False, context_fn=qwen_verifier.recomputing)

    for later in (0, 2, 5):
        found = gradients(again, later)
        assert len(found) == len(plain) == 2 and all(map(torch.equal, found, plain))
    assert all(g.abs().sum() > 0 for g in plain)


@pytest.mark.parametrize("seed", (SEEDS[0], *slow(SEEDS[1:])))
def test_law_7_the_parallel_pass_and_its_gradients_are_those_of_one_probe_at_a_time(
    verifier: OneTokenVerifier, seed: int
) -> None:
    backbone = verifier.backbone
    prompts = {p.problem.text: p.ids for p in prompts_for(backbone)}
    traces = [(prompts[t.problem.text], t.steps) for t in decode(backbone, None, seed=seed)[::3]]
    inputs, lengths = pad_inputs(backbone, traces)
    columns = torch.tensor([[int(n) - 1 - 3 * i for i in range(6)] for n in lengths], device=backbone.device)
    targets = torch.rand(columns.shape, generator=torch.Generator().manual_seed(seed)).to(backbone.device)

    together = probe_pass(verifier, base_pass(backbone, inputs), columns)
    (torch.sigmoid(together) - targets).square().mean().backward()
    gradients = {n: p.grad.clone() for n, p in verifier.named_parameters()}
    verifier.zero_grad()

    alone = torch.zeros_like(together)
    for row in range(len(traces)):
        for i, column in enumerate(columns[row].tolist()):
            base = base_pass(backbone, inputs[row : row + 1, : column + 1])
            alone[row, i] = probe_pass(verifier, base, columns[row : row + 1, i : i + 1])[0, 0]
    (torch.sigmoid(alone) - targets).square().mean().backward()
    assert (together - alone).abs().max() < 1e-4
    for name, parameter in verifier.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-5), name
    assert all(g.abs().sum() > 0 for n, g in gradients.items() if "v_proj" not in n)
    assert all(p.grad is None for p in backbone.model.parameters())


def test_the_folder_is_a_peft_adapter(qwen_verifier: OneTokenVerifier, folder, tmp_path: Path) -> None:
    """PEFT reads it onto a base that has a `probe`, and computes what we compute when every row is adapted."""
    from peft import PeftModel

    verifier, backbone = qwen_verifier, qwen_verifier.backbone
    verifier.save(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(folder("qwen3"))
    base.probe = type(verifier.probe)(backbone.hidden_size)
    model = PeftModel.from_pretrained(base, tmp_path).eval().to(backbone.device)
    ids = torch.tensor([prompts_for(backbone)[0].ids], device=backbone.device)
    with verifier.probing(ids.shape[1]):
        ours = backbone.model(input_ids=ids).logits
    assert torch.allclose(model(input_ids=ids).logits, ours, atol=1e-4)
    plain = backbone.model(input_ids=ids).logits
    assert not torch.allclose(plain, ours, atol=1e-2)
    assert torch.equal(base.probe.modules_to_save["default"].token, verifier.probe.token)


def test_a_verifier_is_had_from_the_hub_by_its_id(
    qwen_verifier: OneTokenVerifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights and its cards alone; without a network, what is at hand."""
    backbone, asked = qwen_verifier.backbone, []
    qwen_verifier.save(tmp_path / "snapshot")

    def download(name: str, allow_patterns: tuple[str, ...], local_files_only: bool) -> str:
        asked.append((name, allow_patterns, local_files_only))
        if name != "some/verifier":
            raise RuntimeError("404: no such repository")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "answers", lambda: False)
    monkeypatch.chdir(tmp_path)
    scorer = open_scorer(backbone, "some/verifier")
    assert scorer.fingerprint == qwen_verifier.fingerprint
    assert asked == [("some/verifier", hub.VERIFIER, True)] and not any("*" in p for p in hub.VERIFIER)
    assert {p.name for p in (tmp_path / "snapshot").iterdir()} <= set(hub.VERIFIER)
    with pytest.raises(VerifierError, match=r"'some/other' is no folder, and cannot be had from the hub .404.*Try:"):
        open_scorer(backbone, "some/other")
    qwen_verifier.save(tmp_path / "here" / "verifier")
    open_scorer(backbone, "here/verifier")  # a folder of that name comes first
    assert len(asked) == 2


def test_a_verifier_is_refused_by_another_base_and_when_broken(
    qwen_verifier: OneTokenVerifier, backbones, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    qwen_verifier.save(good)
    with pytest.raises(VerifierError, match="trained for base model"):
        OneTokenVerifier.load(good, backbones("llama"))
    with pytest.raises(VerifierError, match="is not a verifier"):
        OneTokenVerifier.load(tmp_path / "none", qwen_verifier.backbone)
    for name in ("adapter_model.safetensors", "verifier.json"):
        broken = tmp_path / f"broken-{name}"
        shutil.copytree(good, broken)
        (broken / name).write_bytes((good / name).read_bytes()[:100])
        with pytest.raises(VerifierError, match="cannot be read"):
            OneTokenVerifier.load(broken, qwen_verifier.backbone)
    card = json.loads((good / "verifier.json").read_text())
    del card["checksum"]
    (good / "verifier.json").write_text(json.dumps(card | {"rank": 2}))
    with pytest.raises(VerifierError, match="layers of the verifier"):
        OneTokenVerifier.load(good, qwen_verifier.backbone)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    qwen_verifier: OneTokenVerifier, tmp_path: Path, value: float
) -> None:
    qwen_verifier.save(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    before = weights.read_bytes()
    with torch.no_grad():
        qwen_verifier.probe.head.bias[0] = value
    with pytest.raises(VerifierError, match=r"not saved: its weights are not finite \(.*head.bias\)\. Try:"):
        qwen_verifier.save(tmp_path)
    assert weights.read_bytes() == before
    save_file(load_file(weights) | {"base_model.model.probe.token": torch.full((64,), value)}, weights)
    with pytest.raises(VerifierError, match=r"weights that are not finite \(.*probe.token\)\. Try:"):
        OneTokenVerifier.load(tmp_path, qwen_verifier.backbone)


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"rank": "4"}, 'rank is "4"'), ({"rank": -1}, "rank is negative"), ({"alpha": float("nan")}, "NaN"), ({"targets": 5}, "read"),
     ({"targets": ["no_such_proj"]}, "layers"), ({"base_fingerprint": 5}, "base_fingerprint is 5"),
     ({"base_fingerprint": "another"}, "trained for"), ({"weights": "others"}, "not those that its verifier.json")],
)  # fmt: skip
def test_a_card_that_makes_no_sense_is_refused_in_one_line(
    qwen_verifier: OneTokenVerifier, tmp_path: Path, changed: dict, why: str
) -> None:
    qwen_verifier.save(tmp_path)
    card = json.loads((tmp_path / "verifier.json").read_text())
    (tmp_path / "verifier.json").write_text(json.dumps(card | changed))
    with pytest.raises(VerifierError, match=r"checksum does not match|has changed|not valid JSON"):
        OneTokenVerifier.load(tmp_path, qwen_verifier.backbone)
    del card["checksum"]
    (tmp_path / "verifier.json").write_text(json.dumps(card | changed))
    with pytest.raises(VerifierError, match=why) as refused:
        OneTokenVerifier.load(tmp_path, qwen_verifier.backbone)
    assert "\n" not in str(refused.value) and "Try:" in str(refused.value)


# -- a verifier is loaded once and shared -------------------------------------------------------------


def test_the_same_folder_gives_the_same_verifier_until_its_files_change(qwen: Backbone, tmp_path: Path) -> None:
    first, second = random_verifier(qwen), random_verifier(qwen, 2)
    first.save(tmp_path / "v")
    (tmp_path / "link").symlink_to(tmp_path / "v")
    loaded = OneTokenVerifier.load(tmp_path / "v", qwen)
    assert OneTokenVerifier.load(tmp_path / "link", qwen) is loaded and loaded.fingerprint == first.fingerprint
    assert not any(p.requires_grad for p in loaded.parameters())
    second.save(tmp_path / "v")
    changed = OneTokenVerifier.load(tmp_path / "v", qwen)
    assert changed is not loaded and changed.fingerprint == second.fingerprint != loaded.fingerprint
    other = load(qwen.name, str(qwen.device), qwen.dtype)
    assert OneTokenVerifier.load(tmp_path / "v", other).backbone is other  # another model has its own


def test_a_model_is_freed_with_the_verifiers_that_were_loaded_for_it(qwen: Backbone, tmp_path: Path) -> None:
    random_verifier(qwen).save(tmp_path)
    model = load(qwen.name, "cpu", qwen.dtype)
    alive = [weakref.ref(model.model), weakref.ref(OneTokenVerifier.load(tmp_path, model))]
    del model
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


@pytest.mark.slow
def test_solving_over_and_over_leaves_nothing_behind(qwen: Backbone, tmp_path: Path) -> None:
    """300 calls once took five times as long each, and 990 ended in a RecursionError: each attached one more verifier."""
    random_verifier(qwen).save(tmp_path)

    def alive() -> tuple[int, int, int]:
        hooks, things = hooks_alive(), gc.get_objects()
        return hooks, sum(type(t) is OneTokenVerifier for t in things), len(things)

    def solve() -> float | None:
        short = Thinking("discrete", ending=Ending(2))
        return (
            trueplex.solve(qwen, "Hi", paths=1, thinking=short, verifier=str(tmp_path), probe_every=1).traces[0].score
        )

    score = solve()
    assert {solve() for _ in range(4)} == {score}
    hooks, verifiers, things = alive()
    assert {solve() for _ in range(60)} == {score} and score is not None
    now = alive()
    assert now[:2] == (hooks, verifiers) and now[2] - things < 60  # not one object a call


def test_labels_run_from_one_half_to_the_outcome() -> None:
    assert labels("ramp", 5, np.arange(5), True).tolist() == [0.5, 0.625, 0.75, 0.875, 1.0]
    assert labels("ramp", 5, np.arange(5), False).tolist() == [0.5, 0.375, 0.25, 0.125, 0.0]
    assert labels("ramp", 1, np.array([0]), True).tolist() == [0.5]


def test_live_pruning_retires_by_score_and_counts_probes(qwen_verifier: OneTokenVerifier) -> None:
    settings = Settings(paths=8, thinking=Thinking("discrete", ending=Ending(32)), prune="half:8", probe_every=8)
    events = list(
        stream(qwen_verifier.backbone, [Problem("What is 2 + 2?")], settings, OneTokenScorer(qwen_verifier, 8))
    )
    (solution,) = [e.solution for e in events if isinstance(e, Solved)]
    pruned = [t for t in solution.traces if t.status.value == "pruned"]
    ended = [t for t in solution.traces if t.status.value != "pruned"]
    at_eight = [t for t in solution.traces if t.tokens >= 8]
    assert len(pruned) >= 5 and all(t.tokens % 8 == 0 for t in pruned)
    first_out = [t for t in pruned if t.tokens == 8]
    assert len(first_out) == len(at_eight) // 2
    assert max(t.score for t in first_out) <= min(dict(t.scores)[8] for t in at_eight if t not in first_out)
    usage = solution.usage
    assert usage.probe_tokens == sum(len(t.scores) for t in solution.traces)
    assert usage.thinking_tokens + usage.answer_tokens == sum(t.tokens for t in solution.traces)
    assert usage.saved_tokens > 0 and ended


@pytest.fixture
def rollouts(qwen: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random traces with labels that can be read from them: right when the first id is even."""

    def odd_or_even(trace: Trace, kind: object) -> None:
        trace.correct = bool(trace.steps.ids[0, 0] % 2 == 0)

    monkeypatch.setattr("trueplex.solving.run.label", odd_or_even)
    problems = [Problem(f"Problem {i}", answers=("1",)) for i in range(12)]
    settings = Settings(paths=8, thinking=Thinking("discrete", ending=Ending(90, stop=("7",))), verifier="none")
    return rollout(qwen, problems, settings, tmp_path / "rollouts")


def test_training_lowers_the_loss_resumes_and_saves_what_it_trained(
    qwen: Backbone, rollouts: Path, tmp_path: Path
) -> None:
    traces = read_labelled(rollouts, qwen)
    assert len(traces) == 96
    before = {n: p.clone() for n, p in qwen.model.named_parameters()}
    recipe = Recipe(rank=4, positions=4, batch_size=16, epochs=12, lr=1e-2)
    verifier = train_verifier(qwen, traces, traces, recipe, tmp_path / "v")
    card = json.loads((tmp_path / "v" / "verifier.json").read_text())
    assert card["validation"]["within_auroc@1.0"] > 0.8
    assert all(torch.equal(before[n], p) for n, p in qwen.model.named_parameters())
    wanted = score_stored(verifier, [(t.prompt, t.steps) for t in traces[:4]])
    again = OneTokenVerifier.load(tmp_path / "v", qwen)
    for a, b in zip(wanted, score_stored(again, [(t.prompt, t.steps) for t in traces[:4]]), strict=True):
        assert np.abs(a - b).max() < 1e-6


def test_traces_that_cannot_teach_are_refused(qwen: Backbone, backbones, tmp_path: Path) -> None:
    problems = [Problem("Hi", answers=("1",))]
    settings = Settings(paths=2, thinking=Thinking("discrete", ending=Ending(90, stop=("7",))), verifier="none")
    out = rollout(qwen, problems, settings, tmp_path / "r")
    with pytest.raises(InputError, match="0 right"):
        read_labelled(out, qwen)
    with pytest.raises(StoreError, match="traces of model"):
        read_labelled(out, backbones("llama"))
    with pytest.raises(InputError, match="no answers"):
        rollout(qwen, [Problem("Hi")], settings, tmp_path / "s")
    with pytest.raises(StoreError, match="cannot read"):
        read_labelled(tmp_path / "nothing", qwen)


def test_the_task_is_one_module_with_one_loss(qwen_verifier: OneTokenVerifier) -> None:
    task = ProbeTask(qwen_verifier, Recipe())
    trainable = {n for n, p in task.named_parameters() if p.requires_grad}
    assert trainable == {f"verifier.{n}" for n, _ in qwen_verifier.named_parameters()}


def test_a_probe_beside_a_shared_prompt_reads_the_same_score(verifier: OneTokenVerifier) -> None:
    """One problem alone takes the shared-prefix path; among others its traces take the plain one."""
    backbone = verifier.backbone
    among = {(t.problem.text, t.index): t for t in decode(backbone, verifier)}
    prompt = prompts_for(backbone)[1]
    for trace in grown(backbone, [prompt], 3, MULTIPLEX, scorer=OneTokenScorer(verifier, 1), stride=1):
        other = among[prompt.problem.text, trace.index]
        assert np.array_equal(trace.steps.ids, other.steps.ids)
        assert np.allclose([s for _, s in trace.scores], [s for _, s in other.scores], atol=1e-4)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tokens", "dtype", "near"),
    [
        (4, 2, 1, torch.float32, 1e-5),
        (3, 3, 1, torch.float32, 1e-5),
        (4, 2, 4, torch.float32, 1e-5),
        (4, 1, 1, torch.bfloat16, 0.05),
        (4, 1, 2, torch.bfloat16, 0.05),
    ],
)
def test_the_fused_attention_of_probes_and_its_gradients_are_those_of_the_plain_one(
    heads: int, kv_heads: int, tokens: int, dtype: torch.dtype, near: float
) -> None:
    """Also where a probe sees nothing but itself, and rows differ in what they see."""
    from trueplex.models import attention_probe as probing

    torch.manual_seed(0)
    rows, probes, columns, size = 3, 7 * tokens, 40, 16

    def drawn(count: int, length: int) -> torch.Tensor:
        return torch.randn(rows, count, length, size).to(dtype)

    query, key, value = (drawn(n, probes).requires_grad_() for n in (heads, kv_heads, kv_heads))
    base_key, base_value = drawn(kv_heads, columns), drawn(kv_heads, columns)
    seen = torch.randint(1, columns, (rows, 1, probes, 1))
    seen[0, 0, 0] = 0
    mask = torch.zeros(rows, 1, probes, columns, dtype=dtype)
    mask.masked_fill_(torch.arange(columns) >= seen, torch.finfo(dtype).min)
    extras, slope = probing.Extras(size**-0.5, None, None), torch.randn(rows, probes, heads, size).to(dtype)
    results = []
    for way in (probing.plain, probing.probe):
        out = way(probing.Own(query, key, value, tokens), base_key, base_value, mask, extras)
        results.append((out, *torch.autograd.grad(out, (query, key, value), slope)))
    assert "Fused" in str(results[1][0].grad_fn.next_functions[0][0].next_functions[0][0].name())
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= near * max(1.0, float(one.abs().max().detach()))
    # Latent attention has values of another size than its keys, which the kernel does not take.
    narrow = (probing.Own(query, key, value[..., :8], tokens), base_key, base_value[..., :8], mask, extras)
    assert torch.equal(probing.probe(*narrow), probing.plain(*narrow))
