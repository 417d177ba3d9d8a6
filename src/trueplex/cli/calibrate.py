"""`trueplex calibrate`: what a confidence means, learned from stored traces and kept with the verifier."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trueplex.data.traces import Origin, read, read_traces
from trueplex.decide import pruning as policy
from trueplex.decide.calibration import PLAIN, Calibration, Condition, WayOfThinking, way_of_thinking
from trueplex.errors import InputError, OptionError
from trueplex.evals.run import machine, write_results
from trueplex.models import hub
from trueplex.models.load import folder_of, load
from trueplex.solving.rollouts import MANIFEST
from trueplex.solving.scorers import belongs, choose_scorer, verifier_folder
from trueplex.solving.settings import Settings, origin
from trueplex.train.calibrate import Seen, fit, judged, votes_of
from trueplex.types import Trace
from trueplex.verify.probe import OneTokenScorer
from trueplex.verify.scorer import Scorer

log = logging.getLogger(__name__)


def calibrate(
    data: Sequence[Path], tests: Sequence[Path], model: str, device: str | None, verifier: str, paths: Sequence[str],
    selects: Sequence[str], prunes: Sequence[str], error: float, out: Path | None,
) -> None:  # fmt: skip
    """Calibrate every combination of paths, selector and policy on `data`, and judge it on `tests`."""
    if (
        not os.path.exists(os.path.expanduser(verifier))
        and hub.is_id(verifier)
        and verifier.partition(":")[0] not in PLAIN
    ):
        raise OptionError(f"a calibration is kept in the verifier's folder, and {verifier} lies on the hub. Try: `hf download {verifier} "
                          "--local-dir FOLDER`, and --verifier FOLDER")  # fmt: skip
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, Settings(verifier=verifier))
    runs = [replace(settings, paths=p, select=s, prune=r) for p in paths for s in selects for r in prunes]
    runs = [replace(run, paths=run.paths if run.schedule.adaptive else run.schedule.most) for run in runs]
    for run in runs:
        policy.parse(run.prune).check(run.schedule.most, backbone.default_max_tokens)
    source = origin(None, backbone)
    seen, traces = _votes(data, runs, scorer, source)
    made = fit(seen, traces, error, belongs(backbone, scorer, verifier))
    folder = verifier_folder(backbone, verifier) if isinstance(scorer, OneTokenScorer) else folder_of(backbone.name)
    whole = made.beside(Calibration.load(folder, made.belongs))
    whole.save(folder)
    kept = len(whole.held) - len(made.held)
    log.info(f"{folder}: calibrated for {len(made.held)} ways to run, from {sum(map(len, traces.values()))} traces"
        + (f"; what it said of {kept} others is kept" if kept else ""))  # fmt: skip
    tested = _votes(tests, runs, scorer, source)[0] if tests else [s for s in seen if s.held]
    figures = judged(made, tested, error)
    if out is not None:
        config = {"model": backbone.name, "fingerprint": backbone.fingerprint, "verifier": verifier, "error": error,
                  "data": [str(p) for p in data], "tests": [str(p) for p in tests]}  # fmt: skip
        rows = [{"condition": asked.stored(), **row} for asked, row in figures.items()]
        write_results(
            {
                "config": config,
                "machine": machine(),
                "bands": {way.name: band.stored() for way, band in made.bands.items()},
                "votes": {k if isinstance(k, str) else k.name: weights for k, weights in made.votes.items()},
                "runs": rows,
            },
            out,
        )
    _print(figures, error, bool(tests))


def _votes(stores: Sequence[Path], runs: Sequence[Settings], scorer: Scorer | None, source: Origin) -> tuple[list[Seen], dict[WayOfThinking, list[Trace]]]:  # fmt: skip
    """The votes of every run on the problems of every store, and all traces by their way of thinking.

    Raises:
        InputError: a store has no graded traces, none that this scorer has scored, or too few for every problem.
    """
    seen: list[Seen] = []
    every: dict[WayOfThinking, list[Trace]] = {}
    most = max(run.schedule.most for run in runs)
    for path in stores:
        _check_scorer(path, runs[0].verifier, scorer)
        groups: dict[int, list[Trace]] = {}
        for trace, _ in read_traces(path, source):
            trace.steps = None  # only its numbers count
            groups.setdefault(trace.problem.key, []).append(trace)
        short = [key for key, group in groups.items() if not {t.index for t in group} >= set(range(most))]
        if 0 < len(short) < len(groups):  # of all of them, the first vote says so
            log.info(
                f"{path}: {len(short)} of {len(groups)} problems have not all of the {most} traces that a run takes; they are left out"
            )
            for key in short:
                del groups[key]
        traces = [t for group in groups.values() for t in group]
        if not traces or not any(t.correct is not None for t in traces):
            raise InputError(
                f"{path} holds no graded traces. Try: give rollouts or evaluations of problems with answers"
            )
        if scorer is None:
            for trace in traces:
                trace.scores = []
        elif not all(t.scores for t in traces):
            raise InputError(f"{path} holds traces without scores. Try: roll out with --verifier and --probe-every")
        thinking = next(iter(read(path, ("thinking",))))["thinking"]
        cadence = traces[0].scores[0][0] if scorer else 32
        for run in runs:
            seen += votes_of(list(groups.values()), thinking, run, cadence)
        every.setdefault(way_of_thinking(json.loads(thinking)), []).extend(traces)
        log.info(f"{path}: {len(groups)} problems")
    return seen, every


def _check_scorer(path: Path, verifier: str, scorer: Scorer | None) -> None:
    """Raise InputError when the folder of a rollout says that its traces were scored by something else."""
    manifest = (path if path.is_dir() else path.parent) / MANIFEST
    if not manifest.exists() or verifier == "none":
        return
    told = json.loads(manifest.read_text())
    made, weights = told["config"]["verifier"], told.get("scorer")
    if weights and scorer and scorer.fingerprint and weights != scorer.fingerprint:
        raise InputError(
            f"{path} was scored by a verifier of other weights ({made}). Try: roll out with --verifier {verifier}"
        )
    kinds = [name if name.partition(":")[0] in PLAIN else "a verifier folder" for name in (made, verifier)]
    if made != "none" and kinds[0] != kinds[1]:
        raise InputError(f"{path} was scored by {made!r}, and {verifier!r} is to be calibrated. Try: --verifier {made}, or roll out "
                         f"with --verifier {verifier}")  # fmt: skip


def _print(figures: dict[Condition, Any], error: float, tested: bool) -> None:
    table = Table("thinking", "paths", "select", "prune", "problems", "right", "ECE", "answered", "wrong among answered",
                  title=f"on {'the test traces' if tested else 'held-out problems'}; answered at --max-error {error:g}")  # fmt: skip
    for asked, row in figures.items():
        wrong = "–" if row["error_among_answered"] is None else f"{row['error_among_answered']:.3f}"
        table.add_row(asked.way.thinking, str(asked.paths), asked.select, asked.prune, str(row["problems"]),
                      f"{row['right']:.3f}", f"{row['ece']:.3f}", f"{row['answered']:.2f}", wrong)  # fmt: skip
    Console(width=140).print(table)
