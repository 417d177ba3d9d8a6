"""GRPO as stated: advantages, ratios, clips and means, against plain twins, finite differences and TRL."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import SEED
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.train.grpo.batches import Rollout, collate, micro_batches
from trueplex.train.grpo.loss import Clip, Totals, advantages, kl, kl_penalty, policy_loss, step_weights, surrogate
from trueplex.train.grpo.reading import log_probs
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.train.grpo.sampling import sample
from trueplex.train.grpo.weights import release, trainable
from trueplex.types import Problem

ENDING = Ending(24, think_tokens=16)  # so that every trace has answer steps
WAYS = {"discrete": Thinking("discrete", ending=ENDING), "weighted": Thinking("multiplex", 3, ending=ENDING),
        "mean": Thinking("multiplex", 3, "mean", ending=ENDING)}  # fmt: skip
PROBLEMS = [
    Problem("What is 2 + 2?", "a/1", ("4",)),
    Problem("Find it: what is the sum of three and four?", "b/1", ("7",)),
]


# -- pure functions -------------------------------------------------------------------------------


def test_advantages_are_those_of_the_group_alone() -> None:
    rewards = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [1, np.nan, 0, np.nan], [np.nan] * 4])
    std = advantages(rewards)
    assert np.allclose(std[0], (rewards[0] - 0.25) / (rewards[0].std(ddof=1) + 1e-6))
    assert (std[1] == 0).all() and (std[3] == 0).all()
    assert np.allclose(std[2], [math.sqrt(0.5), 0, -math.sqrt(0.5), 0], atol=1e-5)
    assert np.allclose(advantages(rewards, "none")[0], [0.75, -0.25, -0.25, -0.25])
    assert (advantages(np.full((1, 8), 0.1)) == 0).all()  # whose mean, in floats, is not 0.1


def test_the_clip_holds_where_it_should() -> None:
    """Every case by hand: ratios below, within, above and far above the clip, for both signs of the advantage."""
    ratios = [0.5, 0.9, 1.0, 1.1, 1.5, 5.0]
    clip = Clip(0.2, 0.3, 3.0)
    new = torch.tensor(ratios).log().view(1, -1, 1).requires_grad_()
    for gain, objective, held in (
        (2.0, [1.0, 1.8, 2.0, 2.2, 2.6, 2.6], [0, 0, 0, 0, 1, 1]),
        (-2.0, [-1.6, -1.8, -2.0, -2.2, -3.0, -6.0], [1, 0, 0, 0, 0, 1]),
    ):
        loss, clipped = surrogate(new, torch.zeros_like(new), torch.tensor([gain]), clip)
        assert torch.allclose(-loss.flatten(), torch.tensor(objective), atol=1e-6)
        assert clipped.flatten().int().tolist() == held
        (slope,) = torch.autograd.grad(loss.sum(), new)
        expected = torch.tensor([0.0 if h else -gain * r for h, r in zip(held, ratios, strict=True)])
        assert torch.allclose(slope.flatten(), expected, atol=1e-5)
    far = surrogate(torch.full((1, 1, 1), 90.0), torch.zeros(1, 1, 1), torch.tensor([-1.0]), Clip(dual=None))
    assert far.loss.item() == pytest.approx(math.exp(20))


def test_kl_is_its_estimate_and_never_negative() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, generator=generator).double()
    new, reference = logits.log_softmax(-1)
    each = kl(new, reference)
    exact = (new.exp() * (new - reference)).sum()
    assert (each >= 0).all() and torch.allclose((new.exp() * each).sum(), exact)
    assert (kl(new, new) == 0).all()


def test_the_gradient_of_the_penalty_is_that_of_the_divergence() -> None:
    """Summed over all words as a policy draws them; without the ratio it would be another one."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(20, generator=generator).double().log_softmax(-1)
    logits = torch.randn(20, generator=generator).double().requires_grad_()
    new = logits.log_softmax(-1)
    (wanted,) = torch.autograd.grad((new.exp() * (new - reference)).sum(), logits, retain_graph=True)
    old = new.detach()
    (got,) = torch.autograd.grad((old.exp() * kl_penalty(new, old, reference)).sum(), logits)
    assert torch.allclose(got, wanted, atol=1e-12)


def test_what_counts_alike_in_the_loss() -> None:
    totals = Totals(traces=2, steps=10, most=20)
    assert torch.allclose(step_weights([2, 8], "token", totals), torch.tensor([0.1, 0.1]))
    assert torch.allclose(step_weights([2, 8], "trace", totals), torch.tensor([0.25, 0.0625]))
    assert torch.allclose(step_weights([2, 8], "constant", totals), torch.tensor([0.025, 0.025]))
    slots, drawn = torch.ones(2, 4, 3), torch.zeros(2, 4, 3, dtype=torch.bool)
    drawn[0, 1], drawn[1, 3, 0] = True, True
    assert policy_loss(slots, drawn, torch.tensor([1.0, 10.0])) == 13


@pytest.mark.parametrize("wrong", [{"low": 0.0}, {"low": 1.0}, {"high": -1.0}, {"dual": 1.1}])
def test_clips_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(OptionError, match="Try:"):
        Clip(**wrong)


# -- on a model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(folder: Callable[[str], Path]) -> Callable[[str], Backbone]:
    return lambda family: load(str(folder(family)), "cpu", torch.float32)


@pytest.fixture(scope="module")
def learner(fresh: Callable[[str], Backbone]) -> Iterator[tuple[Backbone, torch.nn.Module]]:
    """A tiny model in which all weights can learn."""
    backbone = fresh("qwen3")
    model = trainable(backbone, PolicyRecipe())
    yield backbone, model
    release(backbone, model, PolicyRecipe())


def rolled(backbone: Backbone, thinking: Thinking) -> list[Rollout]:
    """Two groups of three rollouts with advantages of both signs."""
    traces = sample(backbone, PROBLEMS, 3, thinking, SEED, None)
    gains = [1.0, -0.5, -0.5, 0.7, 0.3, -1.0]
    return [
        Rollout(t, make_prompt(t.problem, backbone).ids, i // 3, 0.0, gain)
        for i, (t, gain) in enumerate(zip(traces, gains, strict=True))
    ]


FAMILIES = ["llama", "mistral", "gemma2", "gpt_oss", "gemma3_text"]


@pytest.mark.parametrize(("way", "family"), [*((w, "qwen3") for w in WAYS), *(("weighted", f) for f in FAMILIES)])
def test_law_8_the_ratio_is_one_at_step_0(fresh: Callable[[str], Backbone], family: str, way: str) -> None:
    """Training log-probabilities, in padded micro-batches, are those that the engine drew with."""
    backbone = fresh(family)
    model = trainable(backbone, PolicyRecipe())
    rollouts = rolled(backbone, WAYS[way])
    batches = micro_batches(rollouts, 100)
    assert len(batches) > 1 and sorted(map(id, rollouts)) == sorted(id(r) for b in batches for r in b)
    for micro in batches:
        assert len(micro) * max(map(len, micro)) <= 100 or len(micro) == 1
        batch = collate(micro, WAYS[way], backbone.device)
        drew = batch.scatter([torch.from_numpy(r.trace.steps.logps) for r in micro])
        ratio = (log_probs(model, batch) - drew).exp()[batch.drawn]
        assert (ratio - 1).abs().max() < 1e-5


def test_what_was_not_drawn_does_not_count(learner: tuple[Backbone, torch.nn.Module]) -> None:
    """K slots while thinking, slot 0 of an answer's step, and nothing of a `</think>` that was written."""
    backbone, _ = learner
    rollouts = rolled(backbone, WAYS["weighted"])
    batch = collate(rollouts, WAYS["weighted"], backbone.device)
    for row, rollout in enumerate(rollouts):
        trace = rollout.trace
        start, thought = batch.starts[row], trace.thinking_tokens
        per_step = batch.drawn[row].sum(-1).tolist()
        inner = per_step[start : start + trace.tokens]
        assert sum(per_step) == sum(inner)
        assert trace.closing == "thinking budget" and inner[thought - 1] == 0
        assert inner[: thought - 1] == [3] * (thought - 1) and inner[thought:] == [1] * trace.answer_tokens
    assert any(len(set(step)) < 3 for r in rollouts for step in r.trace.steps.ids[:10].tolist())  # duplicates occur


def plain_loss(backbone: Backbone, model: torch.nn.Module, rollouts: list[Rollout], way: Thinking, clip: Clip,
               aggregation: str) -> torch.Tensor:  # fmt: skip
    """The plain twin: a loop over traces, steps and slots, by the words of the paper."""
    table, out = model.get_input_embeddings(), []
    for r in rollouts:
        steps = r.trace.steps
        rows = [table(torch.tensor(i)) for i in r.prompt]
        rows += [sum(float(w) * table(torch.tensor(int(i))) for i, w in zip(ids, ws, strict=True))
                 for ids, ws in zip(steps.ids, steps.weights, strict=True)]  # fmt: skip
        logits = model(inputs_embeds=torch.stack(rows)[None], use_cache=False).logits[0]
        terms = []
        for t in range(len(steps)):
            p = logits[len(r.prompt) - 1 + t].float().softmax(-1)
            step = torch.zeros(())
            for k in range(steps.ids.shape[1]):
                answering = t >= r.trace.thinking_tokens
                if (answering and k > 0) or t == r.trace.thinking_tokens - 1:  # written, not drawn
                    continue
                ratio = p[int(steps.ids[t, k])] / math.exp(float(r.old[t, k]))
                bounded = ratio.clamp(1 - clip.low, 1 + clip.high)
                gain = min(ratio * r.advantage, bounded * r.advantage)
                step = step - (max(gain, torch.tensor(clip.dual * r.advantage)) if r.advantage < 0 else gain)
            terms.append(step)
        out.append(sum(terms))
    lengths = [r.trace.tokens for r in rollouts]
    if aggregation == "token":
        return sum(out) / sum(lengths)
    if aggregation == "trace":
        return sum(o / n for o, n in zip(out, lengths, strict=True)) / len(out)
    return sum(out) / (len(out) * 24)


def fast_loss(backbone: Backbone, model: torch.nn.Module, rollouts: list[Rollout], way: Thinking, clip: Clip,
              aggregation: str) -> torch.Tensor:  # fmt: skip
    totals = Totals(len(rollouts), sum(r.trace.tokens for r in rollouts), 24)
    loss = torch.zeros(())
    for micro in micro_batches(rollouts, 150):
        batch = collate(micro, way, backbone.device)
        new = log_probs(model, batch)
        gains = torch.tensor([r.advantage for r in micro])
        each = surrogate(new, batch.scatter([r.old for r in micro]), gains, clip)
        weights = step_weights([r.trace.tokens for r in micro], aggregation, totals)
        loss = loss + policy_loss(each.loss, batch.drawn, weights)
    return loss


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("way", "aggregation"), [*((w, "token") for w in WAYS), ("weighted", "trace"), ("weighted", "constant")]
)
def test_loss_and_gradient_are_the_plain_ones(
    learner: tuple[Backbone, torch.nn.Module], way: str, aggregation: str
) -> None:
    backbone, model = learner
    rollouts = rolled(backbone, WAYS[way])
    generator = torch.Generator().manual_seed(0)
    for r in rollouts:  # policies apart, so that every branch of the clip acts
        logps = torch.from_numpy(r.trace.steps.logps)
        r.old = logps + torch.randn(logps.shape, generator=generator) * 0.7
    plain = plain_loss(backbone, model, rollouts, WAYS[way], Clip(), aggregation)
    wanted = gradients(model, plain)
    loss = fast_loss(backbone, model, rollouts, WAYS[way], Clip(), aggregation)
    got = gradients(model, loss)
    assert loss.item() == pytest.approx(plain.item(), abs=1e-5)
    assert got.keys() == wanted.keys() and "model.embed_tokens.weight" in got
    scale = max(g.abs().max() for g in wanted.values())
    worst = {n: (got[n] - wanted[n]).abs().max().item() for n in got}
    assert max(worst.values()) < 1e-5 * max(1, scale), (worst, scale)
    assert scale > 1e-3


@pytest.mark.parametrize("way", list(WAYS))
def test_gradient_is_that_of_finite_differences(fresh: Callable[[str], Backbone], way: str) -> None:
    """In double precision, along random directions, embedding included, at ratio 1 and away from it."""
    backbone = fresh("qwen3")
    rollouts = rolled(backbone, WAYS[way])
    model = trainable(backbone, PolicyRecipe())
    model.double()
    clip = Clip(0.9, 9.0, 90.0)  # finite differences know no corners
    for shift in (0.0, 0.1):
        for r in rollouts:
            r.old = torch.from_numpy(r.trace.steps.logps) + shift

        def loss() -> torch.Tensor:
            return fast_loss(backbone, model, rollouts, WAYS[way], clip, "token")

        found = gradients(model, loss())
        parameters = dict(model.named_parameters())
        for number, name in enumerate(
            ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight")
        ):
            generator = torch.Generator().manual_seed(number)
            direction = torch.randn(found[name].shape, generator=generator, dtype=torch.float64)
            if "embed" in name:  # transformers lets no gradient into the padding word where it is read
                direction[backbone.tokenizer.pad_token_id] = 0
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameters[name].add_(direction, alpha=sign * 1e-3)
                    values.append(loss().item())
                    parameters[name].sub_(direction, alpha=sign * 1e-3)
            slope = (values[0] - values[1]) / 2e-3
            assert slope == pytest.approx((found[name] * direction).sum().item(), rel=2e-2, abs=2e-4)


TRL_LOSSES = {"token": "dapo", "trace": "grpo", "constant": "dr_grpo"}


@pytest.mark.parametrize("aggregation", list(TRL_LOSSES))
def test_with_one_sample_a_step_it_is_trls(
    fresh: Callable[[str], Backbone], folder: Callable[[str], Path], aggregation: str, tmp_path: Path
) -> None:
    """Loss and gradient of TRL's GRPOTrainer on the same batch, with clips, dual clip and divergence."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    backbone, way = fresh("qwen3"), Thinking("discrete", ending=Ending(24))
    rollouts = rolled(backbone, way)
    theirs = AutoModelForCausalLM.from_pretrained(folder("qwen3"), dtype=torch.float32)
    config = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, beta=0.1, epsilon=0.2, epsilon_high=0.3, delta=3.0,
        loss_type=TRL_LOSSES[aggregation], max_completion_length=24, num_generations=3, per_device_train_batch_size=6,
        report_to="none", gradient_checkpointing=False, gradient_accumulation_steps=1,
    )  # fmt: skip
    trainer = GRPOTrainer(
        theirs, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config,
        train_dataset=Dataset.from_dict({"prompt": ["x"]}), processing_class=backbone.tokenizer,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for r in rollouts:
        logps = torch.from_numpy(r.trace.steps.logps)
        r.old, r.reference = (logps + torch.randn(logps.shape, generator=generator) * s for s in (0.7, 0.3))

    def padded(rows: list[list[float]], left: bool, fill: float = 0) -> torch.Tensor:
        longest = max(map(len, rows))
        return torch.tensor(
            [[fill] * (longest - len(r)) + list(r) if left else list(r) + [fill] * (longest - len(r)) for r in rows]
        )

    inputs = {
        "prompt_ids": padded([list(r.prompt) for r in rollouts], True), "prompt_mask": padded([[1] * len(r.prompt) for r in rollouts], True),
        "completion_ids": padded([r.trace.steps.ids[:, 0].tolist() for r in rollouts], False),
        "completion_mask": padded([[1] * r.trace.tokens for r in rollouts], False),
        "advantages": torch.tensor([r.advantage for r in rollouts]),
        "old_per_token_logps": padded([r.old[:, 0].tolist() for r in rollouts], False),
        "ref_per_token_logps": padded([r.reference[:, 0].tolist() for r in rollouts], False),
        "num_items_in_batch": torch.tensor(sum(r.trace.tokens for r in rollouts)),
    }  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.eval()
    wanted_loss = trainer._compute_loss(trainer.model, inputs)
    wanted = gradients(trainer.model, wanted_loss)

    model = trainable(backbone, PolicyRecipe())
    batch = collate(rollouts, way, backbone.device)
    new = log_probs(model, batch)
    old = batch.scatter([r.old for r in rollouts])
    each = surrogate(new, old, inputs["advantages"], Clip(0.2, 0.3, 3.0)).loss
    each = each + 0.1 * kl_penalty(new, old, batch.scatter([r.reference for r in rollouts]))
    lengths = [r.trace.tokens for r in rollouts]
    loss = policy_loss(each, batch.drawn, step_weights(lengths, aggregation, Totals(6, sum(lengths), 24)))
    got = gradients(model, loss)
    assert loss.item() == pytest.approx(wanted_loss.item(), abs=1e-5)
    assert all((got[n] - wanted[n]).abs().max() < 2e-5 for n in wanted) and got.keys() == wanted.keys()
    assert max(g.abs().max() for g in wanted.values()) > 1e-2


@pytest.mark.parametrize(
    "options",
    [{"thinking": Thinking("soft")}, {"thinking": Thinking("multiplex", replacement=False)}, {"samples": 1}, {"lr": 0.0},
     {"prompts": 6, "minibatches": 4}, {"target_modules": ("q_proj",)}, {"norm": "l2"}, {"aggregation": "batch"}, {"kl": -1.0},
     {"rewards": ()}, {"rewards": ("correct", "correct")}, {"every": 0}],
    ids=str,
)  # fmt: skip
def test_recipes_that_cannot_act_are_refused(options: dict) -> None:
    with pytest.raises(OptionError, match="Try:"):
        replace(PolicyRecipe(), **options)
