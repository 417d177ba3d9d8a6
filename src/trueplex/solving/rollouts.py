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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trueplex.data.traces import ARROW, Row, Store, open_store, read, read_traces, to_row
from trueplex.engine.batch import ROWS
from trueplex.errors import InputError, StoreError
from trueplex.files import locks, read_json, write_json
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.solving.loop import Stopped, stream
from trueplex.solving.settings import Settings, configuration, origin
from trueplex.types import Problem, Status, Trace
from trueplex.verify.scorer import Scorer

log = logging.getLogger(__name__)

MANIFEST, TRACES = "rollout.json", f"traces{ARROW}"
BATCH_BYTES, SECONDS = 1 << 17, 2.0  # traces are written when they are so large, or this long after the last time
ROUND = 4  # batches of rows in a round: fewer would leave rows empty at the end of each, more would repeat more after a kill

Stops = dict[str, set[int]]  # by problem text, the numbers of the traces that are stored whole


@locks("out")
def rollout(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, out: str | Path,
    scorer: Scorer | None = None, progress: Callable[[int, int], None] = lambda done, tokens: None, exact: bool = False,
) -> Path:  # fmt: skip
    """Sample `settings.paths` traces of every problem into `out`/traces.arrow; returns that path.

    Taken up again, no work is repeated and every trace has the draws that it would have had. With ``exact`` it has
    the same bits, too, and what is repeated is the interrupted round, at most ROUND batches of rows.

    ``progress`` is called with the number of traces newly stored and of tokens newly thought.

    Raises:
        InputError: a problem has no answers to grade by.
        StoreError: `out` holds rollouts of another configuration or of other problems, or another run is at work there.
    """
    unlabelled = [p for p in problems if not p.answers]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} problems have no answers, the first {unlabelled[0].text[:60]!r}. Try: add them"
        )
    out, paths = Path(out), settings.schedule.most
    source = origin(settings.thinking, backbone)
    rows = settings.rows or ROWS.get(backbone.device.type, ROWS["cpu"])
    _claim(out, {"config": configuration(settings, backbone), "problems": [p.key for p in problems],
                 "scorer": scorer.fingerprint if scorer else None}, backbone)  # fmt: skip
    store = open_store(out / TRACES)
    stops, unique = _stops(out / TRACES), list({p.key: p for p in problems}.values())
    progress(sum(min(len(stops.get(p.text, ())), paths) for p in problems), 0)
    writer = _Writer(store)
    rounds = _rounds(unique, stops, paths, ROUND * rows) if exact else _left(unique, stops, paths, out / TRACES)
    try:
        for chosen, begun in rounds:
            prompts = {p.key: make_prompt(p, backbone).ids for p in chosen}
            run = stream(backbone, chosen, settings, scorer, begun)
            try:
                for event in run:
                    if isinstance(event, Stopped):
                        trace = event.trace
                        new = trace.index not in stops.get(trace.problem.text, ())
                        if new:
                            writer.add(to_row(trace, prompts[trace.problem.key], source))
                        progress(int(new), trace.tokens)
            except KeyboardInterrupt:
                if not exact:
                    for trace in run.unfinished():
                        writer.add(to_row(trace, prompts[trace.problem.key], source))
                raise
    finally:
        writer.flush()
        store.close()
    return out / TRACES


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


def _left(
    problems: Sequence[Problem], stops: Stops, paths: int, path: Path
) -> Iterator[tuple[list[Problem], list[Trace]]]:
    """At once, all problems whose traces are not all there, and those of their traces that are, or were begun."""
    left = [p for p in problems if len(stops.get(p.text, ())) < paths]
    texts = {p.text for p in left}
    if left:
        yield left, [t for t, _ in read_traces(path) if t.problem.text in texts]


def _rounds(
    problems: Sequence[Problem], stops: Stops, paths: int, traces: int
) -> Iterator[tuple[list[Problem], list[Trace]]]:
    """Round by round, some problems that are always thought about together; a round that is stored is passed over."""
    size = max(1, traces // paths)
    for first in range(0, len(problems), size):
        chosen = list(problems[first : first + size])
        stored = sum(min(len(stops.get(p.text, ())), paths) for p in chosen)
        if stored == len(chosen) * paths:
            continue
        if stored:
            log.warning(f"resampling the interrupted round ({stored} traces), so that the results are those of an uninterrupted "
                "run")  # fmt: skip
        yield chosen, []


@dataclass(frozen=True)
class Manifest:
    """What the traces of a folder were made by. ``scorer`` names the weights of what scored them; older folders tell none."""

    config: dict[str, Any]
    problems: list[Any]
    scorer: str | None = None


def _claim(out: Path, manifest: dict[str, Any], backbone: Backbone) -> None:
    """Write the manifest of a new folder, or check that an old one says the same."""
    path = out / MANIFEST
    if path.exists():
        read_json(path, Manifest)
        told = backbone.renamed(read_json(path, dict[str, Any]), path)
        own = json.loads(json.dumps(manifest))
        if told != {name: own[name] for name in own if name in told}:  # an older folder may not tell all
            raise StoreError(f"{out} holds rollouts of another configuration. Try: give another --out folder")
        return
    write_json(path, manifest)
