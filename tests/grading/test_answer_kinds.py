"""Answer kinds: how an answer is found in what models write, and when two are the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trueplex.errors import OptionError
from trueplex.grading.find import last_json
from trueplex.grading.kinds import AnswerKind, Found, answer_kind

AUTO = [
    (r"so \boxed{3}. The answer is 4", "3", "boxed"),
    ("So **the answer is 18**.", "18", "the answer is"),
    ("The answer to the question is \\frac{1}{2}.", "\\frac{1}{2}", "the answer is"),
    ("**Answer:**\n\n42", "42", "the answer is"),
    ("12 + 30 = 42\nThe final answer is within \\boxed{}.", "42", "last number"),  # SmolLM2 said it so
    ("The correct answer is (C) because it is red.", "(C)", "the answer is"),
    ("Janet sells 16 - 7 = 9.\n#### 18", "18", "####"),
    ("She has 3 + 4 = 7 apples.", "7", "last number"),
    ("Total: $1,234.50", "1234.50", "last number"),
    ("x = 5\n\nHope this helps!", "5", "last number"),
    ("The answer is not clear. But 12.", "12", "last number"),
    ("It is hot.\nIt is *Paris*", "It is *Paris", "last line"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer", "how"), AUTO)
def test_auto_takes_the_first_way_that_finds_something_and_tells_which(text: str, answer: str, how: str) -> None:
    assert answer_kind("auto")(text) == Found(answer, how)


def test_nothing_is_guessed_of_a_text_that_was_cut_off() -> None:
    for kind, text in (("auto", "He has 12 and th"), ("number", "so 12"), ("last-line", "Paris"), ("text", "a haiku")):
        assert answer_kind(kind)(text) is not None and answer_kind(kind)(text, whole=False) is None
    assert answer_kind("auto")(r"\boxed{4} and th", whole=False) == Found("4", "boxed")


FOUND = [
    ("boxed", "the answer is 4", None),
    ("number", "the answer is 18 eggs", "18 eggs"),
    ("number", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    ("number", "no digits", None),
    ("choice", "The answer is B) Paris.", "B"),
    ("choice", "I think it is (C).", "C"),
    ("choice", "A cat is I.", None),
    ("last-line", "one\n\n**two**\n", "two"),
    ("regex:city=(\\w+)", "city=Rome city=Oslo", "Oslo"),
    ("regex:x.z", "none", None),
    ("text", " a  haiku ", "a  haiku"),
    ("json", 'first {"a": 1}, then {"b": [2.0], "a": {}} end', '{"a": {}, "b": [2]}'),
    ("json", "```json\n[1, 2]\n``` and {", "[1, 2]"),
    ("json", "{broken", None),
]


@pytest.mark.parametrize(("kind", "text", "answer"), FOUND)
def test_what_each_kind_finds(kind: str, text: str, answer: str | None) -> None:
    found = answer_kind(kind)(text)
    assert (found.answer if found else None) == answer


EQUAL = [
    ("number", "18", "18 apples", True), ("number", "0.5", r"\frac12", True), ("number", "3", "4", False),
    ("choice", "B", "(B) 12", True), ("choice", "B", "b", True), ("choice", "B", "Paris", None),
    ("json", '{"a": 1}', '{"a":1.0}', True), ("json", '{"a": 1}', '{"a": true}', False), ("json", "[1]", "no JSON", None),
    ("text", "a b", "a\nb", True), ("text", "a b", "a c", False), ("auto", "1/2", "0.5", True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "answer", "gold", "right"), EQUAL)
def test_when_an_answer_is_right(kind: str, answer: str, gold: str, right: bool | None) -> None:
    assert answer_kind(kind).grade(answer, [gold]).correct is right
    assert answer_kind(kind).grade(None, [gold]).correct is False


def test_a_schema_refuses_what_does_not_fit_it(tmp_path: Path) -> None:
    pytest.importorskip("jsonschema")
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "required": ["city"]}))
    kind = answer_kind(f"json:{schema}")
    assert kind('{"city": "Rome"}') is not None and kind('{"town": "Rome"}') is None
    with pytest.raises(OptionError, match="cannot read the schema"):
        answer_kind("json:/nowhere.json")


def test_functions_of_ones_own_find_and_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_kind.py").write_text(
        "def last(text):\n    return text.split()[-1] if text.split() else None\n\ndef near(a, b):\n    return a[0] == b[0]\n"
        "def broken(text):\n    return 1 / 0\n\ndef typed(text):\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    kind = answer_kind("call:own_kind:last:near")
    assert kind("one two").answer == "two" and kind.grade("two", ["three"]).correct is True  # type: ignore[union-attr]
    assert kind.group(["two", "one", "three"]) == [[0, 2], [1]]
    for name, why in (("broken", "failed on"), ("typed", "gave int"), ("nothing", "no function")):
        with pytest.raises(OptionError, match=why):
            answer_kind(f"call:own_kind:{name}")("x")
    sys.modules.pop("own_kind")
    sorted_words = AnswerKind("sorted", find=lambda text: " ".join(sorted(text.split())))
    assert sorted_words("b a") == Found("a b", "sorted")


@pytest.mark.parametrize("name", ["numbers", "json:", "regex:", "regex:(", "call:one", "boxed:x", ""])
def test_an_unknown_kind_is_refused_with_the_grammar_or_the_reason(name: str) -> None:
    with pytest.raises(OptionError, match="Try:"):
        answer_kind(name)


@pytest.mark.parametrize("text", ["```json\n" + "[" * 5_000 + "\n```", "[" * 5_000])
def test_json_that_is_nested_too_deep_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="there is no JSON"):
        last_json(text)
