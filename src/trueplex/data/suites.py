"""Which problems a name stands for: the embedded suites, public benchmarks by name, hub data sets, files.

`PRESETS` is the one table of public sets: where each lies on the hub, and which columns hold the problem and
what counts as right. They are read through `datasets`, or, with a data folder, from a table DIR/NAME in any form of
`trueplex.data.rows`: nothing is fetched then.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from trueplex.data.embedded import tasks
from trueplex.data.problems import USUAL, Columns, collect, read_file
from trueplex.data.rows import SUFFIXES, numbered, stem_of, suffix_of
from trueplex.errors import InputError, MissingExtra, OptionError, reason
from trueplex.grading.kinds import AnswerKind
from trueplex.models import hub
from trueplex.types import Problem

log = logging.getLogger(__name__)


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
    "gsm8k": Preset("openai/gsm8k", "test", "question", "answer", "main"),  # rationales that end in #### 18
    "gsm8k-train": Preset("openai/gsm8k", "train", "question", "answer", "main"),
    # What the OTV paper rolls out: DAPO-Math-17k, each problem once (the original repeats them a hundredfold).
    "dapo-math-17k": Preset("open-r1/DAPO-Math-17k-Processed", "train", "prompt", "solution", "all"),
}


def names_of(suites: Iterable[str]) -> list[str]:
    """The suites, with ``reference`` as all the embedded ones."""
    return [name for suite in suites for name in (tasks.SUITES if suite == "reference" else [suite])]


def label(name: str) -> str:
    """What a suite is called in results and as a folder."""
    return name.removeprefix("@") if name in PRESETS or name in tasks.SUITES else stem_of(name.removeprefix("@"))


def check_folder(names: Iterable[str], data_dir: Path | None) -> None:
    """Raise OptionError for a data folder that none of these suites is looked for in: embedded ones, and files, are where they are."""
    named = [name for name in names if name not in ("reference", *tasks.SUITES) and suffix_of(Path(name)) is None]
    if data_dir is not None and not named:
        raise OptionError("--data-dir has no effect on what is embedded or a file. Try: drop it")


def problems_of(
    name: str, split: str | None, n: int | None, seed: int, data_dir: Path | None = None,
    default_split: str = "test", columns: Columns | None = None, kind: AnswerKind | None = None,
) -> list[Problem]:  # fmt: skip
    """The first n problems of a suite, or all of them; lines that cannot be used are logged and left out.

    ``name`` is an embedded suite, a preset, a table (see `read_file`), or OWNER/NAME[:CONFIGURATION] on the
    hub. ``split`` is of embedded suites and hub data sets, ``columns`` of everything else than embedded suites; ``kind`` is
    how answers are found and compared, None by value.

    Raises:
        OptionError: a split or columns where there are none to choose, or an n below 1.
        InputError: there is no such suite, or it cannot be read. MissingExtra: `datasets` is not installed.
    """
    if n is not None and n < 1:
        raise OptionError(f"n is {n}. Try: at least one problem")
    if name == "reference" or name in tasks.SUITES:
        if columns is not None:
            raise OptionError(f"{name} has no columns to choose from. Try: drop the names of columns")
        return tasks.problems(name, split or default_split, 200 if n is None else n, seed)
    problems, complaints = _read(name, split, data_dir, default_split, columns, kind)
    for complaint in complaints:
        log.warning(complaint)
    if not problems:
        raise InputError(f"{name} holds no problem that can be read. Try: see what was said of its lines")
    return problems[:n]


def _read(
    name: str,
    split: str | None,
    data_dir: Path | None,
    default_split: str,
    columns: Columns | None,
    kind: AnswerKind | None,
) -> tuple[list[Problem], list[str]]:
    path = Path(name.removeprefix("@"))
    if data_dir is not None and suffix_of(path) is None:
        path = _in_folder(name, data_dir)
    if suffix_of(path) and (os.path.exists(path) or "/" not in name or path.is_absolute()):
        _no_split(name, split)
        return read_file(str(path), (columns or USUAL)._replace(kind=kind))
    if name in PRESETS:
        _no_split(name, split)
        preset = PRESETS[name]
        rows = _from_hub(name, preset.repository, preset.configuration, preset.split)
        own = Columns((preset.problem,), (preset.answer,))
        return collect(numbered("row", rows), name, name, (columns or own)._replace(kind=kind))
    if name.count("/") == 1 and suffix_of(path) is None:
        repository, _, configuration = name.partition(":")
        rows = _from_hub(repository, repository, configuration or None, split or default_split)
        return collect(numbered("row", rows), label(name), label(name), (columns or USUAL)._replace(kind=kind))
    raise InputError(f"no suite or file {name!r}. Try: a path, OWNER/NAME on the hub, or one of reference, "
                     f"{', '.join([*tasks.SUITES, *PRESETS])}")  # fmt: skip


def _no_split(name: str, split: str | None) -> None:
    if split is not None:
        raise OptionError(f"{name} has no splits to choose from, and split is {split!r}. Try: drop --split")


def _in_folder(name: str, folder: Path) -> Path:
    """The file of a suite: NAME.jsonl and the like, or NAME-SPLIT.jsonl of the split that a preset is of."""
    names = (name, f"{name}-{PRESETS[name].split}") if name in PRESETS else (name,)
    for stem, suffix in product(names, SUFFIXES):
        for path in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix}.gz"):
            if path.exists():
                return path
    raise InputError(f"{folder} holds no {name} as {', '.join(SUFFIXES)} or gzip of them. Try: put one there, or "
                     "drop --data-dir")  # fmt: skip


def _from_hub(name: str, repository: str, configuration: str | None, split: str) -> Any:
    """A split of a data set, from the hub where it answers, and else as it was last fetched."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data") from error
    try:
        # Offline by its own settings, `datasets` looks among what it has by itself.
        if datasets.config.HF_HUB_OFFLINE or hub.answers():
            return datasets.load_dataset(repository, configuration, split=split)
        from datasets.packaged_modules.cache.cache import Cache

        builder = Cache(dataset_name=Path(repository).name, config_name=configuration, version="auto", hash="auto",
                        repo_id=repository)  # fmt: skip
        return builder.as_dataset(split=split)
    except Exception as error:  # the hub, the network and the file formats raise many kinds for one cause
        raise InputError(f"cannot read {repository} from the hub ({reason(error, 200)}). Try: go online once, unset HF_HUB_OFFLINE, or give "
                         f"--data-dir DIR with DIR/{Path(name).name}.jsonl") from error  # fmt: skip
