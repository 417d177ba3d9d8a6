"""What no trainer takes: numbers out of range, weights that are not finite, and damaged files of an earlier run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ProgressCallback

from trueplex.errors import OptionError, StoreError, TrueplexError
from trueplex.train.common.finite import check_finite
from trueplex.train.common.recipe import renamed
from trueplex.train.common.run import claim, end_bar
from trueplex.train.common.state import (
    as_line,
    last_checkpoint,
    read_lines,
    read_weights,
    seal_checkpoint,
    write_weights,
)
from trueplex.train.common.watch import Watch
from trueplex.train.grpo.loss import Clip
from trueplex.train.grpo.recipe import PolicyRecipe
from trueplex.train.reward import RewardRecipe
from trueplex.train.values import Valuing, steps_of
from trueplex.train.verifier import Recipe

RECIPES: list[tuple[Any, str]] = [
    *((Recipe, name) for name in ("lr", "epochs", "ranking")),
    *((RewardRecipe, name) for name in ("lr", "epochs")),
    *((PolicyRecipe, name) for name in ("lr", "kl", "max_norm", "warmup")),
    *((Clip, name) for name in ("low", "high", "dual")),
]


@pytest.mark.parametrize(("recipe", "name"), RECIPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_pass_no_recipe(recipe: Any, name: str, value: float) -> None:
    recipe()
    with pytest.raises(OptionError, match="Try:"):
        recipe(**{name: value})


@pytest.mark.parametrize("recipe", [Recipe, RewardRecipe, PolicyRecipe, Valuing])
@pytest.mark.parametrize("seed", [-1, 2**32, 2**63])
def test_seeds_out_of_range_are_refused(recipe: Any, seed: int) -> None:
    recipe(seed=2**32 - 1)
    with pytest.raises(OptionError, match=r"seed is .*Try: a whole number from 0"):
        recipe(seed=seed)


@pytest.mark.parametrize("recipe", [Recipe, RewardRecipe, PolicyRecipe])
@pytest.mark.parametrize("names", [("clipboard",), ("wandb", "wandb")])
def test_trackers_are_known_and_named_once(recipe: Any, names: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match="report-to"):
        recipe(report_to=names)


def test_weights_that_are_not_finite_are_refused_with_the_step() -> None:
    layer = nn.Linear(2, 2)
    check_finite(layer.named_parameters(), 7)
    layer.bias.data[1] = torch.inf
    with pytest.raises(TrueplexError, match=r"not finite at step 7 \(bias"):
        check_finite(layer.named_parameters(), 7)


def test_a_cut_off_line_is_left_out_and_a_damaged_one_is_an_error(said: list[str], tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [row["step"] for row in read_lines(path)] == [1, 2] and "cut off" in said[0]
    # The last: a flipped bit makes of the end of a line what Python's splitlines also takes for one.
    for damaged in (
        '{"step": 1}\n{"ste\n{"step": 3}\n',
        '{"step": 1}\x0b{"step": 2}\n',
        "{}\n",
        '{"step": "1"}\n',
        "[1]\n",
        '{"step": true}\n',
    ):
        path.write_text(damaged)
        with pytest.raises(StoreError, match=r"cannot read .*line \d .*Try:"):
            read_lines(path)


def test_a_recipe_that_is_damaged_or_empty_is_no_match(tmp_path: Path) -> None:
    own = {"lr": 1.0, "target_modules": [], "batch_size": 8}
    claim(tmp_path, own, True)
    claim(tmp_path, own, True)
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"lr": 1.0, "targets": [], "rows": 8}))  # as version 0.2 wrote it
    claim(tmp_path, own, True)
    assert renamed({"checkpointing": True}) == {"gradient_checkpointing": True}
    path.write_text("{}")
    with pytest.raises(TrueplexError, match=r"another recipe \(lr, target_modules, batch_size\)"):
        claim(tmp_path, own, True)
    for damaged in ("", "[]", '{"lr": '):
        path.write_text(damaged)
        with pytest.raises(StoreError, match=r"cannot read .*recipe.json"):
            claim(tmp_path, own, True)
    (tmp_path / "values.json").write_text("{}")
    with pytest.raises(StoreError, match="steps is missing"):
        steps_of(tmp_path)


def test_a_changed_figure_in_a_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    path.write_text(as_line({"step": 1, "x": 0.5}) + as_line({"step": 2, "x": float("nan")}))
    assert read_lines(path) == [{"step": 1, "x": 0.5}, {"step": 2, "x": None}]
    path.write_text(path.read_text().replace("0.5", "0.7"))
    with pytest.raises(StoreError, match=r"line 1 \(its checksum does not match"):
        read_lines(path)


def test_a_changed_weight_is_told(tmp_path: Path) -> None:
    layer = nn.Linear(300, 2)
    write_weights(tmp_path / "w.safetensors", layer.state_dict())
    assert read_weights(tmp_path / "w.safetensors").keys() == layer.state_dict().keys()
    whole = bytearray((tmp_path / "w.safetensors").read_bytes())
    whole[-1201] ^= 1
    (tmp_path / "w.safetensors").write_bytes(whole)
    with pytest.raises(StoreError, match="checksum does not match"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("kind", ["cut off", "of another model"])
def test_damaged_best_weights_are_one_line(tmp_path: Path, kind: str) -> None:
    layer = nn.Linear(2, 2)
    watch = Watch(dict, layer, tmp_path, 3)
    save_file(layer.state_dict(), watch.best)
    watch.restore()
    if kind == "cut off":
        watch.best.write_bytes(watch.best.read_bytes()[:-4])
    else:
        save_file(nn.Linear(3, 2).state_dict(), watch.best)
    with pytest.raises(StoreError, match=r"cannot read .*best.safetensors"):
        watch.restore()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
@pytest.mark.parametrize("keep", [None, 0, -9, "flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    said: list[str], tmp_path: Path, file: str, keep: Any
) -> None:
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"a": torch.zeros(9)}, folder / name)
        save_file({"a": torch.zeros(9)}, folder / "model.safetensors")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "max_steps": 9}))
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4") and not said
    if keep is None or keep:  # one of version 0.2 has no checksums
        seal_checkpoint(tmp_path, 4)
    path = tmp_path / "checkpoint-4" / file
    if keep is None:
        path.unlink()
    elif keep == "flipped":
        whole = bytearray(path.read_bytes())
        whole[-20] ^= 4
        path.write_bytes(whole)
    else:
        path.write_bytes(path.read_bytes()[:keep])
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert len(said) == 1 and "checkpoint-4 is damaged" in said[0]


def test_what_is_said_of_an_error_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk was told behind transformers' progress bar, in the middle of its line."""
    bar = ProgressCallback()
    bar.on_train_begin(None, SimpleNamespace(is_world_process_zero=True, max_steps=3), None)
    end_bar(SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[bar])))
    assert capsys.readouterr().err.endswith("\n")
