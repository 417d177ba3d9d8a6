"""Stored traces with the scores that a verifier would have given them live, so that every policy can be simulated on them.

Law 5 makes this right: a probe changes no draw, and what it reads of a stored trace is what it reads live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trueplex.data.about import MANIFEST
from trueplex.data.append import Row
from trueplex.data.traces import Origin, from_row, read
from trueplex.errors import InputError
from trueplex.files import read_json
from trueplex.locks import locks
from trueplex.models.backbone import Backbone
from trueplex.solving.rollouts import Folder, Manifest
from trueplex.solving.settings import origin
from trueplex.types import Problem, Status
from trueplex.verify.open import CacheScorer
from trueplex.verify.stored import Stored

AT_ONCE = 512  # traces that are scored and then written


def score_as_live(scorer: CacheScorer, stored: Sequence[Stored]) -> None:
    """Give stored traces the scores of a live run: every ``scorer.every`` tokens and at the end."""
    kept = [(t, prompt) for t, prompt in stored if t.steps is not None and t.tokens]
    looks = [[*range(scorer.every, t.tokens, scorer.every), t.tokens] for t, _ in kept]
    tokens = len(scorer.probe.embeddings) if scorer.probe else 0
    for (trace, _), at, scores in zip(kept, looks, scorer.score_at(kept, looks), strict=True):
        trace.scores = list(zip(at, scores, strict=True))
        trace.probe_tokens = len(at) * tokens


@locks("out")
def score_folder(
    backbone: Backbone, source: Path, scorer: CacheScorer, name: str, out: Path,
    progress: Callable[[int, int], None] = lambda done, tokens: None,
) -> Path:  # fmt: skip
    """The traces of a folder of rollouts, scored by the verifier of that name, in `out`; returns the file. Resumable.

    The new folder is what a rollout with this verifier would have left: `trueplex eval` and `trueplex calibrate` take it.

    Raises:
        InputError: the folder was not made by a rollout or an evaluation, or is not finished.
        StoreError: its traces are another model's, or `out` holds something else.
    """
    told, rows = _whole(source, origin(None, backbone))
    by_key = {p.key: p for p in (Problem(row["problem"], row["id"], tuple(row["answers"])) for row in rows)}
    if missing := set(told.problems) - set(by_key):
        raise InputError(
            f"{len(missing)} of the {len(told.problems)} problems of {source} are not sampled yet. Try: run its command again"
        )
    config = {**told.config, "verifier": name, "probe_every": scorer.every}
    with Folder(out, [by_key[key] for key in told.problems], int(config["paths"])) as folder:
        folder.claim(config, scorer.fingerprint, backbone.renamed, grows=True)
        left = [row for row in rows if not folder.holds(row)]
        progress(len(rows) - len(left), 0)
        for first in range(0, len(left), AT_ONCE):
            _score(scorer, left[first : first + AT_ONCE])
            for row in left[first : first + AT_ONCE]:
                progress(int(folder.keep(row)), row["tokens"])
    return folder.path


def _whole(source: Path, made_by: Origin) -> tuple[Manifest, list[Row]]:
    """What made a folder of rollouts, and its stopped traces, the latest record of each."""
    if not (source / MANIFEST).exists():
        raise InputError(
            f"{source} holds no {MANIFEST}. Try: a folder of `trueplex rollout`, or of a suite of `trueplex eval`"
        )
    told = read_json(source / MANIFEST, Manifest)
    latest = {(row["problem"], row["index"]): row for row in read(source) if row["status"] != Status.RUNNING.value}
    for row in latest.values():
        made_by.require(row, source)
    return told, list(latest.values())


def _score(scorer: CacheScorer, rows: Sequence[Row]) -> None:
    """Put the scores into the records."""
    stored: list[Any] = [from_row(row) for row in rows]
    score_as_live(scorer, stored)
    for row, (trace, _) in zip(rows, stored, strict=True):
        row["score_tokens"], row["scores"] = [at for at, _ in trace.scores], [score for _, score in trace.scores]
        row["probe_tokens"] = trace.probe_tokens
