"""The commands that measure: rollout, eval, eval-verifier. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trueplex.cli_options import Device, Model, Rows, thinks

app = typer.Typer()


@app.command()
@thinks
def rollout(
    data: Annotated[str, typer.Option(help="A suite of the embedded model, or FILE.jsonl with answers.")],
    out: Annotated[Path, typer.Option(help="Folder for the traces; an interrupted run is taken up there.")],
    thinking: Any,
    model: Model = "reference",
    samples: Annotated[int, typer.Option(help="Traces per problem.")] = 16,
    n: Annotated[int, typer.Option(help="Problems, when data is a suite.")] = 200,
    split: Annotated[str, typer.Option(help="Split, when data is a suite.")] = "train",
    verifier: Annotated[str, typer.Option(help="Also score the traces: 'none', or as in `trueplex solve`.")] = "none",
    probe_every: Annotated[int, typer.Option(help="Tokens between scores, when there is a verifier.")] = 32,
    rows: Rows = None,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:  # fmt: skip
    """Sample, grade and store traces to learn from; resumable at any moment."""
    from trueplex.jobs.sampling import roll
    from trueplex.settings import Settings

    settings = Settings(
        paths=samples, verifier=verifier, seed=seed, probe_every=probe_every, rows=rows, select="majority",
        thinking=thinking,
    )  # fmt: skip
    roll(data, split, n, model, device, settings, out, quiet)


@app.command("eval")
@thinks
def evaluate(
    suite: Annotated[list[str], typer.Option(help="'reference' (all its suites), one suite, or FILE.jsonl; may be given again.")],
    out: Annotated[Path, typer.Option(help="Folder for traces and results.json; an interrupted run is taken up there.")],
    thinking: Any,
    model: Model = "reference",
    samples: Annotated[int, typer.Option(help="Traces per problem.")] = 64,
    n: Annotated[int, typer.Option(help="Most problems per suite.")] = 200,
    split: Annotated[str, typer.Option(help="Split, when a suite is the embedded model's.")] = "test",
    verifier: Annotated[str, typer.Option(help="'auto' (the model's own), a verifier folder, 'deepconf[:mean|tail|bottom|lowest[@WINDOW]]', 'logprob', 'entropy', an outcome model 'orm:[acemath:]MODEL', a process model 'prm:FORM:MODEL[@last|min|mean|product]' (FORM: math-shepherd, versaprm, qwen, skywork), a generative verifier 'genrm:MODEL[@VOTES]', or 'none'.")] = "auto",
    probe_every: Annotated[int, typer.Option(help="Tokens between scores.")] = 16,
    rows: Rows = None,
    seed: Annotated[int, typer.Option(help="Same seed, same problems and traces.")] = 0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:  # fmt: skip
    """Measure a model and its verifier: pass@k, votes and the quality of scores, with intervals."""
    from trueplex.jobs.evaluating import measure
    from trueplex.settings import Settings

    settings = Settings(
        paths=samples, verifier=verifier, seed=seed, probe_every=probe_every, rows=rows,
        thinking=thinking,
    )  # fmt: skip
    measure(suite, split, n, model, device, settings, out, quiet)


@app.command("eval-verifier")
def evaluate_verifier(
    data: Annotated[list[Path], typer.Argument(metavar="TRACES...", help="Graded traces: stores, or folders of rollouts or evaluations.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for results.json.")],
    scorers: Annotated[str, typer.Option(help="What is judged, by commas: auto, verifier folders, deepconf[:KIND[@WINDOW]], logprob, entropy, orm:[acemath:]MODEL, prm:FORM:MODEL[@last|min|mean|product] (FORM: math-shepherd, versaprm, qwen, skywork), genrm:MODEL[@VOTES]. The others are held against the first.")] = "auto,deepconf:mean,deepconf:tail,deepconf:bottom,deepconf:lowest,logprob,entropy",
    n: Annotated[int | None, typer.Option(help="Most problems per store.", show_default="all")] = None,
    model: Model = "reference",
    device: Device = None,
) -> None:  # fmt: skip
    """Judge verifiers and untrained scores on the same stored traces: ranking, calibration, votes, cost."""
    from trueplex.jobs.evaluating import appraise

    appraise(data, [name.strip() for name in scorers.split(",")], model, device, n, out)
