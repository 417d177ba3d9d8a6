"""The laws of decoding, on tiny random models of every family, with ragged prompts in one batch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from conftest import DEVICE, SEED, SEEDS, agree, grown, prompts_for
from trueplex.data.traces import from_row, open_store, read, to_row
from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.replay import replay
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.solving.loop import Solved, Stopped, stream
from trueplex.solving.settings import Settings, origin
from trueplex.types import Problem, Status, Stop, Trace

GREEDY = Thinking("discrete", sampling=Sampling(0), ending=Ending(30))
MULTIPLEX = Thinking("multiplex", 3, ending=Ending(30))
MEAN = Thinking("multiplex", 3, "mean", ending=Ending(30))
Key = tuple[str, int]


def decode(backbone: Backbone, thinking: Thinking, paths: int = 3, rows: int | None = None, stride: int = 7,
           prune: set[Key] = frozenset(), order: int = 1, seed: int = SEED) -> dict[Key, Trace]:  # fmt: skip
    batch = start(backbone, prompts_for(backbone)[::order], paths, thinking, seed=seed, rows=rows)
    traces: list[Trace] = []
    for stopped in grow(batch, stride):
        pruned = [t for t in batch.traces if (t.problem.text, t.index) in prune]
        traces += stopped + batch.stop(Stop(t, Status.PRUNED, "policy") for t in pruned)
    return {(t.problem.text, t.index): t for t in traces}


def same(
    backbone: Backbone, some: dict[Key, Trace], others: dict[Key, Trace], keys: Iterable[Key] | None = None
) -> None:
    """The same draws of every trace, but for near-ties, of which there is at most one in twenty traces."""
    prompts = {p.problem.text: p for p in prompts_for(backbone)}
    keys = list(keys or some)
    ties = sum(not agree(prompts[key[0]], some[key], others[key], backbone) for key in keys)
    assert ties <= max(1, len(keys) // 20), f"{ties} near-ties in {len(keys)} traces"


@pytest.mark.parametrize("seed", SEEDS)
def test_law_1_multiplex_of_width_1_is_discrete(backbone: Backbone, seed: int) -> None:
    one = decode(backbone, Thinking("multiplex", 1, ending=Ending(30)), seed=seed)
    plain = decode(backbone, Thinking("discrete", ending=Ending(30)), seed=seed)
    same(backbone, one, plain)


def test_law_1_soft_of_the_likeliest_token_is_greedy(backbone: Backbone) -> None:
    soft = decode(backbone, Thinking("soft", 1, ending=Ending(30, think_tokens=28)))
    greedy = decode(backbone, GREEDY)
    for key, trace in soft.items():
        thought = trace.thinking_tokens if not trace.closing else trace.thinking_tokens - 1
        assert np.array_equal(trace.steps.ids[:thought], greedy[key].steps.ids[:thought])


@pytest.mark.parametrize("thinking", [MULTIPLEX, MEAN], ids=["weighted", "mean"])
def test_law_1_weights_sum_to_one_and_answers_are_one_hot(qwen: Backbone, thinking: Thinking) -> None:
    for trace in decode(qwen, thinking, paths=8).values():
        assert np.allclose(trace.steps.weights.sum(1), 1, atol=1e-5)
        assert (trace.steps.weights[trace.thinking_tokens :, 0] == 1).all()
        if thinking is MEAN:
            before = trace.steps.weights[: trace.thinking_tokens - 1]
            assert np.allclose(before, 1 / 3)


def test_law_2_greedy_is_generate(backbone: Backbone) -> None:
    """The plain model, as transformers loads it, with its own eager attention and its own cache."""
    traces = decode(backbone, GREEDY)
    plain = AutoModelForCausalLM.from_pretrained(backbone.name, attn_implementation="eager").to(backbone.device)
    for prompt in prompts_for(backbone):
        ids = torch.tensor([prompt.ids], device=backbone.device)
        expected = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30,
            eos_token_id=list(backbone.ends), pad_token_id=backbone.tokenizer.pad_token_id,
        )[0, len(prompt.ids) :]  # fmt: skip
        for index in range(3):
            assert traces[prompt.problem.text, index].steps.ids[:, 0].tolist() == expected.tolist()


SHORT = Ending(30, think_tokens=20)
EVERY_MODE = {
    "weighted": MULTIPLEX, "mean": MEAN, "discrete": Thinking("discrete", ending=SHORT),
    "without replacement": Thinking("multiplex", 3, replacement=False, ending=SHORT),
    "soft": Thinking("soft", 4, ending=SHORT), "gumbel": Thinking("stochastic-soft", 4, ending=SHORT),
    "dirichlet": Thinking("stochastic-soft", 4, noise="dirichlet", ending=SHORT),
}  # fmt: skip


@pytest.mark.parametrize("thinking", EVERY_MODE.values(), ids=list(EVERY_MODE))
def test_law_3_replay_and_law_8_log_probs(backbone: Backbone, thinking: Thinking, tmp_path) -> None:
    prompts = {p.problem.text: p for p in prompts_for(backbone)}
    store = open_store(tmp_path / "traces.arrow")
    for trace in decode(backbone, thinking).values():
        store.append([to_row(trace, prompts[trace.problem.text].ids, origin(thinking, backbone))])
    store.close()
    rows = list(read(tmp_path / "traces.arrow"))
    assert len(rows) == 9
    for row in rows:
        trace, prompt_ids = from_row(row)
        again = replay(backbone, prompt_ids, trace.steps).cpu().numpy()
        kept = trace.steps.weights > 0  # slots behind a one-hot step repeat slot 0
        assert np.abs(again - trace.steps.logps)[kept].max() < 2e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_law_4_the_batch_does_not_matter(backbone: Backbone, seed: int) -> None:
    whole = decode(backbone, MULTIPLEX, paths=4, seed=seed)
    keys = list(whole)
    gone = {keys[0], keys[3], keys[6]}
    fewer = decode(backbone, MULTIPLEX, paths=4, rows=4, stride=3, prune=gone, seed=seed)
    turned = decode(backbone, MULTIPLEX, paths=4, order=-1, stride=11, seed=seed)
    alone = decode(backbone, MULTIPLEX, paths=2, seed=seed)
    same(backbone, whole, turned)
    same(backbone, whole, fewer, [key for key in keys if key not in gone])
    same(backbone, alone, whole)
    assert all(fewer[key].status is Status.PRUNED and fewer[key].tokens == 3 for key in gone)


def test_law_4_another_seed_gives_other_traces(qwen: Backbone) -> None:
    ids = [t.steps.ids.tolist() for seed in (1, 2) for t in grown(qwen, prompts_for(qwen)[:1], 2, MULTIPLEX, seed=seed)]
    assert len({str(i) for i in ids}) == 4


def test_law_9_usage_is_the_sum_of_what_was_spent(qwen: Backbone) -> None:
    problems = [p.problem for p in prompts_for(qwen)]
    settings = Settings(paths=4, thinking=MULTIPLEX, verifier="none")
    stopped, solutions = [], []
    for event in stream(qwen, problems, settings):
        if isinstance(event, Stopped):
            stopped.append(event.trace)
        elif isinstance(event, Solved):
            solutions.append(event.solution)
    assert len(solutions) == 3 and len(stopped) == 12
    for solution in solutions:
        own = [t for t in stopped if t.problem.text == solution.problem.text]
        usage = solution.usage
        assert (
            usage.thinking_tokens + usage.answer_tokens == sum(len(t.steps) for t in own) == sum(t.tokens for t in own)
        )
        assert usage.probe_tokens == 0 and usage.saved_tokens == 0
    lengths = [len(p.ids) for p in prompts_for(qwen)]
    by_text = {s.problem.text: s.usage.prompt_tokens for s in solutions}
    assert [by_text[p.text] for p in problems] == lengths


def test_law_10_the_effective_configuration_is_stored(qwen: Backbone) -> None:
    settings = Settings(paths=2, thinking=Thinking(ending=Ending(5)), verifier="none", seed=3)
    (solution,) = [e.solution for e in stream(qwen, [Problem("Hi")], settings) if isinstance(e, Solved)]
    config = solution.config
    assert config["width"] == 3 and config["merge"] == "weighted" and config["select"] == "majority"
    assert config["max_tokens"] == 5 and config["seed"] == 3 and config["fingerprint"] == qwen.fingerprint


def test_the_same_problem_twice_is_two_requests_with_equal_draws(qwen: Backbone) -> None:
    settings = Settings(paths=2, thinking=Thinking(ending=Ending(5)), verifier="none")
    solved = [e for e in stream(qwen, [Problem("Hi"), Problem("Hi")], settings) if isinstance(e, Solved)]
    assert {e.request for e in solved} == {0, 1}
    first, second = ([t.steps.ids.tolist() for t in e.solution.traces] for e in solved)
    assert first == second and len(first) == 2


def test_answer_sampling_really_acts(qwen: Backbone) -> None:
    """The official multiplex code sampled answers with the thinking options; ours must not."""
    hot, cold = Sampling(2.0), Sampling(0)
    texts = {}
    for name, answering in (("hot", hot), ("cold", cold)):
        thinking = Thinking("multiplex", 2, None, Sampling(0.01), answering, Ending(16, think_tokens=2))
        traces = grown(qwen, prompts_for(qwen)[:1], 6, thinking, seed=1)
        texts[name] = {tuple(t.steps.ids[t.thinking_tokens :, 0].tolist()) for t in traces}
    assert len(texts["cold"]) == 1 and len(texts["hot"]) > 1


@pytest.mark.parametrize(
    "option", [Sampling(0.3), Sampling(top_k=2), Sampling(top_p=0.2), Sampling(min_p=0.7)], ids=str
)
def test_every_answer_option_acts_on_the_answer_alone(qwen: Backbone, option: Sampling) -> None:
    ending = Ending(24, think_tokens=8)
    plain, other = (decode(qwen, Thinking("multiplex", 2, answer_sampling=o, ending=ending)) for o in (None, option))
    closed = [k for k in plain if plain[k].closing and plain[k].tokens > plain[k].thinking_tokens]
    cut = {k: plain[k].thinking_tokens for k in closed}
    assert all(np.array_equal(plain[k].steps.ids[: cut[k]], other[k].steps.ids[: cut[k]]) for k in closed)
    assert any(not np.array_equal(plain[k].steps.ids[cut[k] :], other[k].steps.ids[cut[k] :]) for k in closed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_named(qwen: Backbone, value: float) -> None:
    from trueplex.errors import ModelError

    class Broken:
        """The model, but for one logit of the second row in its third pass."""

        def __init__(self) -> None:
            self.passes = 0

        def __getattr__(self, name: str) -> object:
            return getattr(qwen, name)

        def decode_pass(self, *arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
            logits, hidden = qwen.decode_pass(*arguments)
            self.passes += len(logits) == 2
            if self.passes == 2:
                logits[1, 3] = value
            return logits, hidden

    with pytest.raises(ModelError, match=r"trace 1 .* step 2"):
        grown(Broken(), prompts_for(qwen)[:1], 2, MULTIPLEX)


def test_a_prefill_in_pieces_small_lanes_and_shared_prompts_change_nothing(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several roads to the same tokens: prompts fed together or apart, rows in lanes of many or two, prompts shared or not."""
    from trueplex.engine import prefill, rows

    whole = decode(backbone, MULTIPLEX, paths=4)
    monkeypatch.setattr(prefill, "PREFILL_TOKENS", 10)
    monkeypatch.setattr(rows, "LANE_ROWS", {"cpu": 2})
    same(backbone, whole, decode(backbone, MULTIPLEX, paths=4))
    monkeypatch.setitem(rows.SHARED_BYTES, DEVICE, 1)
    same(backbone, whole, decode(backbone, MULTIPLEX, paths=4))


@pytest.mark.parametrize("thinking", [MULTIPLEX, GREEDY], ids=["multiplex", "greedy"])
def test_law_4_one_problem_alone_reads_its_shared_prompt_once_and_thinks_the_same(
    backbone: Backbone, thinking: Thinking
) -> None:
    whole = decode(backbone, thinking, paths=4)
    prompt = prompts_for(backbone)[2]
    alone = {(t.problem.text, t.index): t for t in grown(backbone, [prompt], 4, thinking)}
    if thinking is GREEDY:
        assert all(np.array_equal(alone[key].steps.ids, whole[key].steps.ids) for key in alone)
    else:
        same(backbone, alone, whole)


@pytest.mark.parametrize("extras", ["plain", "softcap", "sinks"])
@pytest.mark.parametrize("columns", [1, 3])
def test_attention_beside_a_shared_prefix_is_attention(extras: str, columns: int) -> None:
    from trueplex.models.attention import _plainly, beside_prefix
    from trueplex.models.attention_probe import Extras

    query, key, value = torch.randn(5, 6, columns, 8), torch.randn(5, 2, 11, 8), torch.randn(5, 2, 11, 8)
    key[:, :, :4], value[:, :, :4] = key[:1, :, :4], value[:1, :, :4]
    own = Extras(0.3, 5.0 if extras == "softcap" else None, torch.randn(6) if extras == "sinks" else None)
    mask = torch.zeros(5, 1, columns, 11)
    for column in range(columns):
        mask[1:, :, column, 11 - columns + column :] = torch.finfo(torch.float32).min
        mask[2, :, column, :2] = torch.finfo(torch.float32).min  # a window that leaves some of the prefix
    for given in (None, mask) if columns == 1 else (mask,):
        got = beside_prefix(query, key[:1, :, :4], value[:1, :, :4], key[:, :, 4:], value[:, :, 4:], given, own)
        assert torch.allclose(got, _plainly(query, key, value, given, own), atol=1e-5)
