"""Results files as a report takes them: evaluations, judged scores, and training runs, told apart by what is in them.

An evaluation and a judgement of scores are what `trueplex eval` and `trueplex eval-verifier` write. A training
run is any JSON object with ``curves`` {name: [one value a step]} and, if it was tested on the way,
``validation`` {"step": […], "right": […]}; ``run`` may hold its recipe. That is the hook for other trainers:
whatever writes such a file gets its curves drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueplex.errors import InputError, TrueplexError, reason
from trueplex.evals.run import RESULTS, TIMING, read_timing
from trueplex.files import read_json


@dataclass(slots=True)
class Run:
    """One evaluation: its name in the report, its results, and tokens a second of each suite where that is known."""

    name: str
    result: dict[str, Any]
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        return self.result["config"]

    @property
    def suites(self) -> dict[str, dict[str, Any]]:
        return self.result["suites"]

    @property
    def limit(self) -> int | None:
        """The thinking budget, if there is one."""
        return self.config.get("ending", {}).get("think_tokens")


@dataclass(slots=True)
class Learning:
    """One training run: curves {name: values, one a step}, and validations {name: values} at steps."""

    name: str
    curves: dict[str, list[float]]
    validation: dict[str, list[float]]


@dataclass(slots=True)
class Material:
    """All that a report is made of."""

    runs: list[Run] = field(default_factory=list)
    scores: list[Run] = field(default_factory=list)  # of eval-verifier
    learning: list[Learning] = field(default_factory=list)

    @property
    def suites(self) -> list[str]:
        """Suites of any run, in order of first appearance."""
        return list(dict.fromkeys(suite for run in self.runs for suite in run.suites))


def read(paths: Sequence[Path]) -> Material:
    """The material under folders with results.json, folders of results files, and results files.

    Raises:
        InputError: there is no results file, or one is not of these kinds.
        StoreError: one cannot be read, or was changed.
    """
    material = Material()
    for path in paths:
        files = _files(path)
        if not files:
            raise InputError(f"{path} holds no {RESULTS} and no other results. Try: give a folder that eval wrote")
        before = len(material.runs)
        with as_results([path]):
            for file in files:
                _add(material, file)
            # A folder of files has no order of its own: discrete thinking first, limited thinking last.
            material.runs[before:] = sorted(material.runs[before:], key=_place)
    with as_results(paths):
        _tell_apart(material.runs)
    return material


@contextmanager
def as_results(paths: Sequence[Path]) -> Iterator[None]:
    """What is missing in results, or is of another type than `trueplex eval` writes, becomes one InputError."""
    try:
        yield
    except TrueplexError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{', '.join(map(str, paths))}: the results lack what a report shows, or hold it as another type "
                         f"({type(error).__name__}: {reason(error)}). Try: run the same eval again, which reuses the stored traces") from error  # fmt: skip


def _place(run: Run) -> tuple[int, str, int]:
    return run.limit or 0, "" if run.config["thinking"] == "discrete" else describe(run.config), run.config["width"]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    own = path / RESULTS
    if own.exists():
        return [own]
    return sorted(p for p in path.glob("*.json") if p.name != TIMING)


def _add(material: Material, file: Path) -> None:
    found: Any = read_json(file, Any)  # type: ignore[arg-type]
    name = file.parent.name if file.name == RESULTS else file.stem
    suites = found.get("suites") if isinstance(found, dict) else None
    if isinstance(suites, dict) and suites:
        first = next(iter(suites.values()))
        if "scorers" in first:
            material.scores.append(Run(name, found))
            return
        if "pass" in first:
            if "curves" not in first and "endpoint" in found.get("config", {}):
                raise InputError(f"{file} is of an endpoint that told no alternatives of tokens, which a report's curves are drawn from. Try: eval "
                                 "--endpoint with --verifier deepconf")  # fmt: skip
            if "curves" not in first:
                raise InputError(f"{file} was written by an earlier version. Try: run the same eval again, which reuses "
                                 "the stored traces")  # fmt: skip
            material.runs.append(Run(name, found, _rates(file.with_name(TIMING))))
            return
    if learnt := _learning(name, found):
        material.learning.append(learnt)
        return
    raise InputError(f"{file} holds no results of eval, eval-verifier or training. Try: leave it out")


def _rates(file: Path) -> dict[str, float]:
    return {suite: t.tokens / t.seconds for suite, t in read_timing(file).items() if t.seconds > 0}


def _learning(name: str, found: Any) -> Learning | None:
    """A training run, if it is one; series that are no lists of numbers are left out."""

    def series(value: Any) -> dict[str, list[float]]:
        pairs = value.items() if isinstance(value, dict) else ()
        return {k: v for k, v in pairs if isinstance(v, list) and v and all(isinstance(x, (int, float)) for x in v)}

    curves = series(found.get("curves")) if isinstance(found, dict) else {}
    return Learning(name, curves, series(found.get("validation"))) if curves else None


def describe(config: dict[str, Any]) -> str:
    """How the traces of a run thought, in a few words."""
    mode, words = config["thinking"], []
    if mode == "multiplex":
        words = [f"multiplex K = {config['width']}"] + (["mean"] if config["merge"] == "mean" else [])
        words += ["without replacement"] if config.get("replacement") is False else []
    elif mode == "stochastic-soft":
        words = [f"stochastic soft, {config['noise'].capitalize()}"]
    else:
        words = [mode]
    limit = config.get("ending", {}).get("think_tokens")
    return ", ".join(words + ([f"≤ {limit} thinking tokens"] if limit else []))


def last(scorer: str) -> str:
    """A scorer's name without the folders that its model lies in; a combination keeps apart from the verifier in the same folder."""
    name = scorer.rpartition("/")[2]
    return f"combined:{name}" if scorer.startswith("combined:") and "/" in scorer else name


def _tell_apart(runs: list[Run]) -> None:
    """Runs are called by how they thought; where that is the same, by their folder, too."""
    told = [describe(run.config) for run in runs]
    count, folders = Counter(told), Counter((name, run.name) for name, run in zip(told, runs, strict=True))
    for place, (run, name) in enumerate(zip(runs, told, strict=True), 1):
        more = f"{run.name} {place}" if folders[name, run.name] > 1 else run.name
        run.name = f"{name} ({more})" if count[name] > 1 else name
