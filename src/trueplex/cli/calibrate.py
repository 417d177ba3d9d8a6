"""`trueplex calibrate`: what a confidence means, learned from stored traces and kept with the verifier."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from trueplex.cli.groups import ModelOptions, Reread
from trueplex.cli.options import check_count
from trueplex.errors import InputError, OptionError
from trueplex.files import read_json
from trueplex.locks import lock, locks

if TYPE_CHECKING:
    from trueplex.data.traces import Origin
    from trueplex.decide.calibration import Calibration, Condition, WayOfThinking
    from trueplex.models.backbone import Backbone
    from trueplex.solving.answering import Again
    from trueplex.solving.loop import Scorer
    from trueplex.solving.settings import Settings
    from trueplex.train.calibrate import Seen
    from trueplex.types import Trace

log = logging.getLogger(__name__)

EXAMPLE = "trueplex calibrate runs/val --model ./my-model --paths 16 --paths 32 --prune none --prune half:32"


@dataclass(frozen=True)
class ConditionOptions:
    """The runs that are calibrated: every combination of paths, selector and policy."""

    PANEL: ClassVar[str] = "Runs to calibrate, in every combination"

    verifier: Annotated[
        str,
        typer.Option(
            help="What scored the traces, as in `trueplex solve`, but not a hub id, as the calibration is kept in the verifier's folder; 'none' calibrates plain majorities."
        ),
    ] = "auto"
    paths: Annotated[list[str] | None, typer.Option(help="Number of paths; can be repeated.", show_default="16")] = None
    select: Annotated[
        list[str] | None,
        typer.Option(help="Selector; can be repeated.", show_default="weighted; majority without a verifier"),
    ] = None
    prune: Annotated[list[str] | None, typer.Option(help="Pruning policy; can be repeated.", show_default="none")] = (
        None
    )
    answer: Reread = None
    error: Annotated[float, typer.Option(help="The largest share of wrong answers that the table and the bands of trace scores are for.")] = 0.1  # fmt: skip

    def __post_init__(self) -> None:
        for count in self.paths or ():
            check_count("--paths", count.removeprefix("auto:"))
        if not 0 < self.error < 1:
            raise OptionError(f"--error is {self.error}. Try: a share between 0 and 1")

    def runs(self, settings: Settings) -> list[Settings]:
        """The settings of every combination."""
        selects = self.select or ["majority" if self.verifier == "none" else "weighted"]
        runs = [replace(settings, paths=p, select=s, prune=r)
                for p in self.paths or ["16"] for s in selects for r in self.prune or ["none"]]  # fmt: skip
        return [replace(run, paths=run.paths if run.schedule.adaptive else run.schedule.most) for run in runs]


@locks("out")
def calibrate(
    data: Annotated[list[Path], typer.Argument(metavar="TRACES...", help="Graded, scored traces to learn from: stores, or folders of rollouts or evaluations.", show_default=False)],
    model: ModelOptions, conditions: ConditionOptions,
    test: Annotated[list[Path] | None, typer.Option(help="Traces to judge by; can be repeated.", show_default="the held-out half")] = None,
    out: Annotated[Path | None, typer.Option(help="Also store the table in this folder, as results.json.", show_default=False)] = None,
) -> None:  # fmt: skip
    """Learn what a confidence means, and keep it with the verifier: for `--abstain-below` and `--max-error`."""
    from trueplex.decide import pruning
    from trueplex.evals.run import machine, write_results
    from trueplex.grading.kinds import AUTO
    from trueplex.solving.answering import Again
    from trueplex.solving.scorers import belongs, check_home, choose_scorer
    from trueplex.solving.settings import Settings, origin
    from trueplex.train.calibrate import fit, judged

    verifier = conditions.verifier
    check_home(model.model, verifier)
    backbone = model.reader()
    scorer, settings = choose_scorer(backbone, Settings(verifier=verifier, answer=conditions.answer or AUTO))
    runs = conditions.runs(settings)
    for run in runs:
        pruning.parse(run.prune).check(run.schedule.most, backbone.default_max_tokens)
    source = origin(None, backbone)
    again = Again(backbone, conditions.answer) if conditions.answer else None
    seen, traces = _votes(data, runs, scorer, source, again)
    made = fit(seen, traces, conditions.error, belongs(backbone, scorer, verifier))
    _keep(made, backbone, verifier, scorer, sum(map(len, traces.values())))
    tested = _votes(test, runs, scorer, source, again)[0] if test else [s for s in seen if s.held]
    figures = judged(made, tested, conditions.error)
    if out is not None:
        config = {"model": backbone.name, "fingerprint": backbone.fingerprint, "verifier": verifier, "error": conditions.error,
                  "data": [str(p) for p in data], "tests": [str(p) for p in test or []]}  # fmt: skip
        rows = [{"condition": asked.stored(), **row} for asked, row in figures.items()]
        bands = {way.name: band.stored() for way, band in made.bands.items()}
        votes = {k if isinstance(k, str) else k.name: weights for k, weights in made.votes.items()}
        write_results({"config": config, "machine": machine(), "bands": bands, "votes": votes, "runs": rows}, out)
    _print(figures, conditions.error, bool(test))


def _keep(made: Calibration, backbone: Backbone, verifier: str, scorer: Scorer | None, traces: int) -> None:
    """Store a calibration in the verifier's folder, or the model's, beside what was calibrated there before."""
    from trueplex.decide.calibration import FILE, Calibration
    from trueplex.solving.scorers import home

    folder = home(backbone, scorer, verifier)
    with lock(folder / FILE):
        before = Calibration.read(folder)
        whole = made.beside(before and replace(before, belongs=backbone.renamed(before.belongs, folder / FILE)))
        whole.save(folder)
    kept = len(whole.held) - len(made.held)
    log.info(f"{folder}: calibrated for {len(made.held)} ways to run, from {traces} traces"
             + (f"; the calibrations of {kept} others are kept" if kept else ""))  # fmt: skip


def _votes(
    stores: Sequence[Path], runs: Sequence[Settings], scorer: Scorer | None, source: Origin, again: Again | None
) -> tuple[list[Seen], dict[WayOfThinking, list[Trace]]]:  # fmt: skip
    """The votes of every run on the problems of every store, and all traces by their way of thinking.

    Raises:
        InputError: a store has no graded traces, none that this scorer has scored, or too few for every problem.
    """
    from trueplex.data.traces import read, read_traces
    from trueplex.decide.calibration import way_of_thinking
    from trueplex.solving.answering import stored_kind
    from trueplex.train.calibrate import votes_of

    seen: list[Seen] = []
    every: dict[WayOfThinking, list[Trace]] = {}
    most = max(run.schedule.most for run in runs)
    for path in stores:
        _check_scorer(path, runs[0].names["verifier"], scorer)
        groups: dict[int, list[Trace]] = {}
        kind = again.kind if again else None
        for trace, _ in read_traces(path, source):
            if again:
                again(trace)
            trace.steps = None  # only its numbers count
            groups.setdefault(trace.problem.key, []).append(trace)
        short = [key for key, group in groups.items() if not {t.index for t in group} >= set(range(most))]
        if 0 < len(short) < len(groups):  # of all of them, the first vote says so
            log.info(
                f"{path}: {len(short)} of {len(groups)} problems have fewer than the {most} traces that a run takes; they are skipped"
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
            seen += votes_of(list(groups.values()), thinking, run, cadence, kind or stored_kind(path))
        every.setdefault(way_of_thinking(json.loads(thinking)), []).extend(traces)
        log.info(f"{path}: {len(groups)} problems")
    return seen, every


def _check_scorer(path: Path, verifier: str, scorer: Scorer | None) -> None:
    """Raise InputError when the folder of a rollout says that its traces were scored by something else."""
    from trueplex.data.about import MANIFEST
    from trueplex.decide.calibration import PLAIN
    from trueplex.solving.rollouts import Manifest

    manifest = (path if path.is_dir() else path.parent) / MANIFEST
    if not manifest.exists() or verifier == "none":
        return
    told = read_json(manifest, Manifest)
    made, weights = str(told.config.get("verifier", verifier)), told.scorer
    if weights and scorer and scorer.fingerprint and weights != scorer.fingerprint:
        raise InputError(
            f"{path} was scored by a verifier of other weights ({made}). Try: roll out with --verifier {verifier}"
        )
    kinds = [name if name.partition(":")[0] in PLAIN else "a verifier folder" for name in (made, verifier)]
    if made != "none" and kinds[0] != kinds[1]:
        raise InputError(f"{path} was scored by {made!r}, and {verifier!r} is to be calibrated. Try: --verifier {made}, or roll out "
                         f"with --verifier {verifier}")  # fmt: skip


def _print(figures: dict[Condition, Any], error: float, tested: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("thinking", "paths", "select", "prune", "problems", "right", "ECE", "answered", "wrong among answered",
                  title=f"on {'the test traces' if tested else 'held-out problems'}; answered at --max-error {error:g}")  # fmt: skip
    for asked, row in figures.items():
        wrong = "–" if row["error_among_answered"] is None else f"{row['error_among_answered']:.3f}"
        table.add_row(asked.way.thinking, str(asked.paths), asked.select, asked.prune, str(row["problems"]),
                      f"{row['right']:.3f}", f"{row['ece']:.3f}", f"{row['answered']:.2f}", wrong)  # fmt: skip
    Console(width=140).print(table)
