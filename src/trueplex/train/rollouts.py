"""Sample, grade and store traces; resumable after a kill at any moment.

Traces are appended to one file as they stop, a few at a time. A trace belongs to (seed, problem,
index) alone, so a run that is taken up again stores what an uninterrupted one would have stored.
After Ctrl-C unfinished traces are stored too, and go on where they were.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from trueplex.backbone import Backbone
from trueplex.errors import InputError, StoreError
from trueplex.pipeline import Scorer, Stopped, stream
from trueplex.prompt import make_prompt
from trueplex.settings import Settings, configuration, origin
from trueplex.store import ARROW, Row, Store, open_store, read, read_traces, to_row
from trueplex.types import Problem, Status, Trace

MANIFEST, TRACES = "rollout.json", f"traces{ARROW}"
BATCH_BYTES, SECONDS = 1 << 17, 2.0  # traces are written when they are so large, or this long after the last time


def rollout(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, out: str | Path,
    scorer: Scorer | None = None, progress: Callable[[int, int], None] = lambda done, tokens: None,
    say: Callable[[str], None] = lambda message: None,
) -> Path:  # fmt: skip
    """Sample `settings.paths` traces of every problem into `out`/traces.arrow; returns that path.

    ``progress`` is called with the number of traces and tokens newly stopped.

    Raises:
        InputError: a problem has no answers to grade by.
        StoreError: `out` holds rollouts of another configuration or of other problems.
    """
    unlabelled = [p for p in problems if not p.answers]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} problems have no answers, the first {unlabelled[0].text[:60]!r}; mend: add them"
        )
    out, paths = Path(out), settings.waves.most
    source = origin(settings.thinking, backbone)
    _claim(out, {"config": configuration(settings, backbone), "problems": [p.key for p in problems]})
    store = open_store(out / TRACES)
    left, begun = _left(out / TRACES, problems, paths, say)
    missing = len(left) * paths - sum(t.status is not Status.RUNNING for t in begun)
    progress(len(problems) * paths - missing, 0)
    prompts = {p.key: make_prompt(p, backbone).ids for p in left}
    writer = _Writer(store)
    run = stream(backbone, left, settings, scorer, begun)
    try:
        for event in run:
            if isinstance(event, Stopped):
                writer.add(to_row(event.trace, prompts[event.trace.problem.key], source))
                progress(1, event.trace.tokens)
    except KeyboardInterrupt:
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


def _left(
    path: Path, problems: Sequence[Problem], paths: int, say: Callable[[str], None]
) -> tuple[list[Problem], list[Trace]]:
    """The problems whose traces are not all there, and those of their traces that are, or were begun."""
    stopped: dict[str, set[int]] = {}
    for row in read(path, say, ("problem", "index", "status")):
        if row["status"] != Status.RUNNING.value:
            stopped.setdefault(row["problem"], set()).add(row["index"])
    left = [p for p in {p.key: p for p in problems}.values() if len(stopped.get(p.text, ())) < paths]
    texts = {p.text for p in left}
    return left, [t for t, _ in read_traces(path, say) if t.problem.text in texts] if left else []


def _claim(out: Path, manifest: dict) -> None:
    """Write the manifest of a new folder, or check that an old one says the same."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / MANIFEST
    if path.exists():
        if json.loads(path.read_text()) != json.loads(json.dumps(manifest)):
            raise StoreError(f"{out} holds rollouts of another configuration; mend: give another --out folder")
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(manifest))
    os.replace(temporary, path)
