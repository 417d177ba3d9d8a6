"""What a report shows of the material, in order: sections of figures and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from trueplex.report import figures, tables
from trueplex.report.html import Picture
from trueplex.report.read import Material, Run, describe, last
from trueplex.report.tables import Table

APART = 3  # with more runs than these, figures of single runs give way to one line a run


@dataclass(slots=True)
class Section:
    """A heading with figures and tables under it."""

    title: str
    note: str = ""
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def sections(material: Material) -> Iterator[Section]:
    """Every section that the material has something for."""
    if material.runs:
        yield from _results(material)
    for run in material.scores:
        yield _judged(run, alone=len(material.scores) == 1)
    if material.learning:
        titles = figures.learnt(material.learning)
        grey = figures.learning_looks(material.learning).grey([run.name for run in material.learning])
        caption = "Each run smoothed over a tenth of its steps; validation as it was judged." + grey
        draw = partial(figures.learning, material.learning)
        yield Section("Training", "", [Picture("learning", caption, titles, draw)], [tables.learned(material.learning)])
    if material.runs:
        first = sorted(material.runs, key=lambda run: not _pruned(run))[:APART]  # those with more methods than votes
        details = [table(run, material.suites) for run in first for table in (tables.pairs, tables.budgets)]
        yield Section("In detail", "", [], [*details, tables.outcomes(material), tables.configurations(material)])


def _results(material: Material) -> Iterator[Section]:
    # A thinking budget is an option of its own: such runs are in the tables and in their own figure.
    every, suites = material.runs, material.suites
    runs = [run for run in every if not run.limit] or every
    shown = [s for s in suites if any(s in run.suites for run in runs)]
    gains = tables.compared(material)
    first = [tables.glance(material)] if len(runs) > 1 else []
    yield Section("Main results", "", [], [*first, tables.main(material), *([gains] if gains else [])])
    grey = figures.run_looks(runs).grey([run.name for run in runs])
    caption = f"The chance that one of k traces is right (unbiased). Bands: 95 % intervals.{grey}"
    yield Section("pass@k", "How much there is to find: what a perfect verifier could reach with k traces.",
                  [Picture("pass-at-k", caption, shown, partial(figures.pass_at_k, runs))])  # fmt: skip
    yield _tokens(runs, shown, grey)
    yield from _ablations(every, suites)
    yield from _scored(
        [run for run in runs if any("trajectories" in f["curves"] for f in run.suites.values())], suites, grey
    )
    pictures = [
        Picture(
            "entropy", f"Entropy of a thinking step, by tenths of the thinking.{grey}", shown, _along(runs, "entropy")
        )
    ]
    if any(f["explored"]["mean"] for run in runs for f in run.suites.values()):
        caption = f"Steps whose K samples differ, by tenths of the thinking.{grey}"
        pictures.append(Picture("explored", caption, shown, _along(runs, "explored")))
    yield Section("Entropy and exploration", "Where in the thinking the model is undecided.", pictures)
    yield Section("Lengths", "Tokens of right and of wrong traces.",
                  [Picture(f"lengths-{place}", run.name, _own(run, suites), partial(figures.lengths, run)) for place, run in enumerate(runs[:APART], 1)])  # fmt: skip


def _own(run: Run, suites: Sequence[str]) -> list[str]:
    return [suite for suite in suites if suite in run.suites]


def _along(runs: Sequence[Run], kind: str) -> Callable[[Sequence[str]], Any]:
    return lambda suites: figures.along(runs, suites, kind)


def _tokens(runs: Sequence[Run], suites: Sequence[str], grey: str) -> Section:
    """Few runs: every method of each. Many: one vote of each, and every method of those on which policies were simulated."""
    pictures = []
    if len(runs) > APART:
        caption = f"One vote of each run, as traces and so tokens are added.{grey}"
        pictures.append(Picture("tokens", caption, suites, partial(figures.runs_against_tokens, runs)))
    pruned = [run for run in runs if _pruned(run)]
    few = runs if len(runs) <= APART else pruned if len(pruned) <= APART else []
    name = "tokens" if len(runs) <= APART else "policies"
    for place, run in enumerate(few, 1):
        others = figures.method_looks(run).grey([m for f in run.suites.values() for m in f["methods"]])
        seconds = " Seconds: those tokens at the rate of the whole run." if run.rates else ""
        caption = f"{run.name}: every way to choose the answer, as traces and so tokens are added.{seconds}{others}"
        pictures.append(Picture(f"{name}-{place}", caption, _own(run, suites), partial(figures.against_tokens, run)))
    return Section(
        "Accuracy against tokens", "Up and to the left is better: more right answers for fewer tokens.", pictures
    )


def _scored(runs: Sequence[Run], suites: Sequence[str], grey: str) -> Iterator[Section]:
    """What scores saw, of the runs that have some."""
    if runs:
        pictures = []
        for place, run in enumerate(runs[:APART], 1):
            names = [s for s in _own(run, suites) if "trajectories" in run.suites[s]["curves"]]
            caption = f"{run.name}: mean and middle half of right and of wrong traces."
            pictures.append(Picture(f"trajectories-{place}", caption, names, partial(figures.trajectories, run)))
        yield Section(
            "Scores over a trace", "A score that can prune separates right from wrong traces early.", pictures
        )
    names = [s for s in suites if any("reliability" in run.suites.get(s, {}).get("curves", {}) for run in runs)]
    if names:
        picture = Picture(
            "reliability",
            f"Traces by tenths of the score at their end.{grey}",
            names,
            partial(figures.reliability, runs),
        )
        yield Section("Reliability", "Of the traces with such a score, how many are right? On the dotted line, a score is a probability.",
                      [picture])  # fmt: skip


def _judged(run: Run, alone: bool) -> Section:
    """What eval-verifier found."""
    suites, names = list(run.suites), [last(name) for f in run.suites.values() for name in f["scorers"]]
    grey = figures.scorer_looks(run).grey(names)
    pictures = [
        Picture(f"judged-{run.name}", f"How well each score ranks the traces of a problem while they are written. Band: 95 % interval of the first.{grey}",
                suites, partial(figures.judged_along, run)),
        Picture(f"judged-reliability-{run.name}", f"How often traces with such a score at their end are right.{grey}", suites,
                partial(figures.judged_reliability, run)),
    ]  # fmt: skip
    return Section("Scores judged" if alone else f"Scores judged: {run.name}", "", pictures, [tables.scores(run)])


def _pruned(run: Run) -> bool:
    """Whether policies were simulated on the run's traces."""
    return any("~" in method for f in run.suites.values() for method in f["methods"])


def _ablations(runs: Sequence[Run], suites: Sequence[str]) -> Iterator[Section]:
    """Runs that differ in width or thinking budget, if there are any."""
    widths: figures.Groups = {}
    budgets: figures.Groups = {}
    for run in runs:
        c = run.config
        if c["thinking"] in ("discrete", "multiplex") and not run.limit:
            merges = (c["merge"],) if c["thinking"] == "multiplex" else ("weighted", "mean")  # K = 1 is discrete
            for merge in merges:
                widths.setdefault(f"{merge} merge", []).append((c["width"], run))
        if limit := run.limit:
            plain = dict(c, ending=dict(c["ending"], think_tokens=None))
            budgets.setdefault(describe(plain), []).append((limit, run))
    if picture := _ablation("width", "K", widths, suites, trend=False):
        yield Section("Width and merge", "What more samples a step change, and how they are merged.", [picture])
    if picture := _ablation("budget", "thinking tokens at most", budgets, suites, trend=True):
        yield Section("Length budget", "Accuracy when thinking is cut short and an answer is asked for.", [picture])


def _ablation(name: str, x: str, groups: figures.Groups, suites: Sequence[str], trend: bool) -> Picture | None:
    """The picture of these groups of runs; None where no group has two numbers on the same problems."""
    groups = {name: members for name, members in groups.items() if len({v for v, _ in members}) > 1}
    if not (there := figures.ablated(groups, suites)):
        return None
    more = "" if trend else " K = 1 is discrete."
    return Picture(name, f"pass@1 with 95 % intervals.{more}", there, lambda shown: figures.ablation(groups, shown, x, trend))  # fmt: skip
