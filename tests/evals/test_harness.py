"""The model for lm-evaluation-harness against the harness's own for Hugging Face models. Skipped where it is not installed."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trueplex.data.embedded import tasks
from trueplex.errors import ModelError, OptionError, TrueplexError

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from trueplex.evals.harness import TrueplexLM, said  # noqa: E402

TEXTS = ("Ann has 3 apples. Ann buys 4 more.", "Question: What is 2 + 2?\nAnswer:", "find it", "a")


@pytest.fixture(scope="module", params=["qwen3", "llama", "gemma"])
def pair(request: pytest.FixtureRequest, folder: Callable[[str], Path]) -> tuple[TrueplexLM, Any]:
    """The same tiny model, under trueplex and under the harness's own class."""
    path = str(folder(request.param))
    theirs = HFLM(pretrained=path, device="cpu", dtype="float32", batch_size=1, max_length=512)
    return TrueplexLM(path, device="cpu", dtype="float32", paths=1, verifier="none"), theirs


def asked(kind: str, *arguments: Any) -> list[Instance]:
    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


def test_log_likelihoods_are_those_of_the_harness(pair: tuple[TrueplexLM, Any]) -> None:
    ours, theirs = pair
    requests = asked("loglikelihood", *[(a, f" {b}") for a in (*TEXTS, "") for b in TEXTS])
    one, other = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    assert [logp for logp, _ in one] == pytest.approx([logp for logp, _ in other], abs=1e-3)
    assert [greedy for _, greedy in one] == [greedy for _, greedy in other]
    rolling = asked("loglikelihood_rolling", *[(text,) for text in (*TEXTS, "word " * 700)])
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(theirs.loglikelihood_rolling(rolling), rel=1e-4)


def test_one_greedy_path_is_the_text_of_the_harness(pair: tuple[TrueplexLM, Any]) -> None:
    ours, theirs = pair
    given = {"until": ["zz", "7"], "do_sample": False, "max_gen_toks": 40}
    requests = asked("generate_until", *[(text, given) for text in TEXTS[:3]])
    assert ours.generate_until(requests) == theirs.generate_until(requests)


def test_the_chosen_text_agrees_with_the_vote_and_is_the_same_in_any_order() -> None:
    problems = tasks.problems("chain-easy", "test", 3, 0)
    model = TrueplexLM("reference", paths=8, thinking="multiplex", prune="half:16")
    requests = asked("generate_until", *[(model.apply_chat_template([{"role": "user", "content": p.text}]), {"max_gen_toks": 96}) for p in problems])  # fmt: skip
    texts = model.generate_until(requests)
    assert model.generate_until(requests[::-1])[::-1] == texts
    assert [said(text) for text in texts] == [p.answers[0] for p in problems if p.answers]
    assert not any("think" in text for text in texts)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{7}.", "7"),
        ("3 + 4 = 7\n#### 7", "7"),
        ("that makes $1,250.50 in 3", "3"),
        (" (B) ", "(B)"),
        ("", None),
    ],
)
def test_what_a_text_answers(text: str, answer: str | None) -> None:
    assert said(text) == answer


def test_what_cannot_be_used_is_refused_before_the_model_is_loaded() -> None:
    with pytest.raises(OptionError, match="no option 'path'"):
        TrueplexLM("no/such/model/here", path=4)
    with pytest.raises(ModelError):
        TrueplexLM("no/such/model/here", paths=4)
    assert issubclass(OptionError, TrueplexError)


def test_it_is_found_by_the_entry_point_and_by_the_registry() -> None:
    declared = importlib.metadata.entry_points(group="lm_eval.models")
    assert [e.value for e in declared if e.name == "trueplex"] == ["trueplex.evals.harness:TrueplexLM"]
    assert lm_eval.api.registry.get_model("trueplex") is TrueplexLM


@pytest.mark.slow
def test_a_few_shot_task_runs_end_to_end(tmp_path: Path) -> None:
    """A task of the harness's own kind over local data: few-shot examples, a filter, exact match."""
    for split in ("train", "test"):
        rows = [{"question": p.text, "answer": (p.answers or ("",))[0]} for p in tasks.problems("chain-easy", "test" if split == "test" else "train", 6, 0)]  # fmt: skip
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chain.yaml").write_text(f"""
task: chain_few_shot
dataset_path: json
dataset_kwargs: {{data_files: {{train: {tmp_path}/train.jsonl, test: {tmp_path}/test.jsonl}}}}
output_type: generate_until
test_split: test
fewshot_split: train
num_fewshot: 1
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:"], do_sample: false, max_gen_toks: 96}}
filter_list: [{{name: last, filter: [{{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}}, {{function: take_first}}]}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""")
    torch.manual_seed(0)
    result = lm_eval.simple_evaluate(
        "trueplex", "pretrained=reference,paths=4,thinking=multiplex,prune=half:32", ["chain_few_shot"], limit=2,
        task_manager=TaskManager(include_path=str(tmp_path)), apply_chat_template=True, fewshot_as_multiturn=False, bootstrap_iters=0,
    )  # fmt: skip
    assert 0.0 <= result["results"]["chain_few_shot"]["exact_match,last"] <= 1.0
    assert result["config"]["model_options"]["paths"] == 4
