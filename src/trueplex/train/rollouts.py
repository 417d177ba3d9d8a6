"""Sample, grade and store traces; resumable after a kill at any moment.

Problems are sampled in chunks; a chunk is one Parquet part, written whole when its last trace is
graded. A trace belongs to (seed, problem, index) alone, so a resumed run stores what an
uninterrupted one would have stored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from trueplex import answers
from trueplex.backbone import Backbone
from trueplex.errors import InputError, StoreError
from trueplex.pipeline import Scorer, Stopped, stream
from trueplex.prompt import make_prompt
from trueplex.settings import Settings, configuration
from trueplex.store import to_row, write_part
from trueplex.types import Problem, Status, Trace

CHUNK = 32  # problems a part
MANIFEST = "rollout.json"


def rollout(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, out: str | Path,
    scorer: Scorer | None = None, progress: Callable[[int, int], None] = lambda done, tokens: None,
) -> Path:  # fmt: skip
    """Sample `settings.paths` traces of every problem into the folder `out`; returns it.

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
    out = Path(out)
    _claim(out, {"config": configuration(settings, backbone), "problems": [p.key for p in problems]})
    for first in range(0, len(problems), CHUNK):
        name = f"part-{first // CHUNK:05d}"
        if (out / f"{name}.parquet").exists():
            progress(len(problems[first : first + CHUNK]) * settings.paths, 0)
            continue
        rows = []
        chunk = problems[first : first + CHUNK]
        prompts = {p.key: make_prompt(p, backbone).ids for p in chunk}
        for event in stream(backbone, chunk, settings, scorer):
            if isinstance(event, Stopped):
                label(event.trace)
                rows.append(to_row(event.trace, prompts[event.trace.problem.key], backbone.fingerprint))
                progress(1, event.trace.tokens)
        order = {p.key: i for i, p in enumerate(chunk)}
        rows.sort(key=lambda row: (order[Problem(row["problem"]).key], row["index"]))
        write_part(out, name, rows)
    return out


def label(trace: Trace) -> None:
    """Grade a stopped trace: None where the grader cannot tell; without an answer it is wrong."""
    if trace.status is Status.PRUNED:
        return
    assert trace.problem.answers is not None
    trace.correct = False if trace.answer is None else answers.grade(trace.answer, trace.problem.answers).correct


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
