"""The commands that measure: rollout, eval, eval-verifier, report. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trueplex.cli.options import Device, Model, Rows, thinks

app = typer.Typer()

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with NAME.jsonl or NAME.parquet of the named suites; nothing is fetched then.",
        show_default="the hub",
    ),
]


@app.command()
@thinks
def rollout(
    data: Annotated[str, typer.Option(help="A suite by name (reference, dapo-math-17k, math500 …), FILE.jsonl, FILE.parquet, or OWNER/NAME[:CONFIGURATION] on the hub.")],
    out: Annotated[Path, typer.Option(help="Folder for the traces; an interrupted run is taken up there.")],
    thinking: Any,
    model: Model = "reference",
    samples: Annotated[int, typer.Option(help="Traces per problem.")] = 16,
    n: Annotated[int | None, typer.Option(help="Most problems.", show_default="200 of an embedded suite, else all")] = None,
    split: Annotated[str | None, typer.Option(help="Split of an embedded suite or a hub data set.", show_default="train")] = None,
    data_dir: DataDir = None,
    verifier: Annotated[str, typer.Option(help="Also score the traces: 'none', or as in `trueplex solve`.")] = "none",
    probe_every: Annotated[int, typer.Option(help="Tokens between scores, when there is a verifier.")] = 32,
    rows: Rows = None,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:  # fmt: skip
    """Sample, grade and store traces to learn from; resumable at any moment."""
    from trueplex.cli.rollout import roll
    from trueplex.solving.settings import Settings

    settings = Settings(
        paths=samples, verifier=verifier, seed=seed, probe_every=probe_every, rows=rows, select="majority",
        thinking=thinking,
    )  # fmt: skip
    roll(data, split, n, model, device, settings, out, quiet, data_dir)


@app.command("eval")
@thinks
def evaluate(
    suite: Annotated[list[str], typer.Option(help="'reference' (all its suites), a suite by name (aime24, aime25, amc23, math500, minerva, olympiadbench, chain-easy …), FILE.jsonl, FILE.parquet, or OWNER/NAME[:CONFIGURATION] on the hub; may be given again.")],
    out: Annotated[Path, typer.Option(help="Folder for traces and results.json; an interrupted run is taken up there.")],
    thinking: Any,
    model: Model = "reference",
    samples: Annotated[int, typer.Option(help="Traces per problem.")] = 64,
    n: Annotated[int | None, typer.Option(help="Most problems per suite.", show_default="200 of an embedded suite, else all")] = None,
    split: Annotated[str | None, typer.Option(help="Split of an embedded suite or a hub data set.", show_default="test")] = None,
    data_dir: DataDir = None,
    methods: Annotated[str | None, typer.Option(help="Ways to choose the answer, by commas: majority, weighted, best, or NAME:SCORER, e.g. weighted:deepconf:tail@2048; each also on what a pruning policy would have left: weighted~half:32, majority~auto.", show_default="all that the run allows")] = None,
    read_truncated: Annotated[bool, typer.Option("--read-truncated", help="Take the last box of a trace that a limit cut off for its answer; it is wrong otherwise.")] = False,
    verifier: Annotated[str, typer.Option(help="'auto' (the model's own), a verifier's folder or hub id, 'deepconf[:mean|tail|bottom|lowest[@WINDOW]]', 'logprob', 'entropy', an outcome model 'orm:[acemath:]MODEL', a process model 'prm:FORM:MODEL[@last|min|mean|product]' (FORM: math-shepherd, versaprm, qwen, skywork), a generative verifier 'genrm:MODEL[@VOTES]', or 'none'.")] = "auto",
    probe_every: Annotated[int, typer.Option(help="Tokens between scores.")] = 16,
    rows: Rows = None,
    seed: Annotated[int, typer.Option(help="Same seed, same problems and traces.")] = 0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:  # fmt: skip
    """Measure a model and its verifier: pass@k, votes and the quality of scores, with intervals."""
    from trueplex.cli.evaluate import measure
    from trueplex.solving.settings import Settings

    settings = Settings(
        paths=samples, verifier=verifier, seed=seed, probe_every=probe_every, rows=rows,
        thinking=thinking,
    )  # fmt: skip
    names = [name.strip() for name in methods.split(",")] if methods else None
    measure(suite, split, n, model, device, settings, out, quiet, data_dir, names, read_truncated)


@app.command("eval-verifier")
def evaluate_verifier(
    data: Annotated[list[Path], typer.Argument(metavar="TRACES...", help="Graded traces: stores, or folders of rollouts or evaluations.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for results.json.")],
    scorers: Annotated[str, typer.Option(help="What is judged, by commas: auto, verifiers by folder or hub id, deepconf[:KIND[@WINDOW]], logprob, entropy, orm:[acemath:]MODEL, prm:FORM:MODEL[@last|min|mean|product] (FORM: math-shepherd, versaprm, qwen, skywork), genrm:MODEL[@VOTES]. The others are held against the first.")] = "auto,deepconf:mean,deepconf:tail,deepconf:bottom,deepconf:lowest,logprob,entropy",
    n: Annotated[int | None, typer.Option(min=1, help="Most problems per store.", show_default="all")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Most traces per problem.", show_default="all")] = None,
    model: Model = "reference",
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:  # fmt: skip
    """Judge verifiers and untrained scores on the same stored traces: ranking, calibration, votes, cost."""
    from trueplex.cli.evaluate import appraise

    appraise(data, [name.strip() for name in scorers.split(",")], model, device, n, samples, out, quiet)


@app.command()
def report(
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders or results files of eval, eval-verifier or training. The first run is the one that others are held against.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="One page with everything in it.", show_default=False)] = None,
    markdown: Annotated[Path | None, typer.Option(help="All tables, as Markdown.", show_default=False)] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures, a file each.", show_default=False)] = None,
    form: Annotated[str | None, typer.Option("--format", help="Of the figures: svg or png.", show_default="svg")] = None,
    title: Annotated[str, typer.Option(help="What the page is called.")] = "trueplex: results",
) -> None:  # fmt: skip
    """Show stored results: tables, curves and what scores saw, as a page that works offline."""
    from trueplex.cli.reporting import report as write

    write(sources, out, markdown, figures, form, title)


@app.command()
def calibrate(
    data: Annotated[list[Path], typer.Argument(metavar="TRACES...", help="Graded, scored traces to learn from: stores, or folders of rollouts or evaluations.", show_default=False)],
    test: Annotated[list[Path] | None, typer.Option(help="Traces to judge by; may be given again.", show_default="the held-out half")] = None,
    model: Model = "reference",
    verifier: Annotated[str, typer.Option(help="What scored them, as in `trueplex solve`, but no hub id, as the calibration is kept in the verifier's folder; 'none' calibrates plain majorities.")] = "auto",
    paths: Annotated[list[str] | None, typer.Option(help="Paths of the runs to promise for; may be given again.", show_default="16")] = None,
    select: Annotated[list[str] | None, typer.Option(help="Their selectors; may be given again.", show_default="weighted; majority without a verifier")] = None,
    prune: Annotated[list[str] | None, typer.Option(help="Their policies; may be given again.", show_default="none")] = None,
    error: Annotated[float, typer.Option(help="The largest error that the table and the band of trace scores are for.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="Also keep the table in this folder, as results.json.")] = None,
    device: Device = None,
) -> None:  # fmt: skip
    """Learn what a confidence means, and keep it with the verifier: for `--abstain-below` and `--max-error`."""
    from trueplex.cli.calibrate import calibrate as learn
    from trueplex.errors import OptionError

    if not 0 < error < 1:
        raise OptionError(f"error is {error}. Try: a share between 0 and 1")
    selects = select or ["majority" if verifier == "none" else "weighted"]
    learn(data, test or [], model, device, verifier, paths or ["16"], selects, prune or ["none"], error, out)
