"""What a suite's name stands for: presets through `datasets`, a data folder, files, and clear errors offline."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trueplex.data import suites
from trueplex.data.suites import PRESETS, check_folder, label, names_of, problems_of
from trueplex.errors import InputError, MissingExtra, OptionError

# A row of each public set as its repository has it, and the answers that it comes to.
ROWS = {
    "aime24": ({"id": 60, "problem": "P", "solution": "s", "answer": "204", "url": "u", "year": "2024"}, ("204",)),
    "aime25": ({"problem": "P", "answer": "70", "id": "0"}, ("70",)),
    "amc23": ({"id": 0, "problem": "P", "answer": 142.0, "url": "u"}, ("142",)),
    "math500": ({"problem": "P", "solution": "s", "answer": r"\frac{14}{3}", "unique_id": "u"}, (r"\frac{14}{3}",)),
    "minerva": ({"question": "P", "answer": "4.5e33"}, ("4.5e33",)),
    "olympiadbench": ({"id": 1606, "question": "P", "final_answer": ["2", ], "unit": None}, ("2",)),
    "gsm8k": ({"question": "P", "answer": "2 + 16 = <<2+16=18>>18\n#### 18"}, ("18",)),
    "gsm8k-train": ({"question": "P", "answer": "2 + 16 = <<2+16=18>>18\n#### 18"}, ("18",)),
    "dapo-math-17k": ({"prompt": "P", "solution": "34", "data_source": "math_dapo"}, ("34",)),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_read_by_datasets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder that is laid out as the repository is; the hub itself is not asked."""
    preset, (row, answers) = PRESETS[name], ROWS[name]
    folder = tmp_path / (preset.configuration or "data")
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([row, row]), folder / f"{preset.split}-00000-of-00001.parquet")
    named = preset.configuration or "default"
    (tmp_path / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {named}\n  data_files:\n  - split: {preset.split}\n    path: {folder.name}/{preset.split}-*\n---\n"
    )
    # Read when `datasets` is first imported: in its own variable, or a folder of this name in an earlier run would be found.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setitem(PRESETS, name, replace(preset, repository=str(tmp_path)))
    problems = problems_of(name, None, None, 0)
    assert len(problems) == 2 and problems[0].text == "P" and problems[0].answers == answers
    assert problems[1].id == str(row.get("id", f"{name}/2"))
    with pytest.raises(OptionError, match="no splits"):
        problems_of(name, "test", None, 0)


def test_offline_names_the_data_folder() -> None:
    with pytest.raises(InputError, match=r"data_dir=DIR with DIR/aime24\.jsonl"):
        problems_of("aime24", None, None, 0)


def test_a_data_folder_may_name_a_file_by_suite_or_by_suite_and_split(tmp_path: Path) -> None:
    for name in ("gsm8k-test", "gsm8k-train", "aime24"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"problem": name, "answers": ["1"]}) + "\n")
    for suite, file in (("gsm8k", "gsm8k-test"), ("gsm8k-train", "gsm8k-train"), ("aime24", "aime24")):
        assert [p.text for p in problems_of(suite, None, None, 0, tmp_path)] == [file]
    check_folder(["reference", "gsm8k"], tmp_path)
    with pytest.raises(OptionError, match="data_dir has no effect"):
        check_folder(["chain-easy", "@mine.jsonl"], tmp_path)
    with pytest.raises(InputError, match="holds no math500"):
        problems_of("math500", None, None, 0, tmp_path)


def test_without_a_network_what_was_fetched_before_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import config
    from datasets.packaged_modules.parquet.parquet import Parquet

    pq.write_table(pa.Table.from_pylist([{"problem": "P", "answer": "70"}]), tmp_path / "x.parquet")
    files = {"test": [str(tmp_path / "x.parquet")]}
    Parquet(str(tmp_path / "cache"), "aime25", hash="abc", data_files=files, config_id="default").download_and_prepare()
    (tmp_path / "cache" / "aime25").rename(tmp_path / "cache" / "math-ai___aime25")  # as one from the hub is kept
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(suites.hub, "answers", lambda: False)
    assert [p.answers for p in problems_of("aime25", None, None, 0)] == [("70",)]
    with pytest.raises(InputError, match="cannot read HuggingFaceH4/aime_2024 from the hub"):
        problems_of("aime24", None, None, 0)
    assert not config.HF_HUB_OFFLINE


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"trueplex\[data\]"):
        problems_of("math500", None, None, 0)


def test_a_data_folder_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "_from_hub", lambda *arguments: pytest.fail("asked the hub"))
    (tmp_path / "minerva.jsonl").write_text('{"id": "m/1", "problem": "P", "answers": ["1", "2"]}\n')
    pq.write_table(pa.Table.from_pylist([{"problem": "Q", "answer": 7}]), tmp_path / "math500.parquet")
    assert problems_of("minerva", None, None, 0, tmp_path)[0].answers == ("1", "2")
    (other,) = problems_of("math500", None, None, 0, tmp_path)
    assert other.answers == ("7",) and other.id == "math500/1"
    with pytest.raises(InputError, match=r"holds no aime25 as \.jsonl, .*\.parquet"):
        problems_of("aime25", None, None, 0, tmp_path)
    assert len(problems_of("chain-easy", "validation", 3, 0, tmp_path)) == 3


def test_bad_rows_are_said_with_their_number_and_left_out(said: list[str], tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    rows = [
        {"problem": "P", "answers": ["1"]},
        {"text": "?"},
        {"problem": "Q", "answer": 3.0},
        {"problem": "R", "answers": [None]},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.answers for p in problems_of(str(file), None, None, 0)] == [("1",), ("3",)]
    assert len(said) == 2 and "line 2" in said[0] and "line 4" in said[1]
    assert len(problems_of(str(file), None, 1, 0)) == 1
    pq.write_table(pa.Table.from_pylist([{"a": 1}]), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no problem that can be read"):
        problems_of(str(tmp_path / "none.parquet"), None, None, 0)


def test_names() -> None:
    assert len(names_of(["reference", "aime24"])) == 7
    assert (label("math500"), label("@dir/own.jsonl"), label("owner/set")) == ("math500", "own", "set")
    for wrong in ("nowhere", "no/such/place"):
        with pytest.raises(InputError, match="no suite or file"):
            problems_of(wrong, None, None, 0)


def test_no_network_is_found_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing answers, models and data sets are looked for among the files at hand, with no round of retries."""
    from huggingface_hub import constants

    from trueplex.errors import ModelError
    from trueplex.models import hub
    from trueplex.models import load as loading

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    assert not hub.answers() and loading.cached_only("nobody/nothing") == {"local_files_only": True}
    with pytest.raises(ModelError, match="cannot load model 'nobody/nothing'"):
        loading.load("nobody/nothing")
    with pytest.raises(InputError, match="from the hub"):
        problems_of("aime24", None, None, 0)
    assert time.monotonic() - started < 15  # one file's retries alone take 28 seconds
    import datasets

    assert not datasets.config.HF_HUB_OFFLINE  # who goes online again in the same process asks the hub again
