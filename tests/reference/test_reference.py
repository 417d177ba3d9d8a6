"""The embedded model's tasks: right answers, splits that cannot meet, slips at their rates."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import islice, permutations, product
from random import Random

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from trueplex.data.embedded import countdown, remainder, slips
from trueplex.data.embedded.tasks import PRACTICE, SUITES, problems, split_of, stream, tasks
from trueplex.errors import OptionError
from trueplex.models.load import load, reference_path
from trueplex.reference.text import build_tokenizer, conclude, render
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


@pytest.mark.parametrize("name", SUITES)
def test_thoughts_take_about_60_tokens_and_more(name: str) -> None:
    """Of the texts that the model learned from: 5 % may be shorter, the longest end before the limit of 640."""
    tokenizer, lengths = AutoTokenizer.from_pretrained(reference_path()), []
    for task in islice(tasks(name, "train"), 60):
        for draw in range(20):
            thought, answer = SUITES[name].think(Random(draw), task)
            lengths.append(len(tokenizer(f"{thought}\n</think>{conclude(answer)}<|end|>")["input_ids"]))
    assert 55 < np.quantile(lengths, 0.05) < 110 and max(lengths) < 640


@pytest.mark.parametrize("name", SUITES)
def test_what_a_suite_asks_was_practised(name: str) -> None:
    """Sizes, sentences and families of the suites are among those that the base model learned from."""
    if name not in PRACTICE:
        assert list(islice(tasks(name, "train"), 9)) == list(islice(tasks(name, "practice"), 9))
    elif name.startswith("remainder"):
        learned = {
            (t.big, t.small) for n in SUITES if n.startswith("remainder") for t in islice(tasks(n, "practice"), 400)
        }
        assert {(t.big, t.small) for t in islice(tasks(name, "train"), 400)} <= learned
    else:
        assert {len(t.numbers) for t in islice(tasks(name, "train"), 50)} == {4}
        assert {len(t.numbers) for t in islice(tasks("countdown-hard", "practice"), 50)} == {4}


@pytest.mark.parametrize("listed", [0, 3, 6])
def test_remainders_hold_nothing_to_find_in_the_first_lines(listed: int) -> None:
    """Neither the number that is asked nor, where a sentence misleads, the one that a misreading finds."""
    rng, early = Random(listed), 0
    for _ in range(300):
        task = remainder.make(rng, (8, 13), 0.65, listed)
        lines = [task.r_big + i * task.big for i in range(max(listed, 1))]
        found = {task.r_small, task.small - task.r_small} if task.trap else {task.r_small}
        early += any(number % task.small in found for number in lines)
        assert int(task.answer) % task.big == task.r_big and int(task.answer) % task.small == task.r_small
    assert early == 0 if listed else early > 10


@pytest.mark.parametrize(("count", "last"), [(3, "+-*"), (4, "+-*"), (4, "++**-")])
def test_countdown_has_one_value_before_the_last_step(count: int, last: str) -> None:
    """Checked the other way: all expressions, forwards."""
    rng = Random(1)
    for _ in range(20):
        task = countdown.make(rng, count, last)
        assert len(task.numbers) == count
        found = {}
        for a, b, c in permutations(task.numbers, 3):
            for before, sign in product((a + b, a * b, a - b), "+-*"):
                if before > 0 and {"+": before + c, "-": before - c, "*": before * c}[sign] == task.target:
                    found.setdefault(before, set()).add(sign)
        assert found.keys() == {int(task.answer)} and found[int(task.answer)] & set(last)


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


def test_the_weights_that_ship_learned_from_these_texts() -> None:
    """Else the recipe would make another model (the tokenizer that ships is older, from texts a little different)."""
    told = hashlib.sha256()
    for name, suite in SUITES.items():
        rng = Random(1)
        for task in islice(tasks(name, "practice", 3), 40):
            told.update(repr((task.text, *suite.think(rng, task))).encode())
    assert told.hexdigest()[:16] == "73152aa6de7e933f"


def test_wrong_names_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown suite"):
        problems("nope")
    with pytest.raises(OptionError, match="unknown split"):
        problems("chain-easy", "tests")
    with pytest.raises(OptionError, match="not negative"):
        problems(n=-1)


def test_a_suite_gives_what_it_has_and_says_so(trueplex) -> None:
    """The remainder suites are finite; asked for more, they never ended."""
    code, out, said = trueplex("problems", "remainder-easy", "--n", "1000")
    number = len(out.splitlines())
    assert code == 0 and 400 < number < 1000
    assert said == f"trueplex: remainder-easy has {number} problems for test, and no more\n"
    assert len({json.loads(line)["problem"] for line in out.splitlines()}) == number


def test_problems_are_made_as_they_are_asked_for() -> None:
    """As many as a number can say were made in memory before the first was printed."""
    assert next(stream("chain-easy", "test", 2**31 - 1, 0)) == problems("chain-easy", "test", 1)[0]


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
