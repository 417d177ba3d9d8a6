"""Outcome and process reward models in their published forms, against plain twins: one text, one step at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from conftest import FAMILIES, SEED
from trueplex.decide.budget import Budget
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import ModelError, OptionError, VerifierError
from trueplex.evals.quality import SHARES
from trueplex.models.backbone import Backbone
from trueplex.reference.text import build_tokenizer
from trueplex.solving.loop import Solved, stream
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Status, Steps, Trace
from trueplex.verify.open import known, open_scorer
from trueplex.verify.readers import forms
from trueplex.verify.readers.outcome import load_outcome
from trueplex.verify.readers.process import AGGREGATIONS, UNREAD, load_process
from trueplex.verify.readers.reading import Fitting, TextScorer, Written
from trueplex.verify.readers.transcript import Transcript
from trueplex.verify.stored import tokens_at

PROBLEM = "Ann has 3 apples.\n\nHow many?"
SOLUTIONS = (
    "3+1=4\n\n4+2=6 ok\n\nso 6\n</think>Answer: \\boxed{6}<|end|>",
    "3+1=4 ok\n\nhm\nagain\n\n\n4-1=3\n</think>Answer: \\boxed{3}<|end|>",
    "never a step",
)
CHAT = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '[/]' }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
TAGS = {"math-shepherd": "ки", "versaprm": " \n\n\n\n", "qwen": "<extra_0>"}
FAMILY = {"math-shepherd": "mistral", "versaprm": "llama", "qwen": "qwen2", "skywork": "qwen2"}


def tokenizer_with(*words: str) -> PreTrainedTokenizerFast:
    """Words of the embedded model without its thinking tags, as reward models know none, and some more."""
    spec = json.loads(build_tokenizer().backend_tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if "think" not in t["content"]]
    names = {"<think>": "<one>", "</think>": "<two>"}
    spec["model"]["vocab"] = {names.get(k, k): v for k, v in spec["model"]["vocab"].items()}
    from tokenizers import Tokenizer

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHAT,
    )
    tokenizer.add_tokens([w for w in words if w])
    return tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Form → folder of a tiny random model as it was published: weights, names, template and step token."""
    made: dict[str, Path] = {}

    def build(form: str) -> Path:
        if form in made:
            return made[form]
        family = FAMILY.get(form, "qwen2")
        tokenizer = tokenizer_with(TAGS.get(form, ""))
        config = AutoConfig.for_model(
            family, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
            pad_token_id=0, **(FAMILIES[family] | ({"sliding_window": None} if family == "mistral" else {})),
        )  # fmt: skip
        torch.manual_seed(3)
        folder = made[form] = tmp_path_factory.mktemp(form)
        if form == "outcome":
            config.num_labels = 1
            AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        else:
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        head = {}
        if form == "qwen":
            head = {"score.0.weight": torch.randn(64, 64) / 8, "score.0.bias": torch.randn(64),
                    "score.2.weight": torch.randn(2, 64) / 8, "score.2.bias": torch.randn(2)}  # fmt: skip
            # As published: code of its own beside it, which must not be asked for.
            written = json.loads((folder / "config.json").read_text())
            written |= {"architectures": ["Qwen2ForProcessRewardModel"],
                        "auto_map": {"AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig", "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}}  # fmt: skip
            (folder / "config.json").write_text(json.dumps(written))
        if form == "skywork":
            head = {"v_head.summary.weight": torch.randn(1, 64) / 8, "v_head.summary.bias": torch.randn(1)}
        if head:
            save_file(weights | head, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return build


def written_by(backbone: Backbone, solution: str, ended: bool = True) -> Written:
    return Written(PROBLEM, backbone.tokenizer(solution, add_special_tokens=False)["input_ids"], ended)


STEPS = {  # what the solutions are, step by step: parted by empty lines, and by every line
    "\n\n": (["3+1=4", "4+2=6 ok", "so 6", "Answer: \\boxed{6}"], ["3+1=4 ok", "hm\nagain", "4-1=3", "Answer: \\boxed{3}"], ["never a step"]),
    "\n": (["3+1=4", "4+2=6 ok", "so 6", "Answer: \\boxed{6}"], ["3+1=4 ok", "hm", "again", "4-1=3", "Answer: \\boxed{3}"], ["never a step"]),
}  # fmt: skip


@pytest.mark.parametrize("parted", STEPS)
def test_steps_are_told_by_tokens_and_never_change_as_the_text_grows(qwen: Backbone, parted: str) -> None:
    words = Transcript(qwen)
    for solution, steps in zip(SOLUTIONS, STEPS[parted], strict=True):
        ids = written_by(qwen, solution).ids
        ends = words.step_ends(ids, parted, True)
        assert words.steps(ids, ends) == steps
        for tokens in range(len(ids)):
            assert words.step_ends(ids[:tokens], parted, False) == [end for end in ends if end <= tokens]


def plain_outcome(folder: Path, problem: str, solution: str, system: str | None) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = f"[system]{system}[/]" if system else ""
    ids = tokenizer(f"{turns}[user]{problem}[/][assistant]{solution}[/]", return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        return 1 / (1 + math.exp(-model(**ids).logits[0, 0].item()))


@pytest.mark.parametrize(
    ("form", "system"),
    [("chat", None), ("acemath", "Please reason step by step, and check your final answer within \\boxed{}.")],
)
def test_an_outcome_model_reads_the_chat_so_far(
    qwen: Backbone, models: Callable, form: str, system: str | None
) -> None:
    reader = load_outcome(str(models("outcome")), form, Transcript(qwen), "cpu")
    texts = [written_by(qwen, s) for s in SOLUTIONS]
    at = [[len(w.ids) // 2, len(w.ids)] for w in texts]
    scores, cost = reader.read(texts, at)
    for w, counts, found in zip(texts, at, scores, strict=True):
        for tokens, score in zip(counts, found, strict=True):
            solution = qwen.tokenizer.decode([i for i in w.ids[:tokens] if i not in qwen.ends])
            solution = solution.replace("\n</think>", "\n\n")
            assert score == pytest.approx(plain_outcome(models("outcome"), PROBLEM, solution, system), abs=1e-6)
    assert len({round(s, 6) for found in scores for s in found}) > 3 and all(c > 0 for c in cost)


# -- one step at a time, as search-and-learn and the models' cards read them -------------------------


def plain_math_shepherd(folder: Path, problem: str, steps: Sequence[str]) -> float:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    text = f"{problem}\n" + " " + "\n\n".join(steps).replace("\n\n", " ки\n\n") + " ки"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    good, bad, tag = (tokenizer.encode(word)[-1] for word in ("+", "-", "ки"))
    logits = model(ids).logits[0, :, [good, bad]]
    return logits.softmax(-1)[:, 0][ids[0] == tag][-1].item()


def plain_versaprm(folder: Path, problem: str, steps: Sequence[str]) -> float:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(f"{problem} \n\n" + "".join(f"{s} \n\n\n\n" for s in steps), return_tensors="pt")["input_ids"]
    minus, plus, tag = (tokenizer.encode(word)[-1] for word in ("-", "+", " \n\n\n\n"))
    return model(ids).logits[0, :, [minus, plus]].softmax(-1)[:, 1][ids[0] == tag][-1].item()


def plain_qwen(folder: Path, problem: str, steps: Sequence[str]) -> float:
    tokenizer, weights = AutoTokenizer.from_pretrained(folder), load_file(folder / "model.safetensors")
    trunk = AutoModel.from_pretrained(folder, trust_remote_code=False)
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    text = f"[system]{system}[/][user]{problem}[/][assistant]{'<extra_0>'.join(steps)}<extra_0>[/]"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    hidden = trunk(ids).last_hidden_state[0]
    middle = torch.relu(hidden @ weights["score.0.weight"].T + weights["score.0.bias"])
    logits = middle @ weights["score.2.weight"].T + weights["score.2.bias"]
    return logits.softmax(-1)[ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>"), 1][-1].item()


def plain_skywork(folder: Path, problem: str, steps: Sequence[str]) -> float:
    tokenizer, weights = AutoTokenizer.from_pretrained(folder), load_file(folder / "model.safetensors")
    trunk = AutoModel.from_pretrained(folder)
    ids = tokenizer.encode(problem + "\n")
    for step in steps:
        ids += [*tokenizer.encode(step), tokenizer.encode("\n")[-1]]
    value = (
        trunk(torch.tensor([ids])).last_hidden_state[0] @ weights["v_head.summary.weight"].T
        + weights["v_head.summary.bias"]
    )
    return torch.sigmoid(value)[-1, 0].item()


PLAIN: dict[str, Any] = {
    "math-shepherd": plain_math_shepherd,
    "versaprm": plain_versaprm,
    "qwen": plain_qwen,
    "skywork": plain_skywork,
}


@pytest.mark.parametrize("form", PLAIN)
@torch.no_grad()
def test_a_process_model_says_of_each_step_what_reading_up_to_it_says(
    qwen: Backbone, models: Callable, form: str
) -> None:
    folder = models(form)
    expected = [
        [PLAIN[form](folder, PROBLEM, steps[: k + 1]) for k in range(len(steps))]
        for steps in STEPS[forms.FORMS[form].separator]
    ]
    assert np.std([s for steps in expected for s in steps]) > 1e-3
    texts = [written_by(qwen, s) for s in SOLUTIONS]
    for name, aggregate in AGGREGATIONS.items():
        reader = load_process(str(folder), form, name, Transcript(qwen), "cpu")
        ends = [reader.transcript.step_ends(w.ids, reader.separator, True) for w in texts]
        scores, _ = reader.read(texts, [[1, *own] for own in ends])
        for found, steps in zip(scores, expected, strict=True):
            assert found[0] == UNREAD  # no step is whole yet
            so_far = [aggregate(steps[: k + 1]) for k in range(len(steps))]
            assert found[1:] == pytest.approx(so_far, abs=1e-6)
    assert {"last": steps[-1], "min": min(steps), "mean": np.mean(steps), "product": np.prod(steps)} == pytest.approx(
        {name: aggregate(steps) for name, aggregate in AGGREGATIONS.items()}
    )


@pytest.mark.parametrize("name", ["orm:{outcome}", "prm:math-shepherd:{math-shepherd}@min", "prm:qwen:{qwen}@mean"])
def test_neither_the_batch_nor_what_follows_changes_a_score(qwen: Backbone, models: Callable, name: str) -> None:
    """All together, each alone, and each prefix as if nothing followed it."""
    folders = {form: str(models(form)) for form in ("outcome", "math-shepherd", "qwen")}
    scorer = open_scorer(qwen, name.format(**folders))
    texts = [written_by(qwen, s) for s in SOLUTIONS]
    at = [[tokens_at(len(w.ids), share) for share in SHARES] for w in texts]
    together, _ = scorer.reader.read(texts, at)
    for w, counts, found in zip(texts, at, together, strict=True):
        for tokens, score in zip(counts, found, strict=True):
            alone = Written(w.problem, w.ids[:tokens], tokens == len(w.ids))
            assert scorer.reader.read([alone], [[tokens]])[0][0][0] == pytest.approx(score, abs=1e-6)


def test_a_batch_that_does_not_fit_is_halved_and_that_is_said(
    said: list[str], qwen: Backbone, models: Callable
) -> None:
    scorer = open_scorer(qwen, f"orm:{models('outcome')}")
    texts = [written_by(qwen, "1+1=2\n" * n) for n in range(1, 12)]
    at = [[len(w.ids)] for w in texts]
    expected, _ = scorer.reader.read(texts, at)
    forward, most = scorer.reader.rewarding.model.base_model.forward, 3

    def small(input_ids: torch.Tensor, **named: Any) -> Any:
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids=input_ids, **named)

    scorer.reader.rewarding.model.base_model.forward = small
    assert not said
    found, _ = scorer.reader.read(texts, at)
    assert np.allclose(found, expected, atol=1e-6)
    assert [m.rpartition("with ")[2] for m in said] == [
        "5 at a time",
        "2 at a time",
    ] and "do not fit into memory" in said[0]
    most = 0
    with pytest.raises(ModelError, match=r"a text of .* does not fit into memory. Try"):
        scorer.reader.read(texts, at)


def test_fitting_keeps_the_order() -> None:
    lengths = [5, 1, 4, 2, 3]
    assert Fitting(2)(lengths, lambda chosen: [lengths[i] for i in chosen]) == lengths


@pytest.mark.parametrize(
    ("device", "batches"),
    [("cpu", [[3, 3, 3, 3], [900, 900], [1500], [3000]]), ("cuda", [[3, 3, 3, 3, 900, 900, 1500, 3000]])],
)
def test_a_processor_reads_so_many_tokens_together(device: str, batches: list[list[int]]) -> None:
    lengths, read = [3, 900, 3, 1500, 3, 900, 3, 3000], []
    assert Fitting(64, device)(lengths, lambda chosen: read.append([lengths[i] for i in chosen]) or chosen) == list(
        range(8)
    )
    assert read == batches


def test_a_model_of_another_form_is_refused_when_it_is_loaded(qwen: Backbone, models: Callable) -> None:
    words = Transcript(qwen)
    for form, name in (("math-shepherd", "versaprm"), ("versaprm", "math-shepherd"), ("qwen", "skywork")):
        with pytest.raises(VerifierError, match=r"has no single token for .* Try:"):
            load_process(str(models(name)), form, "last", words, "cpu")
    with pytest.raises(VerifierError, match=r"has no head v_head.summary.weight\|bias"):
        load_process(str(models("qwen")), "skywork", "last", words, "cpu")
    with pytest.raises(VerifierError, match=r"has no weights for score.weight"):
        load_outcome(str(models("math-shepherd")), "chat", words, "cpu")
    with pytest.raises(ModelError, match="no model"):
        load_outcome("/nowhere", "chat", words, "cpu")


def test_a_template_that_drops_thoughts_is_refused() -> None:
    tokenizer = tokenizer_with()
    tokenizer.chat_template = CHAT.replace("m['content']", "m['content'].split('7')[-1]")
    with pytest.raises(VerifierError, match="drops a part"):
        forms.outcome(tokenizer, "1+1?", "3+4=7, so 8", None)
    tokenizer.chat_template = None
    with pytest.raises(VerifierError, match="no chat template"):
        forms.outcome(tokenizer, "1+1?", "2", None)


@pytest.mark.parametrize("name", ["orm:{outcome}", "prm:math-shepherd:{math-shepherd}@mean"])
def test_live_scores_are_those_of_the_stored_trace_and_every_token_read_is_paid_for(
    qwen: Backbone, models: Callable, name: str
) -> None:
    folders = {form: str(models(form)) for form in ("outcome", "math-shepherd")}
    scorer = open_scorer(qwen, name.format(**folders), every=9)
    paid = 0
    read = scorer.reader.read

    def counted(written: Sequence[Written], at: Sequence[Sequence[int]]) -> Any:
        nonlocal paid
        scores, cost = read(written, at)
        paid += sum(cost)
        return scores, cost

    scorer.reader.read = counted
    settings = Settings(4, Thinking(ending=Ending(30)), "orm:x", probe_every=9, seed=SEED, prune="half:18")
    events = stream(qwen, [Problem("What is 2 + 2?")], settings, scorer)
    (solution,) = [e.solution for e in events if isinstance(e, Solved)]
    assert solution.usage.probe_tokens == paid > sum(t.tokens for t in solution.traces)
    assert any(t.status is Status.PRUNED for t in solution.traces)
    for trace in solution.traces:
        ids = trace.steps.ids[:, 0].tolist()
        for tokens, score in trace.scores:
            ended = tokens == len(ids) and trace.status is not Status.PRUNED
            assert read([Written(trace.problem.text, ids[:tokens], ended)], [[tokens]])[0][0][0] == pytest.approx(
                score, abs=1e-6
            )
    ones = np.ones((30, 1), dtype=np.float32)
    stored = [(Trace(Problem("1+1?"), 0, 0, Status.FINISHED, tokens=30,
                     steps=Steps(np.arange(20, 50, dtype=np.int32)[:, None], ones, ones, ones[:, 0], ones[:, 0])), (1,))]  # fmt: skip
    assert scorer.score_shares(stored, SHARES).shape == (1, len(SHARES)) and isinstance(scorer, TextScorer)


@pytest.mark.parametrize("name", ["orm:{outcome}", "prm:math-shepherd:{math-shepherd}", "genrm:qwen"])
def test_a_budget_of_tokens_holds_where_looks_read_texts_again(qwen: Backbone, models: Callable, name: str) -> None:
    folders = {form: str(models(form)) for form in ("outcome", "math-shepherd")}
    scorer = open_scorer(qwen, name.format(**folders).replace(":qwen", f":{qwen.name}"), every=9)
    settings = Settings(4, Thinking(ending=Ending(30)), "orm:x", probe_every=9, seed=SEED, select="weighted")

    def solved(tokens: int | None) -> tuple[int, set[str]]:
        events = stream(qwen, [Problem("What is 2 + 2?")], replace(settings, budget=Budget(tokens=tokens)), scorer)
        (solution,) = [e.solution for e in events if isinstance(e, Solved)]
        return sum(t.tokens + t.probe_tokens for t in solution.traces), {t.reason for t in solution.traces}

    whole, _ = solved(None)
    assert solved(whole)[0] == whole
    for tokens in (whole - 1, whole // 2, 40):
        spent, reasons = solved(tokens)
        assert 0 < spent <= tokens
        assert tokens > 40 or "token budget" in reasons  # a larger one leaves out looks, and stops nothing


def test_names_that_cannot_be_read_are_refused_before_any_model_is() -> None:
    for name in (
        "orm:a/b",
        "orm:acemath:a/b",
        "prm:qwen:a/b@min",
        "prm:skywork:a/b",
        "genrm:a/b@3",
        "auto",
        "some/folder",
    ):
        known(name)
    for name in ("orm:", "orm:best:a/b", "orm:a/b@last", "prm:a/b", "prm:qwen:", "prm:qwen:a/b@best", "prm:qwen:a/b@",
                 "genrm:", "genrm:a/b@0", "genrm:a/b@few", "deepconf:most"):  # fmt: skip
        with pytest.raises(OptionError, match="Try:"):
            known(name)
