"""`trueplex eval` and `trueplex eval-verifier`: measure, keep the figures, and print the main ones."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trueplex.cli.progress import Bar
from trueplex.data.embedded import tasks
from trueplex.data.suites import label, names_of, problems_of
from trueplex.data.traces import Origin, read_traces
from trueplex.errors import InputError, OptionError, StoreError
from trueplex.evals.quality import judge, scored_by
from trueplex.evals.run import RESULTS, evaluate, machine, write_results
from trueplex.models.load import load
from trueplex.solving.scorers import choose_scorer, known, open_scorer
from trueplex.solving.settings import Settings, origin
from trueplex.verify.stored import Stored

log = logging.getLogger(__name__)


def measure(
    suites: Sequence[str], split: str | None, n: int | None, model: str, device: str | None, settings: Settings, out: Path,
    quiet: bool, data_dir: Path | None = None, methods: Sequence[str] | None = None, read_truncated: bool = False,
) -> None:  # fmt: skip
    """`trueplex eval`: sample the suites, and print the main figures as a table.

    Raises:
        OptionError: two suites of one name, which would share a folder, or a data folder that no suite reads.
    """
    names = names_of(suites)
    if len({label(name) for name in names}) < len(names):
        raise OptionError(
            "two suites have the same name and would share a folder. Try: give each once, or rename a file"
        )
    if data_dir is not None and all(name in tasks.SUITES for name in names):
        raise OptionError("--data-dir acts on none of these suites. Try: drop it")
    chosen = {label(name): problems_of(name, split, n, settings.seed, data_dir) for name in names}
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, settings)
    with Bar(sum(map(len, chosen.values())) * settings.schedule.most, quiet) as bar:
        result = evaluate(backbone, chosen, settings, out, scorer, bar.step, methods, read_truncated)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for name, figures in result["suites"].items():
        console.print(_method_table(name, figures), "")
    log.info(f"{out / RESULTS}; a page with figures: trueplex report {out} --out PAGE.html")


def _method_table(name: str, figures: dict[str, Any]) -> Table:
    """One suite: every method at all its traces, beside what one trace and any trace come to."""
    most = str(figures["samples"])
    ended = figures["outcomes"]
    untold = figures["ungraded"]
    title = (f"{name}: {figures['problems']} problems, {most} traces each, {figures['tokens']['mean']:.0f} tokens a trace, "
             f"{ended['truncated']} truncated, {ended['no answer']} without an answer, {untold} not gradable")  # fmt: skip
    table = Table(
        "method", "right", "− majority", "win / tie / loss", "tokens a problem", title=title, title_justify="left"
    )
    against = {p["one"]: (p, 1) for p in figures["pairs"] if p["other"] == "majority"}
    against |= {p["other"]: (p, -1) for p in figures["pairs"] if p["one"] == "majority"}
    table.add_row("pass@1", _shown(figures["pass"]["1"]), "", "", f"{figures['tokens']['mean']:.0f}")
    for method, by_size in figures["methods"].items():
        gain = against.get(method)
        cells = ["", ""] if gain is None else [_difference(*gain), _counts(*gain)]
        table.add_row(f"{method} of {most}", _shown(by_size[most]), *cells, f"{by_size[most]['tokens']:.0f}")
    table.add_row(f"pass@{most}", _shown(figures["pass"][most]), "", "", "")
    return table


def _shown(cell: dict[str, float]) -> str:
    return f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def _difference(pair: dict[str, Any], sign: int) -> str:
    low, high = sorted((sign * pair["low"], sign * pair["high"]))
    return f"{sign * pair['mean'] + 0.0:+.3f} [{low + 0.0:+.3f}, {high + 0.0:+.3f}]"  # + 0.0: no minus before a zero


def _counts(pair: dict[str, Any], sign: int) -> str:
    win, loss = (pair["win"], pair["loss"])[::sign]
    return f"{win} / {pair['tie']} / {loss}"


def appraise(
    data: Sequence[Path], scorers: Sequence[str], model: str, device: str | None, most: int | None, samples: int | None,
    out: Path, quiet: bool,
) -> None:  # fmt: skip
    """`trueplex eval-verifier`: judge scorers on stored traces, side by side; what is judged is kept suite by suite."""
    for name in scorers:
        known(name)
    backbone = load(model, device)
    source = origin(None, backbone)
    stores = {
        Path(path).stem if Path(path).is_file() else Path(path).name: _graded(path, source, most, samples)
        for path in data
    }
    if len(stores) < len(data):
        raise OptionError("two stores have the same name and would share a place in the results. Try: rename one")
    config = {"model": backbone.name, "fingerprint": backbone.fingerprint, "scorers": list(scorers),
              "data": [str(p) for p in data], "problems": most, "samples": samples}  # fmt: skip
    suites = _judged_before(out, config)
    with Bar(sum(map(len, stores.values())) * len(scorers), quiet) as bar:
        for suite, stored in stores.items():
            if suite in suites:
                bar.step(len(stored) * len(scorers), 0)
                continue
            judged = {}
            for name in scorers:
                judged[name] = scored_by(open_scorer(backbone, name), stored, bar.step)
            suites[suite] = judge(stored, judged)
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
        "ms",
        "Mflop",
    )
    for suite, judged_suite in suites.items():
        for name, f in judged_suite["scorers"].items():
            votes = f["votes"]
            cells = (f["within"]["0.5"], f["within"]["1.0"], None, votes["weighted_minus_majority"])
            shown = [f"{c['mean']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else "–" for c in cells]
            shown[2] = f"{f['over_all']['1.0']['mean']:.3f}" if f["over_all"]["1.0"] is not None else "–"
            error = f"{f['calibration']['ece']['mean']:.3f}" if "calibration" in f else "–"
            table.add_row(suite, name, *shown, f"{votes['flipped_to_right']} / {votes['flipped_to_wrong']}", error,
                          f"{f['milliseconds_per_trace']:.1f}", f"{f['megaflops_per_trace']:.0f}")  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _judged_before(out: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The suites that an earlier run of the same command has judged; not those of before AUROC over all had an interval.

    Raises:
        StoreError: `out` holds the results of another command.
    """
    path = out / RESULTS
    if not path.exists():
        return {}
    before = json.loads(path.read_text())
    if before["config"] != json.loads(json.dumps(config)):
        raise StoreError(f"{out} holds results of other scorers or traces. Try: give another --out folder")
    return {suite: judged for suite, judged in before["suites"].items()
            if all(isinstance(f["over_all"]["1.0"], dict | None) for f in judged["scorers"].values())}  # fmt: skip


def _graded(path: Path, source: Origin, most: int | None, samples: int | None) -> list[Stored]:
    """The traces of a store that are judged: whole problems in its order, and of each the first ones by index."""
    stored = list(read_traces(path, source))
    texts = set(list(dict.fromkeys(t.problem.text for t, _ in stored))[:most])
    kept = [s for s in stored if s[0].problem.text in texts and (samples is None or s[0].index < samples)]
    if not any(t.correct is not None for t, _ in kept):
        raise InputError(f"{path} holds no graded traces. Try: give rollouts or evaluations of problems with answers")
    return kept
