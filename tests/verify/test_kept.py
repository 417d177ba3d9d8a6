"""What the base read of a trace is kept, and is what it would read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trueplex.errors import OptionError, StoreError
from trueplex.models.backbone import Backbone
from trueplex.verify import base as reading
from trueplex.verify import kept
from trueplex.verify.base import base_pass
from trueplex.verify.kept import KEPT, keep_reads, shared_reads
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import probe_pass

LENGTHS = (9, 30, 17)


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Callable[[Backbone], None]]:
    held: list[Backbone] = []

    def keep(backbone: Backbone) -> None:
        held.append(backbone)
        keep_reads(backbone, tmp_path, sum(LENGTHS))

    yield keep
    for backbone in held:
        backbone.kept.pop(KEPT, None)


def padded(backbone: Backbone, rows: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    rng = np.random.default_rng(0)
    ids = [torch.from_numpy(rng.integers(9, 200, length)) for length in LENGTHS]
    return torch.nn.utils.rnn.pad_sequence([backbone.embed(ids[row]) for row in rows], batch_first=True)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows the base has read, pass by pass."""
    read: list[int] = []
    whole = reading._read_whole
    monkeypatch.setattr(reading, "_read_whole", lambda b, x, last=None: read.append(len(x)) or whole(b, x, last))
    return read


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt_oss"])
def test_probes_read_what_was_kept(
    backbones: Callable[[str], Backbone], family: str, keeping, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kept by one batch, taken from there by another: the base runs over what is new alone, and scores and gradients are the same."""
    backbone = backbones(family)
    verifier, inputs = OneTokenVerifier(backbone, 4), padded(backbone)
    torch.nn.init.normal_(next(p for n, p in verifier.named_parameters() if "lora_B" in n))
    positions = torch.tensor([[3, length - 1] for length in LENGTHS])

    def score(rows: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        verifier.zero_grad()
        logits = probe_pass(verifier, base_pass(backbone, padded(backbone, rows)), positions[list(rows)])
        logits.sum().backward()
        return logits.detach(), verifier.embeddings.new_tensor(
            [p.grad.abs().sum() for p in verifier.parameters() if p.grad is not None]
        )

    plain = score((0, 1, 2))
    keeping(backbone)
    read = count_reads(monkeypatch)
    score((1,))
    for _ in range(2):
        for own, other in zip(plain, score((0, 1, 2)), strict=True):
            assert torch.allclose(own, other, rtol=1e-4, atol=1e-5)
    assert read == [1, 2] and len(list(tmp_path.glob("*.safetensors"))) == len(inputs)


def test_other_inputs_and_other_weights_are_read_anew(qwen: Backbone, keeping, tmp_path: Path) -> None:
    keeping(qwen)
    base_pass(qwen, padded(qwen, (1,)))
    base_pass(qwen, padded(qwen, (1,))[:, :-1])
    changed = padded(qwen, (1,))
    changed[0, 5, 0] += 1e-3
    base_pass(qwen, changed)
    assert len(list(tmp_path.iterdir())) == 3
    qwen.kept[KEPT] = kept.KeptReads(tmp_path, "other weights")
    base_pass(qwen, changed)
    assert len(list(tmp_path.iterdir())) == 4


def test_what_cannot_be_kept(
    qwen: Backbone, backbones: Callable[[str], Backbone], keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping(qwen)
    base_pass(qwen, padded(qwen, (1,)))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"cannot be read .* Try: delete it"):
        base_pass(qwen, padded(qwen, (1,)))
    with pytest.raises(StoreError, match="cannot write"):
        keep_reads(qwen, file, 10)
    monkeypatch.setattr(kept, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(OptionError, match=r"has room for .* without keep_base"):
        keep_reads(qwen, tmp_path, 10**6)
    recurrent = replace(qwen)
    recurrent.kinds = type("Kinds", (), {"recurrent": True})
    with pytest.raises(OptionError, match="recurrent layers"):
        keep_reads(recurrent, tmp_path, 1)


def test_verifiers_that_take_turns_read_a_batch_once(qwen: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are those of each alone; what is shared is counted for each, and another batch, or one that is forgotten, is read."""
    verifiers = [OneTokenVerifier(qwen, 4), OneTokenVerifier(qwen, 2)]
    positions = torch.tensor([[3, length - 1] for length in LENGTHS])
    read = count_reads(monkeypatch)

    def score(verifier: OneTokenVerifier, rows: tuple[int, ...]) -> torch.Tensor:
        with torch.inference_mode():
            return probe_pass(verifier, base_pass(qwen, padded(qwen, rows)), positions[list(rows)])

    turns = [(verifier, rows) for rows in ((0, 1), (1, 2)) for verifier in verifiers]
    alone = [score(*turn) for turn in turns]
    read.clear()
    with shared_reads(qwen) as reads:
        together = [score(*turn) for turn in turns]
        assert len(read) == 2 and 0 < reads.spent < reads.due == pytest.approx(2 * reads.spent)
        reads.forget()
        assert torch.equal(score(*turns[0]), alone[0]) and len(read) == 3
        score(*turns[2])  # one batch is held, never two
        assert torch.equal(score(*turns[0]), alone[0]) and len(read) == 5
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    assert score(*turns[0]).equal(alone[0]) and len(read) == 6


def test_verifiers_that_take_turns_take_what_a_folder_keeps(
    qwen: Backbone, keeping: Callable[[Backbone], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is read for several at once is kept in the folder, found there by the next, and read anew only where that is asked."""
    read, inputs = count_reads(monkeypatch), padded(qwen, (0, 1))
    keeping(qwen)
    for _ in range(2):
        with shared_reads(qwen):
            base_pass(qwen, inputs), base_pass(qwen, inputs)
    assert read == [2] and len(list(tmp_path.glob("*.safetensors"))) == 2
    with shared_reads(qwen, anew=True):
        base_pass(qwen, inputs), base_pass(qwen, inputs)
    assert read == [2, 2]
