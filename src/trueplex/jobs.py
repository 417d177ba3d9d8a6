"""The long jobs of the command line: rollouts, evaluation, training. Each can be stopped and taken up again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trueplex.backbone import load
from trueplex.errors import InputError, TrueplexError
from trueplex.inputs import read_jsonl
from trueplex.pipeline import choose_scorer
from trueplex.session import say
from trueplex.settings import Settings
from trueplex.types import Problem


def _problems(data: str, split: str, n: int, seed: int) -> list[Problem]:
    """Problems of a reference suite, or of a JSONL file, whose bad lines are said and skipped."""
    from trueplex.reference import tasks

    if data == "reference" or data in tasks.SUITES:
        return tasks.problems(data, split, n, seed)
    if not Path(data.removeprefix("@")).exists():
        raise InputError(f"no suite or file {data!r}; mend: a path, or one of reference, {', '.join(tasks.SUITES)}")
    problems, complaints = read_jsonl(data.removeprefix("@"))
    for complaint in complaints:
        say(complaint)
    return problems[:n]


class _Bar:
    """Traces done, tokens a second and time left, on standard error."""

    def __init__(self, total: int, quiet: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("traces"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
        self.bar = self.progress.add_task("", total=total, rate="")
        self.started, self.tokens = time.monotonic(), 0

    def __enter__(self) -> _Bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def step(self, traces: int, tokens: int) -> None:
        self.tokens += tokens
        self.progress.update(
            self.bar, advance=traces, rate=f"{self.tokens / (time.monotonic() - self.started):.0f} tokens/s"
        )


def roll(
    data: str, split: str, n: int, model: str, device: str | None, settings: Settings, out: Path, quiet: bool
) -> None:
    """`trueplex rollout`: problems of a suite or a file, sampled, graded and stored."""
    from trueplex.train.rollouts import rollout

    problems = _problems(data, split, n, settings.seed)
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, settings, say)
    with _Bar(len(problems) * settings.paths, quiet) as bar:
        rollout(backbone, problems, settings, out, scorer, bar.step, say)


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
    from trueplex.evals.run import evaluate
    from trueplex.reference import tasks

    names = [name for suite in suites for name in (tasks.SUITES if suite == "reference" else [suite])]
    chosen = {Path(name.removeprefix("@")).stem: _problems(name, split, n, settings.seed) for name in names}
    backbone = load(model, device)
    scorer, settings = choose_scorer(backbone, settings, say)
    with _Bar(sum(map(len, chosen.values())) * settings.paths, quiet) as bar:
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


def teach(
    data: Sequence[Path], validation: Sequence[Path], model: str, device: str | None, recipe: Any, out: Path
) -> None:
    """`trueplex train verifier`: read rollouts, train, and say how good the verifier is."""
    from trueplex.train.verifier import mixed, read_labelled, train_verifier

    backbone = load(model, device)
    traces = [t for folder in data for t in read_labelled(folder, backbone, say)]
    held = [t for folder in validation for t in read_labelled(folder, backbone, say)]
    if not held:  # by problem, so that no problem is on both sides; by high bits, as the low ones decide splits
        held = [t for t in traces if (t.problem >> 32) % 10 == 0]
        traces = [t for t in traces if (t.problem >> 32) % 10]
    sampled, traces, held = len(traces), mixed(traces), mixed(held)
    if not held or not traces:
        raise TrueplexError(
            "too few problems with right and wrong traces to learn and to judge by; mend: roll out more"
        )
    say(
        f"{len(traces)} traces to learn from (of {sampled}: problems with both right and wrong ones), {len(held)} to judge by"
    )
    verifier = train_verifier(backbone, traces, held, recipe, out, ", ".join(map(str, data)))
    if verifier.card:  # of several processes, the first one wrote it
        print(json.dumps(verifier.card["validation"]))


def appraise(
    data: Sequence[Path], scorers: Sequence[str], model: str, device: str | None, most: int | None, out: Path
) -> None:
    """`trueplex eval-verifier`: judge scorers on stored traces, side by side."""
    from trueplex.engine.thinking import Thinking
    from trueplex.evals.quality import judge, scored_by
    from trueplex.evals.run import machine, write_results
    from trueplex.pipeline import verifier_folder
    from trueplex.settings import origin
    from trueplex.store import read_traces
    from trueplex.verify import confidence
    from trueplex.verify.one_token import OneTokenVerifier

    untrained = {name: confidence.parse(name) for name in scorers}
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
            if plain := untrained[name]:
                judged[name] = scored_by(plain, stored)
            else:
                verifier = OneTokenVerifier.load(verifier_folder(backbone, name), backbone)
                judged[name] = scored_by(verifier, stored)
                verifier.detach()
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
