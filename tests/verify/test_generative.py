"""GenRM: the chance of Yes against a plain forward pass, at once and behind rationales."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from conftest import SEED
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import VerifierError
from trueplex.models.backbone import Backbone
from trueplex.solving.loop import Solved, stream
from trueplex.solving.settings import Settings
from trueplex.types import Problem
from trueplex.verify.open import open_scorer
from trueplex.verify.readers import forms, generative
from trueplex.verify.readers.reading import Written

SOLUTIONS = ("3+1=4\nso 4\n</think>Answer: \\boxed{4}<|end|>", "3+1=5", "3-1=2 no\n")
PROBLEM = "Ann has 3 apples and finds 1. How many?"


def written_by(backbone: Backbone, solution: str) -> Written:
    return Written(PROBLEM, backbone.tokenizer(solution, add_special_tokens=False)["input_ids"], True)


@torch.no_grad()
def yes_of(backbone: Backbone, ids: Sequence[int], before: str) -> float:
    """softmax(Yes, No) of the first words that tell them apart, read by one plain forward pass of one text."""
    yes, no = (backbone.tokenizer(before + word, add_special_tokens=False)["input_ids"] for word in ("Yes", "No"))
    same = next(i for i in range(len(yes)) if yes[i] != no[i])
    logits = (
        backbone.model(input_ids=torch.tensor([[*ids, *yes[:same]]], device=backbone.device), use_cache=False)
        .logits[0, -1]
        .double()
    )
    return torch.softmax(logits[[yes[same], no[same]]], 0)[0].item()


def test_the_verdict_is_the_chance_of_yes_after_the_question(qwen: Backbone) -> None:
    scorer = open_scorer(qwen, f"genrm:{qwen.name}")
    assert scorer.reader.verifier is qwen  # the same model is not loaded twice
    texts = [written_by(qwen, s) for s in SOLUTIONS]
    scores, cost = scorer.reader.read(texts, [[len(w.ids)] for w in texts])
    for solution, (score,), read in zip(SOLUTIONS, scores, cost, strict=True):
        text = f"<|user|>{PROBLEM}<|end|><|assistant|><think>{solution.removesuffix('<|end|>')}<|end|>"
        text += "<|user|>Is the answer correct (Yes/No)?<|end|><|assistant|><think></think>"
        assert score == pytest.approx(yes_of(qwen, [], text), abs=1e-6)
        assert read == len(qwen.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len({round(s, 5) for (s,) in scores}) == 3
    made = scorer.reader._fork.cache_info().misses
    assert [scorer.reader.most(w) for w in texts] == cost
    assert scorer.reader._fork.cache_info().misses == made  # what is asked about twice is tokenised once


def test_votes_are_averaged_behind_rationales_and_paid_for(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative, "RATIONALE_TOKENS", 12)
    traces: list = []
    grow = generative.grow

    def remembered(batch):
        for stopped in grow(batch):
            traces.extend(stopped)
            yield stopped

    monkeypatch.setattr(generative, "grow", remembered)
    scorer = open_scorer(qwen, f"genrm:{qwen.name}@3")
    texts = [written_by(qwen, s) for s in SOLUTIONS]
    at = [[len(w.ids)] for w in texts]
    scores, cost = scorer.reader.read(texts, at)
    assert scorer.reader.read(texts, at)[0] == scores  # drawn from (seed, text, number)
    alone, own = scorer.reader.read(texts[1:2], at[1:2])
    assert alone[0] == pytest.approx(scores[1], abs=1e-6) and own == cost[1:2]
    del traces[9:]
    assert len(traces) == 9
    ends = {qwen.think_end, *qwen.ends}
    for (score,), paid, solution in zip(scores, cost, SOLUTIONS, strict=True):
        mine = [t for t in traces if solution.removesuffix("<|end|>") + "<|end|><|user|>" in t.problem.text]
        prompt = qwen.tokenizer(mine[0].problem.text, add_special_tokens=False)["input_ids"]
        suffix = "\nVerification: Is the answer correct (Yes/No)? "
        verdicts, spent = [], len(prompt)
        assert paid <= scorer.reader.most(next(w for w in texts if w.ids == written_by(qwen, solution).ids))
        for trace in mine:
            ids = trace.steps.ids[:, 0].tolist()
            stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
            ids = [*prompt, *ids[:stop], qwen.think_end]
            verdicts.append(yes_of(qwen, ids, suffix))
            spent += len(trace.steps) + len(ids) + len(forms.fork(qwen.tokenizer, suffix)[0])
        assert len(mine) == 3 and score == pytest.approx(sum(verdicts) / 3, abs=1e-6) and paid == spent


def test_live_it_prunes_and_votes(qwen: Backbone) -> None:
    scorer = open_scorer(qwen, f"genrm:{qwen.name}", every=10)
    settings = Settings(4, Thinking(ending=Ending(20)), "genrm:x", prune="half:10", probe_every=10, seed=SEED)
    (solution,) = [e.solution for e in stream(qwen, [Problem("Hi")], settings, scorer) if isinstance(e, Solved)]
    assert sum(t.status.value == "pruned" for t in solution.traces) == 2
    assert solution.usage.probe_tokens > 4 * 10 and all(0 <= s <= 1 for t in solution.traces for _, s in t.scores)


def test_a_solution_whose_thoughts_the_template_drops_is_quoted(qwen: Backbone) -> None:
    kept = qwen.tokenizer.chat_template
    try:
        qwen.tokenizer.chat_template = kept.replace("+ m['content']", "+ (m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content'])")  # fmt: skip
        text = forms.asked(qwen.tokenizer, "1+1?", "<think>hm</think>2", rationale=False)
    finally:
        qwen.tokenizer.chat_template = kept
    assert text == (
        "<|user|>1+1?\n\nSolution: <think>hm</think>2\n\nIs the answer correct (Yes/No)?<|end|><|assistant|><think></think>"
    )


def test_a_tokenizer_that_cannot_tell_yes_from_no_is_refused() -> None:
    class Deaf:
        name_or_path = "deaf"

        def __call__(self, text: str, **named: object) -> dict[str, list[int]]:
            return {"input_ids": [1]}

    with pytest.raises(VerifierError, match="cannot tell Yes from No"):
        forms.fork(Deaf(), "well: ")
