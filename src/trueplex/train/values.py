"""Monte-Carlo values: how often the model, continuing from a prefix of a trace, ends in the right answer.

The labels of Math-Shepherd (arXiv 2312.08935), and the ``monte-carlo`` labels of a One-Token verifier. A
prefix ends where a step of the text ends; the engine continues it exactly as it thought, merged steps and
all. Values are appended beside the rollouts a problem at a time, so a killed job can be resumed,
and each is the same whatever else was valued with it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.data.append import Appended
from trueplex.data.traces import read, read_traces
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError, StoreError
from trueplex.files import parsed, read_json, write_json
from trueplex.models.backbone import Backbone
from trueplex.solving.answering import stored_kind
from trueplex.solving.loop import Solved, Stopped, stream
from trueplex.solving.settings import Settings, origin, thinking_options
from trueplex.stamps import stamped
from trueplex.train.common.recipe import check_numbers, check_seed
from trueplex.types import Problem, Status, Steps, Trace
from trueplex.verify.readers.transcript import Transcript, separator

log = logging.getLogger(__name__)

VALUES, MANIFEST = "values.jsonl", "values.json"
APART = 1 << 40  # added to the seed: a continuation with the draws of its own trace would only repeat it
Name = tuple[str, int, int]  # problem, seed, index of a trace


@dataclass(frozen=True)
class Valuing:
    """What is valued: how many traces a problem, prefixes a trace and continuations a prefix.

    ``traces`` takes right and wrong ones in turn, and only of problems that have both. ``prefixes`` are
    spread evenly over the ends of steps; ``steps`` says where steps end, at ``lines`` or ``paragraphs``.

    Raises:
        OptionError: a number is out of range, or the kind of steps is unknown.
    """

    traces: int = 6
    prefixes: int = 4
    samples: int = 4
    steps: str = "lines"
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, ("traces", "prefixes", "samples"))
        check_seed(self.seed)
        separator(self.steps)


@dataclass(frozen=True)
class Asked:
    """A problem whose prefixes are to be valued: (trace, tokens) pairs, and the share of its traces that are right."""

    problem: Problem
    prefixes: list[tuple[Trace, int]]
    start: float


def value(
    backbone: Backbone, folder: str | Path, valuing: Valuing, most: int | None = None, max_batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, tokens: None,
) -> Path:  # fmt: skip
    """Value prefixes of the traces of a rollout folder into `folder`/values.jsonl; returns that path.

    With ``most``, so many problems, in the order of the store; a later call may go further.
    ``progress`` is called with the number of continuations and tokens newly stopped; first with those known.

    Raises:
        InputError: no problem has right and wrong traces.
        StoreError: the traces are another model's or were thought in several ways, values of other options are there, or
            another run is writing some.
    """
    folder = Path(folder)
    thinking_of(folder)
    valued = asked(backbone, folder, valuing)[:most]
    with closing(Appended(folder / VALUES)) as file:
        _claim(folder, asdict(valuing))
        _value(backbone, folder, valuing, valued, max_batch_size, progress, file)
    return file.path


def _value(backbone: Backbone, folder: Path, valuing: Valuing, valued: Sequence[Asked], max_batch_size: int | None,
           progress: Callable[[int, int], None], file: Appended) -> None:  # fmt: skip
    """Value what is not valued yet, and append it problem by problem."""
    thinking, kind = thinking_of(folder), stored_kind(folder)
    done = {name[0] for name in read_values(folder)}
    seed = valuing.seed + APART
    progress(sum(len(a.prefixes) for a in valued if a.problem.text in done) * valuing.samples, 0)
    left = sorted((a for a in valued if a.problem.text not in done), key=lambda a: len(a.prefixes))
    for count, members in groupby(left, key=lambda a: len(a.prefixes)):  # a run has one number of paths
        by_key = {a.problem.key: a for a in members}
        settings = Settings(
            count * valuing.samples, thinking, "none", seed=seed, select="majority", rows=max_batch_size, answer=kind
        )
        prefixes = [t for a in by_key.values() for t in _prefixes(a, seed, valuing.samples)]
        prefix = {(t.problem.key, t.index): t.tokens for t in prefixes}
        for event in stream(backbone, [a.problem for a in by_key.values()], settings, resumed=prefixes):
            if isinstance(event, Stopped):
                progress(1, event.trace.tokens - prefix[event.trace.problem.key, event.trace.index])
            if isinstance(event, Solved):
                one = by_key[event.solution.problem.key]
                file.write(_record(one, event.solution.traces, valuing.samples))


@dataclass(frozen=True)
class ValuedTrace:
    """The values of one trace in a line."""

    seed: int
    index: int
    tokens: list[int]
    values: list[float]


@dataclass(frozen=True)
class ValuedProblem:
    """A line: the values of one problem's traces."""

    problem: str
    traces: list[ValuedTrace]


def read_values(folder: str | Path) -> dict[Name, tuple[np.ndarray, np.ndarray]]:
    """Valued traces of a rollout folder: numbers of tokens [V], rising from 0, and values [V]. Empty without any."""
    path = Path(folder) / VALUES
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = parsed(line.decode(errors="replace"), ValuedProblem, f"{path}, line {number}")
        except StoreError as error:
            log.warning(f"{error}; it is left out")
            continue
        for one in row.traces:
            found[row.problem, one.seed, one.index] = np.array(one.tokens), np.array(one.values, dtype=np.float32)
    return found


@dataclass(frozen=True)
class Valued:
    """What is read of the options that values were made by."""

    steps: str


def steps_of(folder: str | Path) -> str | None:
    """Where the steps end behind which a rollout folder was valued; None when it was not."""
    path = Path(folder) / MANIFEST
    return read_json(path, Valued).steps if path.is_file() else None


def thinking_of(folder: str | Path) -> Thinking:
    """How the traces of a store were thought. Raises StoreError when they were thought in several ways."""
    ways = {row["thinking"] for row in read(folder, ("thinking",))}
    if len(ways) != 1:
        raise StoreError(f"{folder} holds traces of {len(ways)} ways of thinking. Try: give a store of one")
    stored = json.loads(ways.pop())
    mode, sampling = stored["thinking"], Sampling(**stored["sampling"])
    answering, ending = Sampling(**stored["answer_sampling"]), stored["ending"]
    merges = mode == "multiplex" and sampling.temperature > 0
    thinking = Thinking(
        mode, stored["width"] if merges or "soft" in mode else None, stored["merge"] if merges else None, sampling,
        answering if answering != sampling else None, Ending(**{**ending, "stop": tuple(ending["stop"])}),
        stored["replacement"] is not False, stored["noise"], stored["strength"],
    )  # fmt: skip
    if json.loads(json.dumps(thinking_options(thinking))) != {k: v for k, v in stored.items() if k != "decided"}:
        raise StoreError(f"{folder} holds options that this version does not know. Try: roll out anew")
    return thinking


def asked(backbone: Backbone, folder: Path, valuing: Valuing) -> list[Asked]:
    """The prefixes of every problem that has right and wrong traces, in the order of the store."""
    by_problem: dict[int, list[Trace]] = {}
    for trace, _ in read_traces(folder, origin(None, backbone)):
        if trace.correct is not None and trace.steps is not None and trace.status is not Status.RUNNING:
            by_problem.setdefault(trace.problem.key, []).append(trace)
    words, found = Transcript(backbone), []
    for traces in by_problem.values():
        sides = [sorted((t for t in traces if t.correct is side), key=lambda t: t.index) for side in (True, False)]
        if all(sides):
            turn = sorted((place, i, t) for i, side in enumerate(sides) for place, t in enumerate(side))
            chosen = [t for _, _, t in turn[: valuing.traces]]
            prefixes = [(t, at) for t in chosen for at in cuts(words, t, valuing)]
            if prefixes:
                found.append(Asked(traces[0].problem, prefixes, len(sides[0]) / len(traces)))
    if not found:
        raise InputError(f"{folder} has no problem with right and wrong traces, so every value is known. Try: roll out "
                         "problems of which some paths are right and some wrong")  # fmt: skip
    return found


def cuts(words: Transcript, trace: Trace, valuing: Valuing) -> list[int]:
    """Up to `valuing.prefixes` numbers of tokens at which a thinking step of the trace ends, spread evenly."""
    assert trace.steps is not None
    ids = trace.steps.ids[: trace.thinking_tokens, 0].tolist()
    ends = [at for at in words.step_ends(ids, separator(valuing.steps), False) if at < len(ids)]
    most = min(len(ends), valuing.prefixes)
    places = np.unique(np.round((np.arange(most) + 0.5) / max(1, most) * len(ends) - 0.5).astype(int))
    return [ends[place] for place in places]


def _prefixes(one: Asked, seed: int, samples: int) -> Iterator[Trace]:
    """Every prefix as `samples` unfinished traces, each with a number of its own."""
    for number, (trace, at) in enumerate(one.prefixes):
        assert trace.steps is not None
        steps = Steps(*(array[:at] for array in trace.steps.arrays()))
        for sample in range(samples):
            yield Trace(one.problem, number * samples + sample, seed, tokens=at, steps=steps)


def _record(value_of: Asked, continued: Sequence[Trace], samples: int) -> bytes:
    """The values of one problem as a line: a trace's start is worth what its problem's traces are, its end its outcome."""
    known: dict[tuple[int, int], dict[str, Any]] = {}
    for number, (trace, at) in enumerate(value_of.prefixes):
        one = known.setdefault((trace.seed, trace.index), {"seed": trace.seed, "index": trace.index, "tokens": [0],
                                                           "values": [round(value_of.start, 4)]})  # fmt: skip
        graded = [t.correct for t in continued[number * samples : (number + 1) * samples] if t.correct is not None]
        if graded:  # what the grader could not judge is not counted as wrong
            one["tokens"].append(at)
            one["values"].append(round(sum(graded) / len(graded), 4))
    for trace, _ in value_of.prefixes:
        one = known[trace.seed, trace.index]
        if one["tokens"][-1] != trace.tokens:
            one["tokens"].append(trace.tokens)
            one["values"].append(float(bool(trace.correct)))
    row = stamped({"problem": value_of.problem.text, "traces": list(known.values())})
    return json.dumps(row).encode() + b"\n"


def _claim(folder: Path, options: dict[str, Any]) -> None:
    """Write the options of new values, or check that old ones had the same; end a line that was cut off."""
    path, values = folder / MANIFEST, folder / VALUES
    if path.exists() and read_json(path, dict[str, Any]) != options:
        raise StoreError(
            f"{folder} holds values of other options. Try: the same options, or remove {MANIFEST} and {VALUES}"
        )
    write_json(path, options)
    if values.exists():
        whole = values.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        with values.open("r+b") as file:
            file.truncate(len(whole))
