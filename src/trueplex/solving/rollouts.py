"""Sample, grade and store traces; resumable after a kill at any moment.

Traces are appended to one file as they stop, a few at a time. A trace belongs to (seed, problem,
index) alone, so a resumed run stores what an uninterrupted one would have stored.
After Ctrl-C unfinished traces are stored too, and resumed where they were.

In another batch a row differs in its last bits, which at a near-tie is another token. Evaluations, which promise the same
file, therefore work in rounds: an interrupted round is sampled again from its start, in the same batches.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.data.about import MANIFEST
from trueplex.data.traces import ARROW, Row, Store, open_store, read, read_traces, to_row
from trueplex.engine.batch import ROWS
from trueplex.errors import InputError, StoreError
from trueplex.files import read_json, write_json
from trueplex.locks import locks
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.solving.loop import Stopped, stream
from trueplex.solving.settings import Settings, configuration, decided_answer, origin
from trueplex.types import Problem, Status, Trace
from trueplex.verify.scorer import Scorer

log = logging.getLogger(__name__)

TRACES = f"traces{ARROW}"
BATCH_BYTES, SECONDS = 1 << 17, 2.0  # traces are written when they are so large, or this long after the last time
ROUND = 4  # batches of rows in a round: fewer would leave rows empty at the end of each, more would repeat more after a kill

Stops = dict[str, set[int]]  # by problem text, the numbers of the traces that are stored whole
Round = tuple[
    list[Problem], list[Trace]
]  # problems that are thought about together, and their traces of an earlier run


@locks("out")
def rollout(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, out: str | Path,
    scorer: Scorer | None = None, progress: Callable[[int, int], None] = lambda done, tokens: None, exact: bool = False,
) -> Path:  # fmt: skip
    """Sample `settings.paths` traces of every problem into `out`/traces.arrow; returns that path.

    Taken up again, also with more problems, no work is repeated and every trace has the draws that it would have had. With
    ``exact`` the problems are the same and it has the same bits, too, and what is repeated is the interrupted round, at most ROUND batches of rows.

    ``progress`` is called with the number of traces newly stored and of tokens newly thought.

    Raises:
        InputError: a problem has no answers to grade by.
        StoreError: `out` holds rollouts of another configuration or of other problems, or another run is at work there.
    """
    settings = settings.resolved(backbone)
    source = origin(settings.thinking, backbone, decided_answer(settings))
    rows = settings.rows or ROWS.get(backbone.device.type, ROWS["cpu"])
    with Folder(out, problems, settings.schedule.most) as folder:
        folder.claim(configuration(settings, backbone), scorer.fingerprint if scorer else None, backbone.renamed,
                     grows=not exact)  # fmt: skip
        progress(folder.stored, 0)
        for chosen, begun in folder.rounds(ROUND * rows) if exact else folder.left():
            prompts = {p.key: make_prompt(p, backbone).ids for p in chosen}
            run = stream(backbone, chosen, settings, scorer, begun)
            try:
                for event in run:
                    if isinstance(event, Stopped):
                        new = folder.keep(to_row(event.trace, prompts[event.trace.problem.key], source))
                        progress(int(new), event.trace.tokens)
            except KeyboardInterrupt:
                if not exact:
                    for trace in run.unfinished():
                        folder.suspend(to_row(trace, prompts[trace.problem.key], source))
                raise
    return folder.path


class Folder:
    """A folder of rollouts while they are made: what is stored, what is left to do, and where new traces go.

    One run at a time may have it open. Close it, or use it in a ``with`` statement: the last traces are written then.

    Attributes:
        path: the file of traces.
        stored: how many of the traces that are wanted are there.

    Raises:
        InputError: a problem has no answers to grade by.
        StoreError: another run has the folder open, or it cannot be written.
    """

    def __init__(self, out: str | Path, problems: Sequence[Problem], paths: int) -> None:
        unlabelled = [p for p in problems if not p.answers]
        if unlabelled:
            raise InputError(
                f"{len(unlabelled)} problems have no answers; the first is {unlabelled[0].text[:60]!r}. Try: add them"
            )
        self.out, self.path, self.paths = Path(out), Path(out) / TRACES, paths
        self._keys = [p.key for p in problems]
        self._problems = list({p.key: p for p in problems}.values())
        self._store = open_store(self.path)
        self._writer = _Writer(self._store)
        self._stops = _stops(self.path)
        self.stored = sum(min(len(self._stops.get(p.text, ())), paths) for p in problems)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._writer.flush()
        finally:
            self._store.close()

    def claim(
        self, config: dict, scorer: str | None, renamed: Callable[[Any, Path], Any] = lambda told, where: told,
        grows: bool = False,
    ) -> None:  # fmt: skip
        """Write the manifest of a new folder. Raises StoreError where an old one holds rollouts of something else.

        A folder that ``grows`` may hold fewer of the problems, and one that lacks nothing may have been filled on another device.
        ``renamed`` is `Backbone.renamed`, which knows the names of version 0.2.
        """
        whole = self.stored == len(self._keys) * self.paths
        _claim(self.out, {"config": config, "problems": self._keys, "scorer": scorer}, renamed, grows, whole)

    def left(self) -> Iterator[Round]:
        """At once, all problems whose traces are not all there, and those of their traces that are, or were begun."""
        left = [p for p in self._problems if len(self._stops.get(p.text, ())) < self.paths]
        texts = {p.text for p in left}
        if left:
            yield left, [t for t, _ in read_traces(self.path) if t.problem.text in texts]

    def rounds(self, traces: int) -> Iterator[Round]:
        """Round by round of so many traces, some problems that are always thought about together; a stored round is passed over."""
        size = max(1, traces // self.paths)
        for first in range(0, len(self._problems), size):
            chosen = list(self._problems[first : first + size])
            stored = sum(min(len(self._stops.get(p.text, ())), self.paths) for p in chosen)
            if stored == len(chosen) * self.paths:
                continue
            if stored:
                log.warning(f"resampling the interrupted round ({stored} traces), so that the results are those of an "
                            "uninterrupted run")  # fmt: skip
            yield chosen, []

    def holds(self, row: Row) -> bool:
        """Whether this trace is stored whole."""
        return row["index"] in self._stops.get(row["problem"], ())

    def keep(self, row: Row) -> bool:
        """Store a stopped trace; False, and nothing else, when it is there already."""
        stops = self._stops.setdefault(row["problem"], set())
        new = row["index"] not in stops
        if new:
            stops.add(row["index"])
            self._writer.add(row)
        return new

    def suspend(self, row: Row) -> None:
        """Store a trace that is to go on later."""
        self._writer.add(row)


def summary(path: Path) -> str:
    """What the traces of a store came to, in a line: what a verifier can learn from are problems with right and wrong ones."""
    counts, outcomes = Counter[str](), dict[str, set[bool]]()
    for row in read(path, ("problem", "status", "answer", "correct"), complain=False):
        if row["status"] == Status.RUNNING.value:
            continue
        cut, right = row["status"] == Status.TRUNCATED.value, row["correct"]
        told = "right" if right else "cut off" if cut else "no answer" if row["answer"] is None else "wrong"
        counts["not gradable" if right is None else told] += 1
        if right is not None:
            outcomes.setdefault(row["problem"], set()).add(right)
    both = sum(len(seen) == 2 for seen in outcomes.values())
    told = ", ".join(
        f"{n} {what}" for what in ("right", "wrong", "no answer", "cut off", "not gradable") if (n := counts[what])
    )
    share = (
        f"{100 * both / len(outcomes):.0f} % of {len(outcomes)} problems have right and wrong traces"
        if outcomes
        else "none graded"
    )
    return f"{counts.total()} traces: {told}; {share}"


class _Writer:
    """Appends traces a few at a time: a batch costs some 4 KiB and a millisecond of its own in a columnar file.

    Long traces, beside which that is nothing, are written one by one; of short ones a file that is cut off loses at most
    BATCH_BYTES, less than a second's work.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rows: list[Row] = []
        self.bytes = 0
        self.written = time.monotonic()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.bytes += sum(column.nbytes for column in row.values() if isinstance(column, np.ndarray))
        if self.bytes >= BATCH_BYTES or time.monotonic() - self.written > SECONDS:
            self.flush()

    def flush(self) -> None:
        rows, self.rows, self.bytes = self.rows, [], 0
        self.store.append(rows)
        self.written = time.monotonic()


def _stops(path: Path) -> Stops:
    """Which traces of which problems are stored whole."""
    stops: Stops = {}
    for row in read(path, ("problem", "index", "status")):
        if row["status"] != Status.RUNNING.value:
            stops.setdefault(row["problem"], set()).add(row["index"])
    return stops


@dataclass(frozen=True)
class Manifest:
    """What the traces of a folder were made by. ``scorer`` names the weights of what scored them; older folders tell none."""

    config: dict[str, Any]
    problems: list[Any]
    scorer: str | None = None


def sampled_on(out: Path) -> str:
    """The device on which the traces of a folder were sampled, as its manifest tells."""
    return str(read_json(out / MANIFEST, Manifest).config["device"])


def _claim(out: Path, manifest: dict[str, Any], renamed: Callable[[Any, Path], Any], grows: bool, whole: bool) -> None:
    """Write the manifest of a new folder, or check that an old one says the same; where it ``grows``, of fewer problems.

    Of a ``whole`` one, to which nothing will be added, the device may be another: its traces are read, wherever they were sampled.
    """
    path = out / MANIFEST
    if path.exists():
        read_json(path, Manifest)
        told, own = renamed(read_json(path, dict[str, Any]), path), json.loads(json.dumps(manifest))
        told["config"].setdefault("answer", "boxed")  # what 0.2 found
        if whole:
            told["config"]["device"] = own["config"]["device"]
        more = grows and set(told["problems"]) < set(own["problems"])
        if more:
            told["problems"] = own["problems"]
        compared = {name: own[name] for name in own if name in told}  # an older folder may not tell all
        if told != compared:
            what = [
                *(n for n in own["config"] if told["config"].get(n) != own["config"][n]),
                *(n for n in compared if told[n] != own[n]),
            ]
            raise StoreError(
                f"{out} holds rollouts of another configuration ({what[0]}). Try: give another --out folder"
            )
        if not more:
            return
    write_json(path, manifest)
