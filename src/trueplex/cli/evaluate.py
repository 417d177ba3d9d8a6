"""`trueplex eval` and `trueplex eval-verifier`: measure, store the figures, and print the main ones."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from trueplex.cli.groups import (
    KeepBase,
    LimitOptions,
    ModelOptions,
    ProbeEvery,
    Quiet,
    Reread,
    SampleOptions,
    SuiteOptions,
    ThinkingOrGreedy,
    Verifier,
)
from trueplex.cli.options import Within, listed
from trueplex.cli.replicas import AnyModelOptions
from trueplex.errors import InputError, OptionError, StoreError
from trueplex.files import damaged, read_json
from trueplex.locks import lock

if TYPE_CHECKING:
    from rich.table import Table

    from trueplex.data.traces import Origin
    from trueplex.grading.kinds import AnswerKind
    from trueplex.models.backbone import Backbone
    from trueplex.solving.settings import Settings
    from trueplex.types import Problem
    from trueplex.verify.stored import Stored

log = logging.getLogger(__name__)

EXAMPLE = "trueplex eval --model ./my-model --suite math500 --samples 64 --out runs/eval"
VERIFIER_EXAMPLE = "trueplex eval-verifier runs/eval/math500 --scorers auto,deepconf:tail,logprob --out runs/scorers"

Suites = Annotated[list[str], typer.Option(help="'reference' (all its suites), a suite by name (aime24, aime25, amc23, math500, minerva, olympiadbench, chain-easy, …), FILE.jsonl, FILE.parquet, or OWNER/NAME[:CONFIGURATION] on the hub; can be repeated.")]  # fmt: skip
Stores = Annotated[list[Path], typer.Argument(metavar="TRACES...", help="Graded traces: stores, or folders of rollouts or evaluations.", show_default=False)]  # fmt: skip


@dataclass(frozen=True)
class EvalSampleOptions(SampleOptions):
    """As for rollouts, with other defaults."""

    samples: Annotated[int | None, typer.Option(help="Traces per problem.", show_default="64; 1 with --greedy"), Within(1)] = None  # fmt: skip
    verifier: Verifier = "auto"
    probe_every: ProbeEvery = 16


@dataclass(frozen=True)
class FigureOptions:
    """Where the figures go, and how answers are chosen for them."""

    PANEL: ClassVar[str] = "Output"

    out: Annotated[Path, typer.Option(help="Folder for traces and results.json; an interrupted run is resumed there.")]
    methods: Annotated[
        str | None,
        typer.Option(
            help="Ways to choose the answer, separated by commas: majority, weighted, weighted:POWER, weighted:odds, best, top:SHARE, or NAME:SCORER, e.g. weighted:deepconf:tail@2048; each also on what a pruning policy would have left: weighted~half:32, majority~auto.",
            show_default="all that the run allows",
        ),
    ] = None
    read_truncated: Annotated[
        bool,
        typer.Option(
            "--read-truncated",
            help="Take the last box of a trace that a limit cut off as its answer; otherwise it counts as wrong.",
        ),
    ] = False
    quiet: Quiet = False  # fmt: skip


def evaluate(
    suite: Suites, figures: FigureOptions, model: AnyModelOptions, thinking: ThinkingOrGreedy, limits: LimitOptions,
    run: EvalSampleOptions, which: SuiteOptions,
) -> None:  # fmt: skip
    """Measure a model and its verifier: pass@k, votes and the quality of scores, with intervals."""
    from rich.console import Console

    from trueplex.cli.progress import Bar
    from trueplex.data.suites import check_folder, label, names_of, problems_of
    from trueplex.evals import run as evaluation
    from trueplex.scale import runs
    from trueplex.scale.replica import Job
    from trueplex.solving.scorers import choose_scorer
    from trueplex.solving.settings import Settings

    settings = Settings(
        paths=run.samples or (1 if thinking.greedy else 64), verifier=run.verifier, seed=run.seed, probe_every=run.probe_every,
        rows=run.max_batch_size, answer=run.answer, thinking=thinking.build(limits),
    )  # fmt: skip
    methods = listed("--methods", figures.methods) or None
    names = names_of(suite)
    if len({label(name) for name in names}) < len(names):
        raise OptionError(
            "two suites have the same name and would share a folder. Try: give each once, or rename a file"
        )
    check_folder(names, which.data_dir)
    chosen = {label(name): problems_of(name, which.split, which.n, run.seed, which.data_dir, columns=which.columns,
                                       kind=settings.kind) for name in names}  # fmt: skip
    traces = sum(map(len, chosen.values())) * settings.schedule.most
    if model.endpoint is not None:
        result = _at_endpoint(model, chosen, settings, figures, methods)
    elif model.ray:
        job = Job(model.load, settings, limits.check)
        with model.cluster() as cluster, Bar(traces, figures.quiet) as bar:
            result = runs.evaluate(cluster, job, chosen, figures.out, bar.step, methods, figures.read_truncated)
    else:
        backbone = model.load()
        limits.check(backbone)
        scorer, settings = choose_scorer(backbone, settings)
        with Bar(traces, figures.quiet) as bar:
            result = evaluation.evaluate(
                backbone, chosen, settings, figures.out, scorer, bar.step, methods, figures.read_truncated
            )
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name, measured in result["suites"].items():
        console.print(_method_table(name, measured), "")
    drawn = all("curves" in measured for measured in result["suites"].values())
    page = f"; a page with figures: trueplex report {figures.out} --out PAGE.html" if drawn else ""
    log.info(f"{figures.out / evaluation.RESULTS}{page}")


def _at_endpoint(
    model: AnyModelOptions, suites: Mapping[str, Sequence[Problem]], settings: Settings, figures: FigureOptions,
    methods: Sequence[str] | None,
) -> dict[str, Any]:  # fmt: skip
    """The same figures of paths that a server writes."""
    from trueplex.cli.progress import Bar
    from trueplex.evals.upstream import evaluate as evaluate_at
    from trueplex.solving.upstream import chosen

    settings = chosen(settings)
    server = model.connect(settings.rows)
    with Bar(sum(map(len, suites.values())) * settings.schedule.most, figures.quiet) as bar:
        return evaluate_at(server, suites, settings, figures.out, bar.step, methods, figures.read_truncated)


def _method_table(name: str, figures: dict[str, Any]) -> Table:
    """One suite: every method at all its traces, beside what one trace and any trace come to."""
    from rich.table import Table

    from trueplex.evals.metrics import FEW
    from trueplex.report.tables import TOO_FEW

    most = str(figures["samples"])
    problems = figures["problems"]
    ended = figures["outcomes"]
    untold = figures["ungraded"]
    few = f" ({TOO_FEW})" if problems < FEW else ""
    title = (f"{name}: {problems} problems{few}, {most} traces each, {figures['tokens']['mean']:.0f} tokens a trace, "
             f"{ended['truncated']} truncated, {ended['no answer']} without an answer, {untold} that cannot be graded")  # fmt: skip
    table = Table(
        "method", "right", "− majority", "win / tie / loss", "tokens a problem", title=title, title_justify="left"
    )
    against = {p["one"]: (p, 1) for p in figures["pairs"] if p["other"] == "majority"}
    against |= {p["other"]: (p, -1) for p in figures["pairs"] if p["one"] == "majority"}
    table.add_row("pass@1", _shown(figures["pass"]["1"], problems), "", "", f"{figures['tokens']['mean']:.0f}")
    for method, by_size in figures["methods"].items():
        gain = against.get(method)
        cells = ["", ""] if gain is None else [_difference(*gain), _counts(*gain)]
        table.add_row(f"{method} of {most}", _shown(by_size[most], problems), *cells, f"{by_size[most]['tokens']:.0f}")
    table.add_row(f"pass@{most}", _shown(figures["pass"][most], problems), "", "", "")
    return table


def _shown(cell: dict[str, float], problems: int) -> str:
    """A share with its interval: the bootstrap's, and Wilson's at 0 and 1, where the bootstrap's has no width."""
    from trueplex.evals.metrics import share_interval

    low, high = share_interval(cell["mean"], problems) if cell["mean"] in (0, 1) else (cell["low"], cell["high"])
    return f"{cell['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _difference(pair: dict[str, Any], sign: int) -> str:
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    return f"{sign * pair['mean'] + 0.0:+.3f} [{low + 0.0:+.3f}, {high + 0.0:+.3f}]"  # + 0.0: no minus before a zero


def _counts(pair: dict[str, Any], sign: int) -> str:
    win, loss = (pair["win"], pair["loss"])[::sign]
    return f"{win} / {pair['tie']} / {loss}"


@dataclass(frozen=True)
class JudgeOptions:
    """What is judged, and on how much."""

    PANEL: ClassVar[str] = "What is judged"

    out: Annotated[Path, typer.Option(help="Folder for results.json.")]
    scorers: Annotated[
        str,
        typer.Option(
            help="What is judged, separated by commas: auto, verifiers by folder or hub id, deepconf[:KIND[@WINDOW]], logprob, entropy, orm:[acemath:]MODEL, prm:FORM:MODEL[@last|min|mean|product] (FORM: math-shepherd, versaprm, qwen, skywork), genrm:MODEL[@VOTES]. The others are compared with the first."
        ),
    ] = "auto,deepconf:mean,deepconf:tail,deepconf:bottom,deepconf:lowest,logprob,entropy"
    n: Annotated[int | None, typer.Option(help="Most problems per store.", show_default="all"), Within(1)] = None
    samples: Annotated[int | None, typer.Option(help="Most traces per problem.", show_default="all"), Within(1)] = None
    answer: Reread = None
    keep_base: KeepBase = None
    quiet: Quiet = False  # fmt: skip


def evaluate_verifier(data: Stores, model: ModelOptions, judging: JudgeOptions) -> None:
    """Judge verifiers and untrained scores on the same stored traces: ranking, calibration, votes, cost."""
    with lock(judging.out, folder=True):
        _evaluate_verifier(data, model, judging)


def _evaluate_verifier(data: Stores, model: ModelOptions, judging: JudgeOptions) -> None:
    from rich.console import Console

    from trueplex.grading.kinds import answer_kind
    from trueplex.solving.answering import stored_kind
    from trueplex.solving.settings import origin
    from trueplex.verify.kept import keep_reads
    from trueplex.verify.open import known, reads_cache
    from trueplex.verify.stored import length

    scorers = list(listed("--scorers", judging.scorers))
    for name in scorers:
        known(name)
    if judging.keep_base and not any(map(reads_cache, scorers)):
        raise OptionError(
            "keep-base keeps what one-token verifiers read, and none is judged. Try: drop it, or name one in --scorers"
        )
    backbone = model.reader()
    source = origin(None, backbone)
    stores = {
        Path(path).stem if os.path.isfile(path) else Path(path).name: _graded(path, source, judging, backbone)
        for path in data
    }
    if len(stores) < len(data):
        raise OptionError("two stores have the same name and would share a place in the results. Try: rename one")
    if judging.keep_base:
        keep_reads(backbone, judging.keep_base, sum(map(length, chain(*stores.values()))))
    config = {"model": backbone.name, "fingerprint": backbone.fingerprint, "scorers": scorers,
              "data": [str(p) for p in data], "problems": judging.n, "samples": judging.samples,
              **({"answer": judging.answer} if judging.answer else {})}  # fmt: skip
    kinds = dict(
        zip(stores, (answer_kind(judging.answer) if judging.answer else stored_kind(p) for p in data), strict=True)
    )
    suites = _judge(backbone, stores, kinds, scorers, config, judging)
    Console(width=None if sys.stdout.isatty() else 160).print(scorer_table(suites))


def _judge(
    backbone: Backbone, stores: Mapping[str, list[Stored]], kinds: Mapping[str, AnswerKind], scorers: Sequence[str], config: dict[str, Any], judging: JudgeOptions
) -> dict[str, Any]:  # fmt: skip
    """The figures of every scorer on every store, stored suite by suite; what an earlier run has judged is kept."""
    from trueplex.cli.progress import Bar
    from trueplex.evals.quality import Scored, judge, scored_by
    from trueplex.evals.run import machine, write_results
    from trueplex.verify.open import open_scorer, reads_texts

    # Verifiers share what the base reads; models that read texts are whole models, and are in memory one by one.
    shared, alone = [n for n in scorers if not reads_texts(n)], [n for n in scorers if reads_texts(n)]
    together = [names for names in (shared, *([name] for name in alone)) if names]
    suites = _judged_before(judging.out, config, backbone)
    with Bar(sum(map(len, stores.values())) * len(scorers), judging.quiet) as bar:
        for suite, stored in stores.items():
            if suite in suites:
                bar.step(len(stored) * len(scorers), 0)
                continue
            scored: dict[str, Scored] = {}
            for names in together:
                scored |= scored_by(backbone, {n: open_scorer(backbone, n) for n in names}, stored, bar.step)
            suites[suite] = judge(stored, {name: scored[name] for name in scorers}, kinds[suite])
            write_results({"config": config, "machine": machine(), "suites": suites}, judging.out)
    return suites


def scorer_table(suites: Mapping[str, Any]) -> Table:
    from rich.table import Table

    from trueplex.report.tables import area, called

    table = Table("suite", "scorer", "AUROC within, half", "within, end", "over all", "weighted − majority", "to right / to wrong", "ECE",
                  "ms", "Mflop")  # fmt: skip
    for suite, judged_suite in suites.items():
        for name, f in judged_suite["scorers"].items():
            votes, problems = f["votes"], judged_suite["problems"]
            areas = (f["within"]["0.5"], f["within"]["1.0"], f["over_all"]["1.0"])
            shown = [area(one, problems) for one in areas]
            gain = votes["weighted_minus_majority"]
            shown.append(f"{gain['mean']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}]")
            error = f"{f['calibration']['ece']['mean']:.3f}" if "calibration" in f else "–"
            table.add_row(called(suite, problems), name, *shown, f"{votes['flipped_to_right']} / {votes['flipped_to_wrong']}", error,
                          f"{f['milliseconds_per_trace']:.1f}", f"{f['megaflops_per_trace']:.0f}")  # fmt: skip
    return table


def _judged_before(out: Path, config: dict[str, Any], backbone: Backbone) -> dict[str, Any]:
    """The suites that an earlier run of the same command has judged; not those of before AUROC over all had an interval.

    Raises:
        StoreError: `out` holds the results of another command.
    """
    from trueplex.evals.run import RESULTS

    path = out / RESULTS
    if not path.exists():
        return {}
    before = read_json(path, Results)
    if backbone.renamed(before.config, path) != json.loads(json.dumps(config)):
        raise StoreError(f"{out} holds results of other scorers or traces. Try: give another --out folder")
    try:
        return {suite: judged for suite, judged in before.suites.items()
                if all(isinstance(f["over_all"]["1.0"], dict | None) for f in judged["scorers"].values())}  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"it holds no results of eval-verifier: {error!r}") from error


@dataclass(frozen=True)
class Results:
    """What an earlier run of eval-verifier wrote."""

    config: dict[str, Any]
    suites: dict[str, dict[str, Any]]


def _graded(path: Path, source: Origin, judging: JudgeOptions, backbone: Backbone) -> list[Stored]:
    """The traces of a store that are judged: whole problems in its order, and of each the first ones by index."""
    from trueplex.data.traces import read_traces
    from trueplex.solving.answering import Again

    stored = list(read_traces(path, source))
    texts = set(list(dict.fromkeys(t.problem.text for t, _ in stored))[: judging.n])
    kept = [
        s for s in stored if s[0].problem.text in texts and (judging.samples is None or s[0].index < judging.samples)
    ]
    if judging.answer:
        again = Again(backbone, judging.answer)
        for trace, _ in kept:
            again(trace)
    if not any(t.correct is not None for t, _ in kept):
        raise InputError(f"{path} holds no graded traces. Try: give rollouts or evaluations of problems with answers")
    return kept
