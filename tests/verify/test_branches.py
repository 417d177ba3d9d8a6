"""Texts that begin alike, grafted into one pass: the values of each text alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, Qwen3Config

from trueplex.models.backbone import Backbone
from trueplex.models.load import load, locate
from trueplex.verify.open import open_scorer
from trueplex.verify.readers import branches
from trueplex.verify.readers.generative import GenerativeReader
from trueplex.verify.readers.outcome import OutcomeReader
from trueplex.verify.readers.reading import Written

IDS = st.lists(
    st.integers(0, 2), min_size=1, max_size=7
)  # few words, so that texts share beginnings, or are one another's
GROUPS = st.lists(st.lists(IDS, min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(GROUPS)
def test_every_branch_stands_and_sees_as_its_text_alone(groups: list[list[list[int]]]) -> None:
    """What the end of a branch sees, in the order of positions, is its text: nothing else, nothing twice."""
    made = branches.graft(groups, torch.device("cpu"))
    assert len(made.ends) == max(map(len, groups))
    for row, texts in enumerate(groups):
        assert branches.tokens(texts) <= sum(map(len, texts)) and branches.width(texts) <= made.ids.shape[1]
        for text, end in zip(texts, made.ends.tolist(), strict=False):
            seen = made.seen[row, 0, end].nonzero().flatten()
            assert made.positions[row, seen].tolist() == list(range(len(text)))
            assert made.ids[row, seen].tolist() == text
            for column in seen.tolist():  # and so does all that it sees, each up to its own position
                before = made.seen[row, 0, column].nonzero().flatten()
                assert made.positions[row, before].tolist() == list(range(int(made.positions[row, column]) + 1))
    assert bool(made.seen.any(-1).all())  # no softmax is empty


@pytest.fixture(scope="module")
def reference() -> Backbone:
    return load("reference", device="cpu")


def both_ways(backbone: Backbone, reader: GenerativeReader | OutcomeReader) -> torch.Tensor:
    """Scores of two growing traces as branches, which are those of each text alone, for less."""
    ids = backbone.tokenizer("3+1=4\nso 4\n4-1=3", add_special_tokens=False)["input_ids"]
    written = [Written("Ann has 3.", ids, True), Written("How many?", ids[:5], True)]
    at = [[1, 4, len(ids)], [2, 5, 5]]
    scores, cost = reader.read(written, at)
    could, reader.grouped.branches = reader.grouped.branches, False
    alone, whole = reader.read(written, at)
    assert torch.allclose(torch.tensor(scores), torch.tensor(alone), atol=1e-6)
    assert (sum(cost) < sum(whole)) == could
    return torch.tensor(scores)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral", "gemma2"])
def test_only_models_that_see_all_that_is_before_read_branches(
    backbones: Callable[[str], Backbone], family: str
) -> None:
    """A window of columns would hold words of other texts."""
    backbone = backbones(family)
    reader = open_scorer(backbone, f"genrm:{backbone.name}").reader
    assert reader.grouped.branches == (set(backbone.kinds.layers) == {"full_attention"})
    both_ways(backbone, reader)


@pytest.mark.parametrize("kind", ["genrm", "orm"])
def test_a_reader_of_branches_gives_what_it_gives_of_texts(reference: Backbone, kind: str, tmp_path: Path) -> None:
    """Of a model that has learned something, whose scores therefore differ."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        locate(reference.name), num_labels=1, dtype=torch.float32
    )
    torch.nn.init.normal_(model.score.weight, std=0.05)  # so that no score is 0 or 1
    model.save_pretrained(tmp_path)
    reference.tokenizer.save_pretrained(tmp_path)
    reader = open_scorer(reference, f"{kind}:{tmp_path if kind == 'orm' else 'reference'}").reader
    assert reader.grouped.branches
    scores = both_ways(reference, reader)
    assert len({round(s, 4) for s in scores.flatten().tolist()}) == 5  # two of the six texts are one


def test_a_group_that_does_not_fit_is_read_text_by_text(
    said: list[str], reference: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_scorer(reference, "genrm:reference").reader
    ids = reference.tokenizer("3+1=4\nso 4\n4-1=3", add_special_tokens=False)["input_ids"]
    asked = [Written("Ann has 3.", ids, True)], [[1, 4, len(ids)]]
    expected, _ = reader.read(*asked)

    def full(*arguments: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(reader.grouped, "grafted", full)
    found, _ = reader.read(*asked)
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-6) and "one by one" in said[-1]


def test_a_model_that_reads_them_otherwise_reads_texts() -> None:
    config = Qwen3Config(num_hidden_layers=1)
    values = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.0, 0.0]])
    agrees = values.flatten()[:4]
    assert branches.can_branch(config, lambda texts: agrees, lambda groups: values)
    assert not branches.can_branch(config, lambda texts: agrees + 0.1, lambda groups: values)
