"""Training a policy: exact resume, two processes, what cannot be learned from, and every option doing what it says."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trueplex.data.traces import read_traces
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, ModelError, OptionError, TrueplexError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load, reference_path
from trueplex.train.common import sharded
from trueplex.train.grpo import rewards, watch
from trueplex.train.grpo import update as policy_update
from trueplex.train.grpo.batches import Rollout
from trueplex.train.grpo.journal import flat, sample_page
from trueplex.train.grpo.loss import Clip
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.train.grpo.sampling import problems_of_step, sample
from trueplex.train.grpo.train import train_policy
from trueplex.train.grpo.watch import cheating, judgement, picture, record, signs
from trueplex.types import Problem

THINKING = Thinking("multiplex", 3, ending=Ending(14, think_tokens=10, stop=("e",)))  # ragged
EVEN = f"{__name__}:even"
RECIPE = PolicyRecipe(
    THINKING, steps=4, prompts=4, samples=4, lr=1e-3, every=2, val_samples=1, rewards=(EVEN,), keep_rollouts=2
)
PROBLEMS = [Problem(f"Problem {i}: {'more ' * (i % 3)}", f"{'ab'[i % 2]}/{i}", ("1",)) for i in range(10)]
Weights = dict[str, torch.Tensor]


def even(
    prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[list[int]], **columns: Any
) -> list[float]:
    """A reward of TRL's signature: the share of even words."""
    assert len(prompts) == len(completions) == len(columns["answers"])
    return [float(np.mean([i % 2 == 0 for i in ids])) for ids in completion_ids]


@pytest.fixture(scope="module")
def fresh(folder: Callable[[str], Path]) -> Callable[[], Backbone]:
    return lambda: load(str(folder("qwen3")), "cpu", torch.float32)


def trained(fresh: Callable[[], Backbone], recipe: PolicyRecipe, out: Path,
            problems: Sequence[Problem] = PROBLEMS) -> Weights:  # fmt: skip
    reference = fresh() if recipe.kl and not recipe.rank else None
    folder = train_policy(fresh(), problems, PROBLEMS[:2], recipe, out, reference)
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def same(a: Weights, b: Weights, tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all((a[n] - b[n]).abs().max() <= tolerance for n in a)


def lines(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k and k != "checksum"} for row in rows]


@pytest.fixture(scope="module")
def plain(fresh: Callable[[], Backbone], tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Path]:
    out = tmp_path_factory.mktemp("plain")
    return trained(fresh, RECIPE, out), out


@pytest.fixture(scope="module")
def once(fresh: Callable[[], Backbone], tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return trained(fresh, replace(RECIPE, steps=1), tmp_path_factory.mktemp("once"))


# -- never lose a run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe", [RECIPE, replace(RECIPE, rank=4, kl=0.1, epochs=2, minibatches=2, warmup=3)], ids=["whole", "lora"]
)
@pytest.mark.slow
def test_a_run_that_was_killed_ends_in_the_same_weights(
    fresh: Callable[[], Backbone], tmp_path: Path, recipe: PolicyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between checkpoints, in the middle of a step, and taken up again: weights, figures and rollouts."""
    whole = trained(fresh, recipe, tmp_path / "whole")
    update, calls = policy_update.Learner.update, 0

    def dies(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3 * recipe.updates + 1:
            raise KeyboardInterrupt
        return update(*arguments)

    monkeypatch.setattr(policy_update.Learner, "update", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(fresh, recipe, tmp_path / "cut")
    monkeypatch.undo()
    assert same(whole, trained(fresh, recipe, tmp_path / "cut"))
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert lines(tmp_path / "whole" / name) == lines(tmp_path / "cut" / name)
    kept = [sorted(p.name for p in (tmp_path / n / "rollouts").iterdir()) for n in ("whole", "cut")]
    assert kept[0] == kept[1] == ["step-000003.arrow", "step-000004.arrow"]
    with pytest.raises(InputError, match=r"another configuration \(lr\)"):
        trained(fresh, replace(recipe, lr=1e-2), tmp_path / "cut")
    with pytest.raises(InputError, match="the model or the problems"):
        trained(fresh, recipe, tmp_path / "cut", problems=PROBLEMS[1:])
    with pytest.raises(InputError, match="the model or the problems"):
        trained(fresh, recipe, tmp_path / "cut", problems=[*PROBLEMS[:9], replace(PROBLEMS[9], answers=("2",))])


@pytest.mark.parametrize("state", [None, "", '{"global_step": 4'], ids=["none", "empty", "cut off"])
def test_a_checkpoint_that_a_kill_cut_off_is_passed_over(
    said: list[str], fresh: Callable[[], Backbone], plain: tuple[Weights, Path], tmp_path: Path, state: str | None
) -> None:
    weights, folder = plain
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "checkpoint-4" / "trainer_state.json").unlink()
    if state is not None:
        (tmp_path / "run" / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text(state)
    assert same(weights, trained(fresh, RECIPE, tmp_path / "run"))
    assert [s.split(":")[0] for s in said if "reward" in s] == ["step 3/4", "step 4/4"]  # from the one before


def test_counts_go_on_after_a_kill(fresh: Callable[[], Backbone], tmp_path: Path) -> None:
    trained(fresh, replace(RECIPE, steps=2, rewards=("correct",)), tmp_path)
    trained(fresh, replace(RECIPE, steps=4, rewards=("correct",)), tmp_path)
    assert [row["silent"] for row in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("rank", [0, 4], ids=["whole", "lora"])
def test_what_validated_best_is_kept(
    said: list[str], fresh: Callable[[], Backbone], tmp_path: Path, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, rank=rank)
    halfway = trained(fresh, replace(recipe, steps=2), tmp_path / "halfway")
    rights = iter((0.4, 0.5, 0.3))
    said.clear()
    monkeypatch.setattr(
        "trueplex.train.grpo.train.judgement", lambda records: judgement(records) | {"right": next(rights)}
    )
    last = trained(fresh, recipe, tmp_path / "run")
    (file,) = (tmp_path / "run" / "best").rglob("*.safetensors")
    assert same(load_file(file), halfway) and not same(last, halfway)
    assert [s for s in said if "best so far" in s] == [s for s in said if s.startswith("step 2: validation")]


def test_what_a_run_leaves(plain: tuple[Weights, Path], fresh: Callable[[], Backbone]) -> None:
    weights, out = plain
    learned, base = load(str(out / "model"), "cpu"), fresh()
    assert same({n: p for n, p in learned.model.state_dict().items() if n in weights}, weights)
    assert learned.fingerprint != base.fingerprint and learned.instruction == base.instruction
    assert learned.default_max_tokens == base.default_max_tokens
    figures = lines(out / "metrics.jsonl")
    assert [f["step"] for f in figures] == [1, 2, 3, 4]
    assert set(figures[0]["reward_by_suite"]) == {"a", "b"} and figures[0]["traces"] == 16
    timed = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert set(timed["seconds"]) == {"rollout", "grading", "forward", "backward", "all"}
    assert figures[0]["joint_entropy"] > figures[0]["entropy"] > 0 and figures[0]["drift"] == 0
    assert [j["step"] for j in lines(out / "validation.jsonl")] == [0, 2, 4]
    assert list((out / "tensorboard").iterdir())
    traces = list(read_traces(out / "rollouts" / "step-000004.arrow"))
    assert len(traces) == 16 and all(t.steps is not None for t, _ in traces)


def test_an_adapter_is_plain_peft(fresh: Callable[[], Backbone], folder: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = replace(RECIPE, rank=2, target_modules=("q_proj", "v_proj"))
    backbone = fresh()
    train_policy(backbone, PROBLEMS, PROBLEMS[:2], recipe, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder("qwen3"), dtype=torch.float32)
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert {n.rpartition(".")[2] for n in loaded.peft_config["default"].target_modules} == {"q_proj", "v_proj"}
    ids = torch.arange(9, 30)[None]
    ours, theirs = backbone.model(input_ids=ids).logits, loaded(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    merged = load(str(tmp_path / "adapter"), "cpu")
    assert (
        torch.allclose(merged.model(input_ids=ids).logits, ours, atol=1e-5)
        and merged.fingerprint != fresh().fingerprint
    )
    with loaded.disable_adapter():
        assert (loaded(input_ids=ids).logits - theirs).abs().max() > 1e-4


def test_beside_a_base_in_bfloat16_adapters_learn_in_float32(folder: Callable[[str], Path], tmp_path: Path) -> None:
    """What drew is read again by the training pass, so the ratio is 1 though rollouts were decoded in bfloat16."""
    base = load(str(folder("qwen3")), "cpu", torch.bfloat16)
    out = train_policy(base, PROBLEMS, PROBLEMS[:2], replace(RECIPE, rank=4, steps=2), tmp_path)
    learned = load_file(out / "adapter_model.safetensors")
    assert all(w.dtype == torch.float32 for w in learned.values())
    assert any(w.abs().max() > 1e-4 for n, w in learned.items() if "lora_B" in n)
    assert {p.dtype for n, p in base.model.named_parameters() if "lora" not in n} == {torch.bfloat16}
    assert [row["drift"] for row in lines(tmp_path / "metrics.jsonl")] == [0.0, 0.0]
    with pytest.raises(ModelError, match=r"bfloat16 would lose small updates.*Try: float32 weights"):
        train_policy(
            load(str(folder("qwen3")), "cpu", torch.bfloat16), PROBLEMS, PROBLEMS[:2], RECIPE, tmp_path / "whole"
        )


# -- the update -----------------------------------------------------------------------------------


def test_the_reward_rises(fresh: Callable[[], Backbone], tmp_path: Path) -> None:
    trained(fresh, replace(RECIPE, steps=8, lr=1e-2, samples=8, every=8), tmp_path)
    rewards = [f["reward"] for f in lines(tmp_path / "metrics.jsonl")]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1


@pytest.mark.parametrize(
    "change", [{"micro_tokens": 40}, {"gradient_checkpointing": True}, {"max_batch_size": 4}], ids=str
)
def test_how_it_is_computed_changes_nothing(
    fresh: Callable[[], Backbone], tmp_path: Path, once: Weights, change: dict
) -> None:
    """Adam makes a step of ± lr of a gradient that is nearly 0, so a few weights may differ by a step."""
    other = trained(fresh, replace(RECIPE, steps=1, **change), tmp_path)
    apart = torch.cat([(other[n] - once[n]).abs().flatten() for n in once])
    assert apart.median() < 1e-7 and (apart > 1e-5).float().mean() < 0.01


CHANGES: list[dict[str, Any]] = [
    {"thinking": replace(THINKING, merge="mean")}, {"thinking": Thinking("discrete", ending=THINKING.ending)}, {"prompts": 2},
    {"samples": 3}, {"lr": 2e-3}, {"warmup": 2}, {"epochs": 2}, {"minibatches": 2}, {"norm": "none", "max_norm": 9.0},
    {"aggregation": "trace"}, {"aggregation": "constant", "max_norm": 9.0}, {"kl": 1.0, "steps": 2}, {"seed": 1},
    {"max_norm": 1e-3, "steps": 2}, {"epochs": 3, "clip": Clip(1e-4, 1e-4)},
]  # fmt: skip


@pytest.mark.parametrize(
    "change", [pytest.param(c, marks=pytest.mark.slow if n % 3 else ()) for n, c in enumerate(CHANGES)], ids=str
)
def test_every_option_changes_what_is_learned(
    fresh: Callable[[], Backbone], tmp_path: Path, once: Weights, plain: tuple[Weights, Path], change: dict
) -> None:
    other = trained(fresh, replace(RECIPE, **{"steps": 1, **change}), tmp_path)
    if len(change) == 2 and "steps" not in change:  # each of the two makes a difference of its own
        for name, value in change.items():
            less = trained(fresh, replace(RECIPE, steps=1, **{name: value}), tmp_path / name)
            assert not same(other, less, 1e-7), f"{change.keys() - {name}} changed nothing"
    if "steps" in change:  # at the first there is no divergence yet, and Adam does not see a gradient's size
        twice = load_file(plain[1] / "checkpoints" / "checkpoint-2" / "model.safetensors")
        assert not same({n: twice[n] for n in other}, other, 1e-7)
    else:
        assert not same(other, once, 1e-7)


def test_several_updates_use_the_policy_that_drew(
    fresh: Callable[[], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`old` is what the engine drew with, for every rollout and every pass, however far the weights have moved."""
    seen: list[float] = []
    update = policy_update.Learner.update

    def looks(self: Any, model: Any, rollouts: list[Rollout], totals: Any) -> Any:
        outcome = update(self, model, rollouts, totals)
        for r in rollouts:
            if r.old is not None:
                drawn = torch.from_numpy(r.trace.steps.weights > 0)
                drawn[r.trace.thinking_tokens - 1] = False
                apart = (r.old - torch.from_numpy(r.trace.steps.logps)).masked_fill(~drawn, 0.0)
                seen.append(apart.abs().max().item())
        return outcome

    monkeypatch.setattr(policy_update.Learner, "update", looks)
    recipe = replace(RECIPE, steps=1, epochs=2, minibatches=2)
    trained(fresh, recipe, tmp_path)
    assert len(seen) == 2 * 16 and max(seen) < 1e-5
    assert lines(tmp_path / "metrics.jsonl")[0]["drift"] > 0


def test_no_forward_is_done_twice(
    fresh: Callable[[], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one update a step, a rollout is read once, and not at all when its group has nothing to tell."""
    read: list[int] = []
    log_probs = policy_update.log_probs
    monkeypatch.setattr(
        policy_update, "log_probs", lambda m, batch: (read.append(len(batch.rollouts)), log_probs(m, batch))[1]
    )
    monkeypatch.setattr(
        rewards, "grade", lambda traces, functions, kind: [float(i in (0, 5)) for i in range(len(traces))]
    )
    trained(fresh, replace(RECIPE, steps=1), tmp_path)
    assert sum(read) == 8  # two of the four groups


# -- what cannot be learned from ------------------------------------------------------------------


def test_problems_without_answers_are_refused_when_the_grader_is_the_reward(
    fresh: Callable[[], Backbone], tmp_path: Path
) -> None:
    blank = [replace(p, answers=None) for p in PROBLEMS[:6]] + PROBLEMS[6:]
    with pytest.raises(InputError, match="6 of 10 problems have no answers"):
        trained(fresh, replace(RECIPE, rewards=("correct",)), tmp_path, problems=blank)
    trained(fresh, replace(RECIPE, steps=1), tmp_path, problems=blank)  # a reward that needs none


def test_a_reward_that_is_not_there_leaves_the_folder_free(fresh: Callable[[], Backbone], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no_such_module"):
        trained(fresh, replace(RECIPE, rewards=("no_such_module:reward",)), tmp_path)
    trained(fresh, replace(RECIPE, steps=1), tmp_path)  # another recipe, in the same folder


def test_equal_rewards_are_said_and_nothing_moves(
    said: list[str], fresh: Callable[[], Backbone], tmp_path: Path
) -> None:
    weights = trained(fresh, replace(RECIPE, steps=2, rewards=("correct",)), tmp_path)
    assert sum("all rewards are equal in every group" in s for s in said) == 2
    before = fresh().model.state_dict()
    assert all(torch.equal(before[n], w) for n, w in weights.items())
    assert lines(tmp_path / "metrics.jsonl")[-1]["silent"] == 2


def test_what_is_not_finite_is_skipped_counted_and_ends_the_run(
    said: list[str], fresh: Callable[[], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is not, and a gradient that is not of a loss that is: neither moves anything."""
    loss_of, calls = policy_update.Learner._loss, 0

    def breaks(self: Any, model: Any, chosen: Any, totals: Any, sums: Any, counts: bool) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = loss_of(self, model, chosen, totals, sums, counts)
        if calls != 2 and calls < 4:
            return loss
        if calls == 2:
            sums["loss"] = math.nan
            return loss * math.nan
        return loss + (next(model.parameters()).sum() * 0).sqrt()  # whose slope at 0 is infinite, times 0

    monkeypatch.setattr(policy_update.Learner, "_loss", breaks)
    with pytest.raises(TrueplexError, match="2 updates in a row had no finite gradient"):
        trained(fresh, replace(RECIPE, steps=9, most_skipped=2, every=9), tmp_path)
    assert sum("not finite; the update is skipped" in s for s in said) == 3
    assert lines(tmp_path / "metrics.jsonl")[-1]["skipped"] == 3
    monkeypatch.undo()
    kept = load_file(tmp_path / "checkpoints" / "checkpoint-5" / "model.safetensors")
    assert all(torch.isfinite(t).all() for t in kept.values())
    trained(fresh, replace(RECIPE, steps=6, most_skipped=2, every=9), tmp_path)  # it can be taken up again


def test_out_of_memory_says_what_to_do(
    fresh: Callable[[], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(policy_update, "log_probs", full)
    with pytest.raises(TrueplexError, match=r"out of memory in the forward.*micro_tokens"):
        trained(fresh, RECIPE, tmp_path)


def test_too_few_problems(fresh: Callable[[], Backbone], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="3 problems are fewer than the 4 prompts"):
        trained(fresh, RECIPE, tmp_path, problems=PROBLEMS[:3])


# -- rewards --------------------------------------------------------------------------------------


def test_rewards_by_name_and_what_they_may_give(
    qwen: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = sample(qwen, PROBLEMS[:2], 2, THINKING, 0, None)
    assert rewards.grade(traces, {"correct": rewards.load("correct")}) == [0, 0, 0, 0]
    traces[1].answer, traces[2].answer = "1", "{1"  # right, and one that nobody can read
    for trace in traces:
        trace.correct = None
    given = rewards.grade(traces, {"correct": rewards.load("correct")})
    assert given[:2] == [0, 1] and [t.correct for t in traces[:2]] == [False, True]
    (tmp_path / "mine.py").write_text(
        "def short(prompts, completions, tokens, **_):\n    return [None, 1, -t, 0] if (t := 2) else 0\n"
    )
    monkeypatch.chdir(tmp_path)
    both = rewards.grade(traces, {n: rewards.load(n) for n in ("correct", "mine:short")})
    assert both[:2] == [0, 2]  # summed over those that can tell
    assert math.isnan(rewards.grade(traces, {"mine:short": rewards.load("mine:short")})[0])
    for name, why in (
        ("mine:long", "no function 'long'"),
        ("yours:short", "cannot import"),
        ("short", "unknown reward"),
    ):
        with pytest.raises(OptionError, match=why):
            rewards.load(name)

    def turned(completions: list[str], prompts: list[str], **_: Any) -> list[float]:
        """TRL calls by name, so a reward may list them in any order, or not all."""
        assert prompts[0] == traces[0].problem.text and completions[0] == traces[0].text
        return [0.5] * len(prompts)

    assert rewards.grade(traces, {"turned": turned}) == [0.5] * 4
    assert rewards.grade(traces, {"one": lambda completions, **_: [1.0] * len(completions)}) == [1.0] * 4
    with pytest.raises(InputError, match=r"the reward 'mine' failed: TypeError.*take \*\*columns"):
        rewards.grade(traces, {"mine": lambda prompts, completions: [1.0] * len(completions)})
    for values, why in (([1], "1 values for 4 traces"), (["x"] * 4, "no numbers"), ([math.inf] * 4, "gave inf")):
        with pytest.raises(InputError, match=why):
            rewards.grade(traces, {"odd": lambda prompts, completions, values=values, **_: values})


# -- watching -------------------------------------------------------------------------------------


def test_the_picture_of_a_step(qwen: Backbone) -> None:
    traces = sample(qwen, PROBLEMS[:2], 2, Thinking("multiplex", 3, ending=Ending(14, think_tokens=10)), 0, None)
    traces[1] = replace(traces[0], index=1, correct=True)
    rollouts = [Rollout(t, (1,), i // 2, float(i)) for i, t in enumerate(traces)]
    seen = picture([record(r) for r in rollouts])
    assert seen["duplicates"] == 0.5 and seen["reward"] == 1.5 and seen["right"] == 0.25
    assert seen["reward_by_suite"] == {"a": 0.5, "b": 2.5} and seen["truncated"] == 1.0 and seen["unthought"] == 0.0
    thought = traces[0].steps.entropy[: traces[0].thinking_tokens]
    one = record(rollouts[0])
    assert one.entropy == pytest.approx(thought.mean()) and one.joint_entropy == pytest.approx(
        (np.append(np.full(len(thought) - 1, 3), 1) * thought).mean(), rel=1e-5
    )
    judged = judgement([record(r) for r in rollouts])
    assert judged["right"] == 0.25 and judged["problems"] == 2
    text = sample_page(7, rollouts)
    assert text.index("reward 3") < text.index("reward 2") < text.index("reward 1") and "Problem 1" in text
    hasty = replace(traces[0], thinking_tokens=1, tokens=6)
    assert watch.record_of(hasty, 0).unthought


def test_alarms() -> None:
    first = {"truncated": 0.1, "duplicates": 0.0, "unthought": 0.0, "entropy": 1.0, "tokens": 100.0, "clipped": 0.0}
    assert signs(first, first) == {}
    odd = {
        "truncated": 0.6,
        "duplicates": 0.9,
        "unthought": 0.5,
        "entropy": 0.05,
        "tokens": 20.0,
        "clipped": 0.9,
        "kl": 2.0,
    }
    assert set(signs(odd, {**first, "kl": 0.0})) == set(odd)

    def judged(*pairs: tuple[float, float | None]) -> list[dict[str, Any]]:
        return [{"right": right, "error": 0.02, "reward": reward} for right, reward in pairs]

    assert not cheating(judged((0.5, None)))
    assert cheating(judged((0.5, None), (0.6, 0.5), (0.4, 0.7)))
    assert not cheating(judged((0.5, None), (0.6, 0.5), (0.57, 0.7)))  # within the error
    assert not cheating(judged((0.5, None), (0.6, 0.5), (0.4, 0.4)))  # the reward falls too
    assert cheating(judged((0.6, None), (0.55, 0.5), (0.5, 0.6)))  # slowly, over two judgements


def test_a_rising_reward_with_falling_validation_leaves_a_page(
    said: list[str], fresh: Callable[[], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling = iter([0.9, 0.5, 0.1])
    monkeypatch.setattr("trueplex.train.grpo.train.judgement", lambda records: {"right": next(falling), "error": 0.01})
    rising = iter(range(99))
    monkeypatch.setattr(rewards, "grade", lambda traces, functions, kind: [next(rising) for _ in traces])
    trained(fresh, RECIPE, tmp_path)
    assert any("ALARM at step 4: the reward rises while validation falls" in s for s in said)
    assert lines(tmp_path / "alarms.jsonl")[-1]["sign"] == "validation"
    assert "reward 63" in (tmp_path / "alarms" / "step-000004.md").read_text()


def test_figures_and_problems_of_a_step() -> None:
    assert flat({"step": 3, "a": {"b": 1, "c": None}, "d": 2.0}) == [("a/b", 1.0), ("d", 2.0)]
    steps = [problems_of_step(10, 3, 5, s) for s in range(6)]
    assert all(len({i for s in steps[e : e + 3] for i in s}) == 9 for e in (0, 3)) and steps[:3] != steps[3:]
    assert steps == [problems_of_step(10, 3, 5, s) for s in range(6)]


# -- two processes --------------------------------------------------------------------------------

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
FSDP = {  # what `accelerate launch --use_fsdp --fsdp_version 2` sets
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}  # fmt: skip
WAYS: dict[str, tuple[list[str], dict[str, str]]] = {
    "one": (["-m", "trueplex"], {}),
    "data parallel": ([*TORCHRUN, "-m", "trueplex"], {}),
    "fsdp": ([*TORCHRUN, str(Path(__file__).with_name("fsdp_on_cpu.py"))], FSDP),
}


MINE = """
import atexit, os, pathlib

def even(prompts, completions, completion_ids, **_):
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]

@atexit.register
def threads_left():
    found = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    pathlib.Path("threads-" + os.environ.get("RANK", "0")).write_text(" ".join(found))
"""


def launched(way: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Four updates of the embedded model by the command line; micro-batches are small, so that processes have unlike numbers."""
    (folder / "mine.py").write_text(MINE)
    launch, own = WAYS[way]
    command = [sys.executable, *launch, "train", "policy", "--data", "chain-easy", "--problems", "16", "--val-problems", "2", "--val-samples", "1",
               "--steps", "2", "--prompts", "4", "--samples", "3", "--minibatches", "2", "--reward", "mine:even", "--lr", "1e-4",
               "--max-tokens", "60", "--micro-tokens", "160", "--every", "1", *options]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **own}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    done = launched("one", out, "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("way", ["data parallel", "fsdp"])
def test_two_processes_learn_what_one_learns(alone: Path, way: str, tmp_path: Path) -> None:
    """torchrun with two CPU processes and the same global batch: one set of weights, whole, written once."""
    done = launched(way, tmp_path, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (alone, tmp_path))
    figures = [lines(folder / "metrics.jsonl") for folder in (alone, tmp_path)]
    for a, b in zip(*figures, strict=True):
        assert a["reward_by_suite"] == pytest.approx(b["reward_by_suite"]) and a["tokens"] == b["tokens"]
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["gradient"] == pytest.approx(
            b["gradient"], rel=1e-3
        )
    if way == "data parallel":  # gloo's threads, alive in the interpreter's last moments, can abort the process
        assert not any("gloo" in (tmp_path / f"threads-{rank}").read_text() for rank in range(2))
    assert one.keys() == two.keys()
    apart = torch.cat([(one[n] - two[n]).abs().flatten() for n in one])
    assert apart.max() < 5e-4 and (apart > 1e-5).float().mean() < 0.01
    before = load_file(reference_path() / "model.safetensors")
    assert any((before[n].float() - w).abs().max() > 1e-4 for n, w in one.items())
    if way == "fsdp":  # broken off after the first step, and taken up from its sharded checkpoint
        shutil.rmtree(tmp_path / "model")
        shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-4")
        assert launched(way, tmp_path, "--out", str(tmp_path)).returncode == 0
        again = load_file(tmp_path / "model" / "model.safetensors")
        assert all(torch.equal(again[n], two[n]) for n in two)


@pytest.mark.slow
def test_an_adapter_learns_under_fsdp_as_alone(tmp_path: Path) -> None:
    """LoRA with a divergence from the first weights, which are the same model without its adapter."""
    adapters = []
    for way in ("one", "fsdp"):
        (tmp_path / way).mkdir()
        done = launched(way, tmp_path / way, "--out", str(tmp_path / way), "--rank", "4", "--kl", "0.1")
        assert done.returncode == 0, done.stderr[-3000:]
        adapters.append(load_file(tmp_path / way / "adapter" / "adapter_model.safetensors"))
    one, two = adapters
    assert one.keys() == two.keys() and all((one[n] - two[n]).abs().max() < 5e-4 for n in one)
    assert any(w.abs().max() > 1e-4 for n, w in one.items() if "lora_B" in n)


@pytest.mark.parametrize(("kind", "stage", "what"), [("FSDP", None, "FSDP 1"), ("DEEPSPEED", 3, "ZeRO 3")])
def test_weights_that_cannot_be_gathered_are_refused(kind: str, stage: int | None, what: str) -> None:
    state = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage))
    accelerator = SimpleNamespace(distributed_type=DistributedType[kind], is_fsdp2=False, state=state)
    with pytest.raises(OptionError, match=f"rollouts cannot use weights that {what} has sharded. Try"):
        sharded.check(accelerator)
    accelerator.is_fsdp2, state.deepspeed_plugin.zero_stage = True, 2
    sharded.check(accelerator)
