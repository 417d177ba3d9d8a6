"""Which problems a name stands for: the embedded suites, public benchmarks by name, hub data sets, files.

`PRESETS` is the one table of public sets: where each lies on the hub, and which columns hold the problem and
what counts as right. They are read through `datasets`, or, with a data folder, from DIR/NAME.jsonl or
DIR/NAME.parquet: nothing is fetched then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trueplex.data.embedded import tasks
from trueplex.data.problems import ANY, Columns, problem_of, read_jsonl, read_parquet
from trueplex.errors import InputError, MissingExtra, OptionError, reason
from trueplex.models import hub
from trueplex.types import Problem

log = logging.getLogger(__name__)

READERS = {".jsonl": read_jsonl, ".parquet": read_parquet}


@dataclass(frozen=True)
class Preset:
    """A public set on the hub: repository, configuration, split, and the columns of a row."""

    repository: str
    split: str
    problem: str = "problem"
    answer: str = "answer"
    configuration: str | None = None


PRESETS = {
    "aime24": Preset("HuggingFaceH4/aime_2024", "train"),
    "aime25": Preset("math-ai/aime25", "test"),
    "amc23": Preset("AI-MO/aimo-validation-amc", "train"),  # the 83 of the Multiplex paper; answers are floats
    "math500": Preset("HuggingFaceH4/MATH-500", "test"),
    "minerva": Preset("math-ai/minervamath", "test", "question"),
    # Text-only English mathematics with a final answer, a list of one text.
    "olympiadbench": Preset("Hothan/OlympiadBench", "train", "question", "final_answer", "OE_TO_maths_en_COMP"),
    # What the OTV paper rolls out: DAPO-Math-17k, each problem once (the original repeats them a hundredfold).
    "dapo-math-17k": Preset("open-r1/DAPO-Math-17k-Processed", "train", "prompt", "solution", "all"),
}


def names_of(suites: Iterable[str]) -> list[str]:
    """The suites, with ``reference`` as all the embedded ones."""
    return [name for suite in suites for name in (tasks.SUITES if suite == "reference" else [suite])]


def label(name: str) -> str:
    """What a suite is called in results and as a folder."""
    return name.removeprefix("@") if name in PRESETS or name in tasks.SUITES else Path(name.removeprefix("@")).stem


def problems_of(
    name: str, split: str | None, n: int | None, seed: int, data_dir: Path | None = None,
    default_split: str = "test",
) -> list[Problem]:  # fmt: skip
    """The first n problems of a suite, or all of them; bad lines are said and left out.

    ``name`` is an embedded suite, a preset, FILE.jsonl, FILE.parquet, or OWNER/NAME[:CONFIGURATION] on the
    hub. ``split`` is of embedded suites and hub data sets.

    Raises:
        OptionError: a split where there is none to choose, or an n below 1.
        InputError: there is no such suite, or it cannot be read. MissingExtra: `datasets` is not installed.
    """
    if n is not None and n < 1:
        raise OptionError(f"n is {n}. Try: at least one problem")
    path = Path(name.removeprefix("@"))
    if name == "reference" or name in tasks.SUITES:
        return tasks.problems(name, split or default_split, 200 if n is None else n, seed)
    if data_dir is not None and path.suffix not in READERS:
        path = _in_folder(name, data_dir)
    if path.suffix in READERS and (os.path.exists(path) or "/" not in name or path.is_absolute()):
        _no_split(name, split)
        problems, complaints = READERS[path.suffix](str(path))
    elif name in PRESETS:
        _no_split(name, split)
        preset = PRESETS[name]
        rows = _from_hub(name, preset.repository, preset.configuration, preset.split)
        problems, complaints = _read(rows, name, Columns((preset.problem,), (preset.answer,)))
    elif name.count("/") == 1 and path.suffix not in READERS:
        repository, _, configuration = name.partition(":")
        rows = _from_hub(repository, repository, configuration or None, split or default_split)
        problems, complaints = _read(rows, label(name), ANY)
    else:
        raise InputError(f"no suite or file {name!r}. Try: a path, OWNER/NAME on the hub, or one of reference, "
                         f"{', '.join([*tasks.SUITES, *PRESETS])}")  # fmt: skip
    for complaint in complaints:
        log.warning(complaint)
    if not problems:
        raise InputError(f"{name} holds no problem that can be read. Try: see what was said of its lines")
    return problems[:n]


def _no_split(name: str, split: str | None) -> None:
    if split is not None:
        raise OptionError(f"{name} has no splits to choose from, and split is {split!r}. Try: drop --split")


def _in_folder(name: str, folder: Path) -> Path:
    found = [folder / f"{name}{suffix}" for suffix in READERS]
    for path in found:
        if path.exists():
            return path
    raise InputError(
        f"{folder} holds no {found[0].name} and no {found[1].name}. Try: put one there, or drop --data-dir"
    )


def _from_hub(name: str, repository: str, configuration: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data") from error
    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline or not hub.answers()
    try:
        return datasets.load_dataset(repository, configuration, split=split)
    except Exception as error:  # the hub, the network and the file formats raise many kinds for one cause
        raise InputError(f"cannot read {repository} from the hub ({reason(error, 200)}). Try: go online once, unset HF_HUB_OFFLINE, or give "
                         f"--data-dir DIR with DIR/{Path(name).name}.jsonl") from error  # fmt: skip
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def _read(rows: Iterable[Any], name: str, columns: Columns) -> tuple[list[Problem], list[str]]:
    problems: list[Problem] = []
    complaints: list[str] = []
    for number, row in enumerate(rows, 1):
        try:
            problems.append(problem_of(row, f"{name}/{number}", columns))
        except (ValueError, TypeError) as error:
            complaints.append(f"{name}, row {number}: it is left out: {error}")
    return problems, complaints
