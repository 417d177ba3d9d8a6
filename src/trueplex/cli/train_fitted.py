"""`trueplex train linear` and `combined`: scores that are fitted by regression, in minutes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from trueplex.cli.groups import KeepBase, ModelOptions, Quiet, Reread
from trueplex.cli.options import Within
from trueplex.errors import OptionError

log = logging.getLogger(__name__)

LINEAR_EXAMPLE = "trueplex train linear --model ./my-model --data rollouts/ --out my-model/verifier"
COMBINED_EXAMPLE = "trueplex train combined --model ./my-model --data runs/validation/"


def linear(
    data: Annotated[list[Path], typer.Option(help="Folders of rollouts to learn from; can be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder for the result.")],
    model: ModelOptions,
    answer: Reread = None,
    traces: Annotated[int | None, typer.Option(help="Most traces to learn from, in the order of the folders.", show_default="all"), Within(1)] = None,
    keep_base: KeepBase = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Fit a verifier without training a network: logistic regression on what the KV cache holds of graded traces.

    Minutes where `trueplex train verifier` takes hours, and good with few traces. Its scores come from what decoding has stored, so
    they cost no token.
    """
    from trueplex.cli.progress import Bar
    from trueplex.data.traces import read_traces
    from trueplex.locks import lock
    from trueplex.solving.answering import Again
    from trueplex.solving.settings import origin
    from trueplex.train.combined import comparable
    from trueplex.train.linear import fit
    from trueplex.verify.kept import keep_reads
    from trueplex.verify.linear import FILE
    from trueplex.verify.stored import length

    backbone = model.reader()
    stored = [one for path in data for one in read_traces(path, origin(None, backbone))]
    if answer:
        again = Again(backbone, answer)
        for trace, _ in stored:
            again(trace)
    kept = comparable(comparable(stored)[:traces])
    log.info(
        f"{len(kept)} traces to learn from (of {len(stored)}; only problems with both right and wrong ones are used)"
    )
    if keep_base:
        keep_reads(backbone, keep_base, sum(map(length, kept)))
    with lock(out / FILE), Bar(len(kept), quiet) as bar:
        made = fit(backbone, kept, ", ".join(map(str, data)), bar.step)
        made.save(out)
    print(json.dumps(made.card.validation))


def combined(
    data: Annotated[list[Path], typer.Option(help="Folders of rollouts of validation problems, in every way of thinking that is to be scored; can be repeated.")],
    model: ModelOptions,
    verifier: Annotated[str, typer.Option(help="Whose probe is combined: 'auto', a verifier's folder, or 'none'.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder for the result.", show_default="the verifier's own")] = None,
    keep_base: KeepBase = None,
) -> None:  # fmt: skip
    """Fit a score that combines a verifier's probe with log-probability, entropy and length, for --verifier combined."""
    from trueplex.data.traces import read_traces
    from trueplex.locks import lock
    from trueplex.solving.scorers import check_home
    from trueplex.solving.settings import origin
    from trueplex.train.combined import fit
    from trueplex.verify.combined import FILE
    from trueplex.verify.kept import keep_reads
    from trueplex.verify.one_token import OneTokenVerifier
    from trueplex.verify.open import verifier_folder
    from trueplex.verify.probe import OneTokenScorer
    from trueplex.verify.stored import length

    if verifier == "none" and keep_base:
        raise OptionError("keep-base keeps what a verifier reads, and there is none. Try: drop it")
    if out is None:
        check_home(model.model, verifier)
    backbone = model.reader()
    folder = verifier_folder(backbone, "auto" if verifier == "none" else verifier)
    probe = None if verifier == "none" else OneTokenScorer(OneTokenVerifier.load(folder, backbone))
    with lock((out or folder) / FILE):
        stored = [one for path in data for one in read_traces(path, origin(None, backbone))]
        if keep_base:
            keep_reads(backbone, keep_base, sum(map(length, stored)))
        made = fit(backbone, stored, probe)
        made.save(out or folder)
    print(json.dumps({"weights": made.weights, "fitted": made.fitted}))
