"""Cards and where they go: nothing is sent by a dry run, and what is sent is one commit with a card in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from trueplex.models.load import reference_path
from trueplex.report.cards import read_card

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verifier(tmp_path: Path) -> Path:
    return Path(shutil.copytree(reference_path() / "verifier", tmp_path / "verifier"))


def test_a_verifier_is_told(trueplex: Run, verifier: Path) -> None:
    code, out, _ = trueplex("verifier", "info", str(verifier))
    assert code == 0 and "base: reference" in out and "rank: 16" in out and "within_auroc@1.0: 0.894" in out
    told = json.loads(trueplex("verifier", "info", str(verifier), "--json")[1])
    assert told["parameters"] > 1000 and told["calibrated"] is True and told["data"].startswith("94311 traces of ")
    assert "/" not in told["data"]  # of a path, the name of the data alone


def test_verifiers_are_listed(trueplex: Run, verifier: Path) -> None:
    code, out, _ = trueplex("verifier", "list", str(verifier.parent))
    assert code == 0 and out.split() == [str(verifier), "reference", "0.894"]
    assert len(trueplex("verifier", "list")[1].splitlines()) >= 2
    code, _, err = trueplex("verifier", "list", str(verifier.parent / "nothing"))
    assert code == 2 and "no verifier in" in err


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_what_is_no_verifier_is_one_line(trueplex: Run, name: str) -> None:
    code, out, err = trueplex("verifier", "info", name)
    assert (code, out) == (2, "") and "is not a verifier" in err


def test_a_dry_run_shows_the_card_and_sends_nothing(trueplex: Run, verifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    code, out, _ = trueplex("push", str(verifier), "me/mine", "--base", "me/base", "--license", "mit", "--dry-run")
    assert code == 0 and "adapter_model.safetensors" in out and "license: mit" in out and "base_model: me/base" in out
    assert [line for line in out.splitlines() if line.startswith("## ")] == ["## Base", "## Data", "## Quality", "## Intended use"]  # fmt: skip
    assert "--model me/base --verifier me/mine" in out and "library_name: peft" in out


def test_a_base_that_is_no_hub_id_is_no_metadata(verifier: Path) -> None:
    assert "base_model:" not in read_card(verifier).text("me/mine")


def test_what_is_sent_is_one_commit(trueplex: Run, verifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Hub:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            sent.update(name=name, private=private)

        def create_commit(self, name: str, operations: list[Any], commit_message: str) -> Any:
            sent["files"] = {o.path_in_repo for o in operations}
            return type("Commit", (), {"commit_url": "https://hub/me/mine/commit/1"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    (verifier / ".env").write_text("SECRET=1")
    code, out, _ = trueplex("push", str(verifier), "me/mine", "--private")
    assert code == 0 and out.strip() == "https://hub/me/mine/commit/1" and sent["private"] is True
    assert sent["files"] == {"README.md", "adapter_config.json", "adapter_model.safetensors", "calibration.json", "combined.json", "verifier.json"}  # fmt: skip


def test_what_cannot_be_pushed_is_one_line(trueplex: Run, verifier: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, told in (
        ((str(verifier), "mine"), "no name on the hub"),
        ((str(tmp_path / "empty"), "me/mine"), "neither a verifier nor a model"),
        ((str(verifier), "me/mine"), "cannot push to me/mine"),  # the tests are offline
    ):
        code, out, err = trueplex("push", *arguments)
        assert (code, out) == (2, "") and told in err and "Try:" in err
    weights = verifier / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")  # that would have been sent
    assert "are not those that its verifier.json" in trueplex("push", str(verifier), "me/mine", "--dry-run")[2]
    weights.unlink()
    assert "no *.safetensors weights" in trueplex("push", str(verifier), "me/mine", "--dry-run")[2]


def test_a_policy_is_told_by_its_run(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"model": "me/base", "fingerprint": "ab", "recipe": {"lr": 0.1}}))  # fmt: skip
    (tmp_path / "run" / "validation.jsonl").write_text('{"step": 0, "right": 0.25}\n{"step": 10, "right": 0.5}\n')
    card = read_card(folder)
    text = card.text("me/mine")
    assert card.quality == {"right at step 0": 0.25, "right at step 10": 0.5} and "base_model: me/base" in text
    assert "Unknown: the folder does not say." in text and "library_name: transformers" in text
