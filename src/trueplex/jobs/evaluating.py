"""`trueplex eval` and `trueplex eval-verifier`: measure, keep the figures, and print the main ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trueplex.backbone import load
from trueplex.engine.thinking import Thinking
from trueplex.errors import InputError
from trueplex.evals.quality import judge, scored_by
from trueplex.evals.run import evaluate, machine, write_results
from trueplex.jobs.sampling import problems_of
from trueplex.progress import Bar
from trueplex.reference import tasks
from trueplex.scorers import choose_scorer, known, open_scorer
from trueplex.session import say
from trueplex.settings import Settings, origin
from trueplex.store import read_traces


def measure(
    suites: Sequence[str],
    split: str,
    n: int,
    model: str,
    device: str | None,
    settings: Settings,
    out: Path,
    quiet: bool,
) -> None:
    """`trueplex eval`: sample the suites, and print the main figures as a table."""
    names = [name for suite in suites for name in (tasks.SUITES if suite == "reference" else [suite])]
    chosen = {Path(name.removeprefix("@")).stem: problems_of(name, split, n, settings.seed) for name in names}
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, settings, say)
    with Bar(sum(map(len, chosen.values())) * settings.paths, quiet) as bar:
        result = evaluate(backbone, chosen, settings, out, scorer, bar.step, say)
    table = Table(
        "suite",
        "pass@1",
        "majority",
        "pass",
        "tokens",
        "weighted",
        "best",
        "AUROC within",
        title=f"{settings.paths} paths",
    )
    for name, figures in result["suites"].items():
        most = str(figures["samples"])
        cells = [figures["pass"]["1"], figures["majority"][most], figures["pass"].get(most)]
        scored = [figures[k][most] if k in figures else None for k in ("weighted", "best")]
        scored.append(figures["auroc_within"]["1.0"] if "auroc_within" in figures else None)
        shown = [f"{c['mean']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "–" for c in (*cells, *scored)]
        table.add_row(name, *shown[:3], f"{figures['tokens']['mean']:.0f}", *shown[3:])
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def appraise(
    data: Sequence[Path], scorers: Sequence[str], model: str, device: str | None, most: int | None, out: Path
) -> None:
    """`trueplex eval-verifier`: judge scorers on stored traces, side by side."""
    for name in scorers:
        known(name)
    backbone = load(model, device)
    source = origin(Thinking(), backbone)
    suites: dict[str, Any] = {}
    for path in data:
        stored = list(read_traces(path, say, source))
        if most is not None:  # whole problems, in the order of the store
            texts = set(list(dict.fromkeys(t.problem.text for t, _ in stored))[:most])
            stored = [s for s in stored if s[0].problem.text in texts]
        if not any(t.correct is not None for t, _ in stored):
            raise InputError(
                f"{path} holds no graded traces; mend: give rollouts or evaluations of problems with answers"
            )
        judged = {}
        for name in scorers:
            scorer = open_scorer(backbone, name, say)
            judged[name] = scored_by(scorer, stored)
            scorer.release()
        suites[Path(path).stem if Path(path).is_file() else Path(path).name] = judge(stored, judged)
        say(f"{path}: {len(stored)} traces judged")
    config = {"model": backbone.name, "fingerprint": backbone.fingerprint, "scorers": list(scorers),
              "data": [str(p) for p in data], "problems": most}  # fmt: skip
    write_results({"config": config, "machine": machine(), "suites": suites}, out)
    table = Table(
        "suite",
        "scorer",
        "AUROC within, half",
        "within, end",
        "over all",
        "weighted − majority",
        "to right / to wrong",
        "ECE",
    )
    for suite, judged_suite in suites.items():
        for name, f in judged_suite["scorers"].items():
            votes = f["votes"]
            cells = (f["within"]["0.5"], f["within"]["1.0"], None, votes["weighted_minus_majority"])
            shown = [f"{c['mean']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "–" for c in cells]
            shown[2] = f"{f['over_all']['1.0']:.3f}" if f["over_all"]["1.0"] is not None else "–"
            error = f"{f['calibration']['ece']['mean']:.3f}" if "calibration" in f else "–"
            table.add_row(suite, name, *shown, f"{votes['flipped_to_right']} / {votes['flipped_to_wrong']}", error)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
