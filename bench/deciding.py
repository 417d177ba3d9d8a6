"""What deciding early saves and costs: every policy and scorer on stored traces, and the main ones live.

    python bench/deciding.py --stored runs/deciding --out results/deciding.json     after `make deciding` has sampled
    python bench/deciding.py --live --out results/deciding-live.json                on an idle machine
    python bench/deciding.py --queue --out results/deciding-queue.json              on an idle machine
    python bench/deciding.py --picture                                              docs/deciding.svg from the first file

Stored: 128 traces a problem, policies simulated on them (a law holds the simulation to the decode loop), each against
the weighted vote and best-of-128, paired by problem. Those two are charged one probe a trace; a policy every look that it
takes. Live: seconds of whole runs, probes and warm-up counted, and the share of them that policies and votes take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cells import MODES, ROOT, write
from trueplex.data.embedded.tasks import SUITES, problems
from trueplex.data.traces import read_traces
from trueplex.decide import pruning
from trueplex.decide.pruning import Policy
from trueplex.engine.batch import Batch
from trueplex.evals.budget import Spent
from trueplex.evals.methods import Chosen, choose
from trueplex.evals.metrics import figure, paired
from trueplex.evals.run import machine
from trueplex.evals.samples import Samples, gather
from trueplex.evals.summary import of_size
from trueplex.grading.answers import grade
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Solved, Stopped, stream
from trueplex.solving.run import Run
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer

PATHS, EVERY = 128, 4
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # of plain votes
BEHIND = (16, 32, 64, 128)  # of votes behind a policy
POLICIES = (
    "half:4", "half:8", "half:16", "half:32", "half:4/4", "half:4/8", "half:8/4", "half:8/8", "half:16/8", "keep:0.75@8/8",
    "drop:8@8/8", "stop:32", "floor:0.4", "consensus:0.6", "deepconf:low@32/16", "deepconf:high@32/16", "auto", "half:8/8+auto",
    "half:4/4+auto",
)  # fmt: skip
# DeepConf with groups of 32 tokens: the published 2,048 are longer than these traces.
UNTRAINED = ("deepconf:tail@32", "logprob", "entropy")
OTHERS = (
    "half:8",
    "half:8/8",
    "half:16/8",
    "half:32",
    "deepconf:low@32/16",
    "deepconf:high@32/16",
)  # policies behind the untrained scores


def look(rule: str) -> int:
    """Tokens between looks by a verifier, whose probes cost; `auto` alone needs scores at the end only."""
    if rule == "auto":
        return 640
    return EVERY if pruning.parse(rule).stride else 32


def all_methods() -> list[Chosen]:
    """Every vote, plain and behind every policy, which looks every 4 tokens by a score that costs nothing."""
    found = choose(["majority", "majority~auto", "majority~consensus:0.6"], True, EVERY)
    for scorer in ("", *UNTRAINED):
        for select in ("weighted", "best"):
            name = f"{select}:{scorer}" if scorer else select
            found += choose([name], True)
            for rule in OTHERS if scorer else POLICIES:
                found += choose([f"{name}~{rule}"], True, EVERY if scorer else look(rule))
    return found


def asked(samples: Sequence[Samples], chosen: Chosen, size: int) -> Spent:
    """The method over `size` traces. A plain vote reads last scores: one probe a trace, if it reads any of a verifier."""
    found = of_size(samples, chosen, size)
    if chosen.along:
        return found
    lengths = np.array([np.mean([t.tokens for t in s.traces]) for s in samples]) * size
    return Spent(found.right, lengths + size * (chosen.scorer is None and chosen.name != "majority"))


def suite_figures(path: Path) -> dict[str, Any]:
    """Every method at every size on one suite's traces, and against the two votes over all of them."""
    chosen = all_methods()
    scorers = {c.scorer: EVERY for c in chosen if c.scorer}
    samples = gather((t for t, _ in read_traces(path)), scorers)
    samples = [s for s in samples if len(s.traces) == PATHS]
    found = {c.name: {k: asked(samples, c, k) for k in (BEHIND if c.along else SIZES)} for c in chosen}
    weighted, best = found["weighted"][PATHS], found["best"][PATHS]
    return {
        "problems": len(samples),
        "methods": {
            name: {str(k): {**(figure(s.right.tolist()) or {}), "tokens": round(float(s.tokens.mean()), 1)} for k, s in by_size.items()}
            for name, by_size in found.items()
        },
        "of_128": {
            name: {
                "saved": round(float(1 - s.tokens.mean() / weighted.tokens.mean()), 4),
                "minus weighted": paired(s.right.tolist(), weighted.right.tolist()),
                "minus best": paired(s.right.tolist(), best.right.tolist()),
            }
            for name, by_size in found.items()
            for s in [by_size[PATHS]]
        },
    }  # fmt: skip


def stored(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    todo = [(mode, suite) for mode in MODES for suite in SUITES if (root / mode / suite / "traces.arrow").exists()]
    for mode, suite in track(todo, "simulating", console=Console(stderr=True)):
        found.setdefault(mode, {})[suite] = suite_figures(root / mode / suite / "traces.arrow")
    return {"machine": machine(), "paths": PATHS, "every": EVERY, "modes": found}


# -- live --------------------------------------------------------------------------------------------------

LIVE = (
    "none",
    "half:32",
    "half:16",
    "half:8",
    "half:8/8",
    "keep:0.75@8/8",
    "stop:32",
    "consensus:0.6",
    "auto",
    "half:8/8+auto",
    "half:4/4+auto",
)
LIVE_SUITES = ("chain-hard", "remainder-hard", "countdown-hard")


def settings_of(name: str, paths: int) -> Settings:
    """A run of this policy, which scores as seldom as it can; `auto` starts few and adds more."""
    return Settings(paths=paths, prune=name, probe_every=pruning.parse(name).stride or 32)


def run(
    backbone: Backbone, verifier: Any, settings: Settings, found: Sequence[Any], queue: bool = False
) -> dict[str, Any]:
    """Seconds, tokens with probes, and right answers of one run, one problem at a time or all in a queue."""
    scorer = OneTokenScorer(verifier, settings.probe_every)
    started, tokens, right = time.perf_counter(), 0, []
    answers = {p.key: p.answers for p in found}
    for together in [found] if queue else [[problem] for problem in found]:
        for event in stream(backbone, together, settings, scorer):
            if isinstance(event, Stopped):
                tokens += event.trace.tokens + event.trace.probe_tokens
            if isinstance(event, Solved):
                answer = event.solution.answer
                right.append(
                    float(answer is not None and grade(answer, answers[event.solution.problem.key]).correct is True)
                )
    return {"seconds": time.perf_counter() - started, "tokens": tokens, "right": right}


def share_of_deciding(backbone: Backbone, verifier: Any, paths: int, found: Sequence[Any]) -> dict[str, float]:
    """The share of a run's time that its policy takes, its votes (with confidence), and, apart, moving rows together in
    the cache after some were retired, which is the engine's; at half:32.
    """
    spent = {"policy": 0.0, "vote": 0.0, "moving rows": 0.0}

    def timed(function: Callable[..., Any], into: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[into] += time.perf_counter() - started

        return call

    decide, solution, stop = Policy.__call__, Run.solution, Batch.stop
    Policy.__call__, Run.solution = timed(decide, "policy"), timed(solution, "vote")  # type: ignore[method-assign]
    Batch.stop = timed(stop, "moving rows")  # type: ignore[method-assign]
    try:
        seconds = run(backbone, verifier, settings_of("half:32", paths), found)["seconds"]
    finally:
        Policy.__call__, Run.solution = decide, solution  # type: ignore[method-assign]
        Batch.stop = stop  # type: ignore[method-assign]
    return {name: round(part / seconds, 5) for name, part in spent.items()}


def embedded() -> tuple[Backbone, OneTokenVerifier]:
    """The embedded model and its verifier, on one thread."""
    torch.set_num_threads(1)
    backbone = load("reference", device="cpu")
    scorer, _ = choose_scorer(backbone, Settings())
    assert isinstance(scorer, OneTokenScorer)
    return backbone, scorer.verifier


def saved_of(repeats: int, run_of: Callable[[str], dict[str, Any]]) -> dict[str, float]:
    """What half:32 saves of time and of tokens, in paired runs."""
    runs = []
    for _ in range(repeats + 1):  # the first warms up
        whole, half = (run_of(policy) for policy in ("none", "half:32"))
        runs.append((1 - half["seconds"] / whole["seconds"], 1 - half["tokens"] / whole["tokens"]))
    time_saved, tokens_saved = (statistics.median(column) for column in zip(*runs[1:], strict=True))
    return {"time_saved": round(time_saved, 3), "tokens_saved": round(tokens_saved, 3),
            "ratio": round(time_saved / tokens_saved, 3)}  # fmt: skip


QUEUES = {16: 8, 64: 4, 256: 2}  # paths of each problem: problems of each suite


def queued(repeats: int) -> dict[str, Any]:
    """What half:32 saves where problems wait: freed rows are taken by the next ones; four problems fit at once."""
    backbone, verifier = embedded()
    saved = {}
    for paths, each in track(QUEUES.items(), "time against tokens", console=Console(stderr=True)):
        many = [p for suite in LIVE_SUITES for p in problems(suite, "test", each)]
        saved[str(paths)] = {"problems": len(many)} | saved_of(
            repeats,
            lambda policy, paths=paths, many=many: run(
                backbone, verifier, replace(settings_of(policy, paths), rows=4 * paths), many, queue=True
            ),
        )
    return {"machine": machine(), "suites": LIVE_SUITES, "half:32, saved": saved}


def live(repeats: int, each: int) -> dict[str, Any]:
    backbone, verifier = embedded()
    console = Console(stderr=True)
    few = [p for suite in LIVE_SUITES for p in problems(suite, "test", 2)]
    saved = {}
    for paths in track((16, 64, 256), "time against tokens", console=console):
        saved[str(paths)] = saved_of(
            repeats, lambda policy, paths=paths: run(backbone, verifier, settings_of(policy, paths), few)
        )
    deciding = share_of_deciding(backbone, verifier, 256, few)
    many = [p for suite in LIVE_SUITES for p in problems(suite, "test", each)]
    curve = {}
    for name in track(LIVE, "accuracy against seconds", console=console):
        found = run(backbone, verifier, settings_of(name, 64), many)
        curve[name] = {"seconds": round(found["seconds"] / len(many), 3), "tokens": round(found["tokens"] / len(many), 1),
                       "right": figure(found["right"]), "votes": found["right"]}  # fmt: skip
    plain = curve["none"]["votes"]
    for name, cell in curve.items():
        cell["minus none"] = paired(cell["votes"], plain) if name != "none" else None
        cell["votes"] = "".join(str(int(v)) for v in cell["votes"])
    return {"machine": machine(), "paths": 64, "suites": LIVE_SUITES, "problems": len(many), "half:32, saved": saved,
            "share of time at 256 traces": deciding, "live": curve}  # fmt: skip


# -- the picture -------------------------------------------------------------------------------------------

# Okabe and Ito's palette; every line has a marker of its own besides.
DRAWN = {
    "weighted": ("#000000", "o", "weighted, no policy"), "majority": ("#999999", "x", "majority"),
    "weighted~half:4/8": ("#D55E00", "s", "half:4/8"), "weighted~half:16": ("#E69F00", "^", "half:16"),
    "weighted~half:32": ("#CC79A7", "D", "half:32"), "weighted~auto": ("#0072B2", "v", "auto"),
    "weighted~half:4/4+auto": ("#56B4E9", "*", "half:4/4+auto"),
    "weighted:deepconf:tail@32~deepconf:low@32/16": ("#009E73", "P", "DeepConf, low"),
}  # fmt: skip


def picture(found: dict[str, Any]) -> None:
    """Accuracy against tokens, a panel a suite and mode, a line a method over its sizes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "trueplex"
    from matplotlib import pyplot

    modes = found["modes"]
    figure, axes = pyplot.subplots(
        len(modes), len(SUITES), figsize=(16, 2.9 * len(modes)), layout="constrained", squeeze=False
    )
    for row, (mode, suites) in zip(axes, modes.items(), strict=True):
        for axis, suite in zip(row, suites, strict=False):
            for name, (colour, marker, label) in DRAWN.items():
                sizes = suites[suite]["methods"][name].values()
                axis.plot([s["tokens"] for s in sizes], [100 * s["mean"] for s in sizes], color=colour, marker=marker,
                          markersize=4, linewidth=1.3, label=label)  # fmt: skip
            axis.set_xscale("log")
            axis.set_title(f"{suite}, {mode}", fontsize=9)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("right, %")
    for axis in axes[-1]:
        axis.set_xlabel("tokens a problem")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(DRAWN), frameon=False)
    figure.savefig(ROOT / "docs" / "deciding.svg", metadata={"Date": None})


def show(result: dict[str, Any]) -> None:
    console = Console(width=140)
    for mode, suites in result.get("modes", {}).items():
        for suite, f in suites.items():
            table = Table(
                "of 128",
                "right",
                "tokens saved",
                "− weighted",
                "− best",
                title=f"{mode}, {suite}: {f['problems']} problems",
            )
            for name, cell in f["of_128"].items():
                table.add_row(name, f"{100 * f['methods'][name]['128']['mean']:.0f}", f"{100 * cell['saved']:.1f} %",
                              *(f"{100 * d['mean']:+.0f} [{100 * d['low']:+.0f}, {100 * d['high']:+.0f}]"
                                for d in (cell["minus weighted"], cell["minus best"])))  # fmt: skip
            console.print(table)
    if "half:32, saved" in result:
        table = Table("traces", "time saved", "tokens saved", "ratio", title="half:32")
        for name, cell in result["half:32, saved"].items():
            table.add_row(name, f"{cell['time_saved']:.0%}", f"{cell['tokens_saved']:.0%}", f"{cell['ratio']:.2f}")
        console.print(table)
    if "live" in result:
        table = Table("of 64, live", "right", "seconds", "tokens", title="a problem, one at a time")
        for name, cell in result["live"].items():
            table.add_row(name, f"{100 * cell['right']['mean']:.0f}", f"{cell['seconds']:.2f}", f"{cell['tokens']:.0f}")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--stored", type=Path, help="folder with MODE/SUITE/traces.arrow")
    kind.add_argument("--live", action="store_true", help="one problem at a time; needs an idle machine")
    kind.add_argument("--queue", action="store_true", help="problems waiting for rows; needs an idle machine")
    kind.add_argument("--picture", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="paired runs of each comparison of time")
    parser.add_argument("--each", type=int, default=20, help="live problems of each suite")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.picture:
        picture(json.loads((ROOT / "results" / "deciding.json").read_text()))
    else:
        if options.stored:
            result = stored(options.stored)
        else:
            result = queued(options.repeats) if options.queue else live(options.repeats, options.each)
        show(result)
        write(result, options.out)


if __name__ == "__main__":
    main()
