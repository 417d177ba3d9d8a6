"""`trueplex score`: give stored traces the scores that a verifier would have given them while they grew."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from trueplex.cli.groups import ModelOptions, ProbeEvery, Quiet
from trueplex.errors import OptionError

log = logging.getLogger(__name__)

EXAMPLE = "trueplex score runs/eval/math500 --model ./my-model --verifier ./my-verifier --out runs/scored/math500"

Source = Annotated[Path, typer.Argument(metavar="TRACES", help="A folder of `trueplex rollout`, or of one suite of `trueplex eval`.", show_default=False)]  # fmt: skip


def score(
    data: Source, model: ModelOptions,
    out: Annotated[Path, typer.Option(help="Folder for the scored traces; an interrupted run is resumed there.")],
    verifier: Annotated[str, typer.Option(help="A verifier: 'auto' (the model's own), its folder or its hub id.")] = "auto",
    probe_every: ProbeEvery = 32,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Score stored traces as a live run would have: for policies simulated by `eval`, and for `calibrate`, without sampling again."""
    from trueplex.cli.progress import Bar
    from trueplex.data.traces import read
    from trueplex.solving.scoring import score_folder
    from trueplex.verify.open import CacheScorer, open_scorer

    backbone = model.reader()
    scorer = open_scorer(backbone, verifier, probe_every)
    if not isinstance(scorer, CacheScorer):
        raise OptionError(f"{verifier!r} is no verifier that reads the cache. Try: a verifier's folder; `trueplex eval-verifier` judges other scores on "
                          "stored traces")  # fmt: skip
    with Bar(sum(1 for _ in read(data, ("index",), complain=False)), quiet) as bar:
        path = score_folder(backbone, data, scorer, verifier, out, bar.step)
    log.info(f"{path}: scored by {verifier} every {probe_every} tokens")
