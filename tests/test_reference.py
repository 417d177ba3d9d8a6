"""The embedded model's tasks: right answers, splits that cannot meet, slips at their rates."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice, permutations, product
from random import Random

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from trueplex.errors import OptionError
from trueplex.loading import load, reference_path
from trueplex.reference import countdown, slips
from trueplex.reference.tasks import SUITES, problems, split_of, tasks
from trueplex.reference.text import build_tokenizer, render
from trueplex.train.reward import _base as train_base


def test_splits_cannot_overlap_and_a_seed_gives_the_same_problems() -> None:
    texts = {
        split: {p.text for p in problems("reference", split, 300, seed)}
        for split in ("train", "validation", "test")
        for seed in (1,)
    }
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert all(split_of(t) == split for split, found in texts.items() for t in found)
    assert problems("chain-easy", "test", 5, 3) == problems("chain-easy", "test", 5, 3)
    assert problems("chain-easy", "test", 5, 3) != problems("chain-easy", "test", 5, 4)
    ids = [p.id for p in problems("reference", "test", 60)]
    assert len(set(ids)) == 60


@pytest.mark.parametrize("name", SUITES)
def test_without_slips_every_thought_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the texts err is injected; the machinery itself makes no mistake."""
    monkeypatch.setattr(slips, "slip", lambda rng, value, rate: value)
    monkeypatch.setattr(slips, "FALSE_ALARM", 0.0)
    monkeypatch.setattr(countdown, "GIVE_UP", {False: 0.0, True: 0.0})
    suite, rng = SUITES[name], Random(0)
    for task in islice(tasks(name, "train"), 100):
        if hasattr(task, "steps"):
            task = type(task)(
                task.text, task.start, tuple(s if not s.trap else type(s)("+", 0) for s in task.steps), task.answer
            )
        if hasattr(task, "trap"):
            task = type(task)(*(getattr(task, f) if f != "trap" else 0.0 for f in task.__dataclass_fields__))
        thought, answer = suite.think(rng, task)
        assert answer == task.answer, (task, thought)
        assert " no\n" not in thought or name.startswith("countdown")


@pytest.mark.parametrize("name", SUITES)
def test_texts_err_as_often_as_designed(name: str) -> None:
    """One thought is right 35 to 75 % of the time, most problems can be solved, and some mislead the majority."""
    suite, right, majority, solvable = SUITES[name], 0, 0, 0
    for task in islice(tasks(name, "train"), 60):
        answers = [suite.think(Random(i), task)[1] for i in range(40)]
        right += sum(a == task.answer for a in answers)
        majority += Counter(answers).most_common(1)[0][0] == task.answer
        solvable += task.answer in answers
    assert 0.35 < right / 60 / 40 < 0.75
    assert right / 60 / 40 + 0.08 < majority / 60 < solvable / 60


@pytest.mark.parametrize("hard", [False, True])
def test_countdown_has_one_value_before_the_last_step(hard: bool) -> None:
    """Checked the other way: all expressions, forwards."""
    rng = Random(1)
    for _ in range(20):
        task = countdown.make(rng, hard)
        found = set()
        for a, b, c in permutations(task.numbers, 3):
            for before, last in product((a + b, a * b, a - b), "+-*"):
                if before > 0 and {"+": before + c, "-": before - c, "*": before * c}[last] == task.target:
                    found.add(before)
        assert found == {int(task.answer)}


def test_the_tokenizer_reads_anything_and_keeps_digits_apart() -> None:
    tokenizer = build_tokenizer()
    for text in ("12345", "naïve ☃ \\frac{1}{2}\n\ttab", "Ann has 12 apples."):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert len(tokenizer("12345")["input_ids"]) == 5
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    prompt, response = render("Hi", "1+1=2", "2")
    assert rendered == prompt and response.endswith("</think>Answer: \\boxed{2}<|end|>")
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_wrong_names_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown suite"):
        problems("nope")
    with pytest.raises(OptionError, match="unknown split"):
        problems("chain-easy", "tests")
    with pytest.raises(OptionError, match="not negative"):
        problems(n=-1)


def test_the_policy_that_ships_is_an_adapter_of_the_embedded_model(trueplex) -> None:
    """It loads by its name, with a verifier of its own, and what is trained from it begins with what it learned."""
    base, learned = (load(name, device="cpu") for name in ("reference", "reference-multiplex"))
    assert learned.fingerprint != base.fingerprint and learned.tokenizer_fingerprint == base.tokenizer_fingerprint
    assert learned.default_max_tokens == base.default_max_tokens and learned.instruction == ""
    judge, _ = train_base(AutoModelForSequenceClassification, learned, num_labels=1)
    weights = learned.model.base_model.state_dict()
    assert all(torch.equal(weights[name], w) for name, w in judge.base_model.state_dict().items())
    problem = problems("chain-easy", "validation", 1)[0].text
    code, out, said = trueplex("solve", problem, "--model", "reference-multiplex", "--paths", "8", "--json")
    solution = json.loads(out)
    assert code == 0 and solution["answer"] and "no verifier" not in said
    assert all(p["score"] is not None for p in solution["paths"])
    shipped = sum(f.stat().st_size for f in reference_path().parent.rglob("*.safetensors"))
    assert shipped < 25 * 2**20
