"""Checksums of folders, digests that are remembered by a file's identity, and names of weights."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trueplex import checksums
from trueplex.checksums import cache_file, check_seal, is_named, remembered, seal
from trueplex.errors import StoreError
from trueplex.models.fingerprint import fingerprint_of, fingerprint_of_files


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    os.utime(path, (1, 1))  # long ago
    return path


def test_a_digest_is_remembered_until_the_file_is_another(tmp_path: Path) -> None:
    path, asked = written(tmp_path / "w", b"one"), []

    def compute() -> str:
        asked.append(path.read_bytes())
        return str(len(asked))

    assert [remembered("k", [path], compute) for _ in range(3)] == ["1", "1", "1"]
    assert remembered("another kind", [path], compute) == "2" and remembered("k", [path], compute) == "1"
    os.utime(path, (2, 2))
    assert remembered("k", [path], compute) == "3"
    replaced = written(tmp_path / "beside", b"two")
    os.utime(replaced, (2, 2))
    os.replace(replaced, path)  # of the same size and time: another inode
    assert remembered("k", [path], compute) == "4" and asked[-1] == b"two"


def test_what_has_just_changed_is_not_remembered(tmp_path: Path) -> None:
    """Two writes within a tick of the clock leave one time of change."""
    (tmp_path / "w").write_bytes(b"one")
    asked: list[int] = []
    for _ in range(2):
        remembered("k", [tmp_path / "w"], lambda: asked.append(1) or "x")
    assert len(asked) == 2


@pytest.mark.parametrize("content", ["", "{", '{"k": 3}', '{"k": []}'])
def test_a_damaged_cache_costs_time_alone(content: str, tmp_path: Path) -> None:
    path = written(tmp_path / "w", b"one")
    remembered("k", [path], lambda: "right")
    known = cache_file().read_text()
    for damaged in (content, known.replace("right", "wrong")):
        cache_file().write_text(damaged)
        assert remembered("k", [path], lambda: "anew") == "anew"
        cache_file().write_text(known)
    shutil.rmtree(cache_file().parent)
    cache_file().parent.write_text("")  # nothing can be written there
    assert remembered("k", [path], lambda: "still") == "still"


def test_the_cache_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "REMEMBERED", 3)
    for name in "abcde":
        remembered("k", [written(tmp_path / name, b"")], lambda: "x")
    kept = [key for key in json.loads(cache_file().read_text()) if key.startswith("k ")]
    assert [key[-1] for key in kept] == ["c", "d", "e"]


def test_a_sealed_folder_is_as_it_was_written_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    check_seal(folder)
    for name in ("config.json", "model.safetensors", "README.md", "recipe.json"):
        (folder / name).write_text(name)
    seal(folder, without=("recipe.json",))
    check_seal(folder)
    for name in ("README.md", "recipe.json", "verifier.json"):  # to be edited, or not of the model
        (folder / name).write_text("edited")
    check_seal(folder)
    (folder / "model.safetensors").write_text("model.safetensorz")
    with pytest.raises(StoreError, match=r"model.safetensors \(it has changed since it was written.*Try:"):
        check_seal(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(StoreError, match="missing"):
        check_seal(folder)


# -- names of weights ---------------------------------------------------------------------------------------------


def test_every_value_of_every_tensor_counts() -> None:
    """Version 0.2 read the first 64 values: of 60 changed weights it noticed none."""
    drawn, state = random.Random(0), {"a": torch.randn(50, 40), "b": torch.randn(3000), "n": torch.arange(100)}
    plain = fingerprint_of(state)
    for _ in range(60):
        name = drawn.choice(list(state))
        place = drawn.randrange(state[name].numel())
        flat = state[name].clone().flatten()
        flat[place] = flat[place] + 1 if name == "n" else torch.nextafter(flat[place], torch.tensor(9.0))
        assert fingerprint_of(state | {name: flat.view(state[name].shape)}) != plain
    assert fingerprint_of(state | {"a": state["a"].T.contiguous()}) != plain
    assert fingerprint_of({"c" if name == "a" else name: t for name, t in state.items()}) != plain


def test_a_name_is_of_values_not_of_their_form(tmp_path: Path) -> None:
    short = {"a": torch.randn(50, 40).bfloat16(), "b": torch.randn(30).bfloat16()}
    names = {
        fingerprint_of({name: t.to(dtype) for name, t in short.items()}) for dtype in (torch.bfloat16, torch.float32)
    }
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    save_file(short, tmp_path / "one" / "model.safetensors")
    for name, tensor in short.items():
        save_file({name: tensor}, tmp_path / "two" / f"{name}.safetensors")
    index = {"weight_map": {name: f"{name}.safetensors" for name in short}}
    (tmp_path / "two" / "model.safetensors.index.json").write_text(json.dumps(index))
    for folder in ("one", "two"):
        names.add(str(fingerprint_of_files(str(tmp_path / folder))))
    assert len(names) == 1
    assert fingerprint_of(short | {"tied": short["a"]}) == fingerprint_of({"tied": short["a"], "b": short["b"]})
    assert fingerprint_of_files(str(tmp_path / "one"), (), "int8") not in names


def test_a_changed_adapter_has_another_name(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder, name in ((base, "model"), (adapter, "adapter_model")):
        folder.mkdir()
        save_file({"w": torch.ones(200)}, folder / f"{name}.safetensors")
    told = {"r": 4, "lora_alpha": 8, "base_model_name_or_path": "base"}

    def named() -> str | None:
        (adapter / "adapter_config.json").write_text(json.dumps(told))
        return fingerprint_of_files(str(base), [str(adapter)])

    first = named()
    told["base_model_name_or_path"] = "moved"
    assert named() == first
    told["lora_alpha"] = 9
    assert named() != first
    told["lora_alpha"] = 8
    state = load_file(adapter / "adapter_model.safetensors")
    state["w"][150] = 2
    save_file(state, adapter / "adapter_model.safetensors")
    assert named() != first


def test_a_name_of_version_02_is_accepted_and_said_once(said: list[str]) -> None:
    for _ in range(2):
        assert is_named("old", "new", "old", "this file")
    assert len(said) == 1 and "this file" in said[0]
    assert (
        is_named("new", "new", None, "x")
        and not is_named("other", "new", "old", "x")
        and not is_named(None, "new", None, "x")
    )
