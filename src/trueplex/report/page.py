"""The report: sections of figures and tables, as one page that fetches nothing, as Markdown, or as picture files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from trueplex.report import figures, tables
from trueplex.report.read import Material, Run, describe
from trueplex.report.tables import Table

APART = 3  # with more runs than these, pictures of single runs give way to one line a run

STYLE = """
:root { --ink: #1b1f24; --soft: #59636e; --line: #d9dee4; --tint: #f5f7f9; --accent: #0072B2 }
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); margin: 0; background: #fff }
main { max-width: 72rem; margin: 0 auto; padding: 2.2rem 1.4rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em }
h3 { font-size: .98rem; margin: 1.6rem 0 .2rem }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .3rem; padding-top: .6rem; border-top: 1px solid var(--line) }
p { max-width: 46rem; margin: .3rem 0 .8rem } .note, figcaption { color: var(--soft); font-size: .9rem }
nav { margin: 1rem 0 0; font-size: .88rem; columns: 3 15rem } nav a { color: var(--accent); text-decoration: none; display: block; padding: .1rem 0 }
nav a:hover { text-decoration: underline }
figure { margin: .8rem 0 1rem } svg { width: 100%; height: auto; display: block }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; width: 100% }
th { text-align: left; font-weight: 600; border-bottom: 2px solid var(--ink); padding: .3rem .5rem; vertical-align: bottom }
td { border-bottom: 1px solid var(--line); padding: .22rem .5rem; white-space: nowrap }
tr.first td { border-top: 1px solid #8b949e } tbody tr:hover { background: var(--tint) } td.same { color: transparent }
details summary { cursor: pointer; color: var(--accent); font-size: .9rem }
@page { size: A4; margin: 14mm }
@media print { html, body { font-size: 10px } p { break-after: avoid } main { max-width: none; padding: 0 } nav { display: none } h2 { break-after: avoid }
  figure, tr { break-inside: avoid } details > * { display: block } .scroll { overflow: visible } }
"""


@dataclass(slots=True)
class Section:
    """A heading with figures (name, caption, picture) and tables under it."""

    title: str
    note: str
    pictures: list[tuple[str, str, Any]]
    tables: list[Table]


def sections(material: Material) -> Iterator[Section]:
    """What there is to show of the material, in order."""
    runs, suites = material.runs, material.suites
    if runs:
        yield from _results(material, runs, suites)
    for run in material.scores:
        pictures = [(f"judged-{run.name}", "How well each score ranks a problem's traces while they are written. Band: the 95 % interval of "
                     "the first.", figures.judged_along(run)),
                    (f"judged-reliability-{run.name}", "How often traces with such a score at their end are right.",
                     figures.judged_reliability(run))]  # fmt: skip
        title = "Scores judged" if len(material.scores) == 1 else f"Scores judged: {run.name}"
        yield Section(title, "", pictures, [tables.scores(run)])
    if material.learning:
        pictures = [("learning", "Each run smoothed over a tenth of its steps; validation as it was judged.",
                     figures.learning(material.learning))]  # fmt: skip
        yield Section("Training", "", pictures, [tables.learned(material.learning)])
    if runs:
        details = [tables.outcomes(material), tables.configurations(material)]
        first = sorted(runs, key=lambda run: not _pruned(run))[:APART]  # those with more methods than votes
        details[:0] = [t(run, suites) for run in first for t in (tables.pairs, tables.budgets)]
        yield Section("In detail", "", [], details)


def _results(material: Material, every: Sequence[Run], suites: Sequence[str]) -> Iterator[Section]:
    gains = tables.compared(material)
    # A thinking budget is a knob of its own: such runs are in the tables and in their own figure.
    runs = [run for run in every if not run.limit] or every
    yield Section("Main results", "", [], [tables.main(material), *([gains] if gains else [])])
    shown = [("pass-at-k", "The chance that one of k traces is right (unbiased)." + (" Bands: 95 % intervals." if len(runs) <= 4 else ""),
              figures.pass_at_k(runs, suites))]  # fmt: skip
    yield Section("pass@k", "How much there is to find: what a perfect verifier could reach with k traces.", shown, [])
    if len(runs) <= APART:
        shown = [(f"tokens-{place}", f"{run.name}: every way to choose the answer, as traces and so tokens are added. "
               f"Seconds, where there are any, are those tokens at the rate of the whole run.",
                  figures.against_tokens(run, suites)) for place, run in enumerate(runs, 1) if run.suites]  # fmt: skip
    else:
        pruned = [run for run in runs if _pruned(run)]
        pruned = pruned if len(pruned) <= APART else []
        shown = [
            ("tokens", "One vote a run, as traces and so tokens are added.", figures.runs_against_tokens(runs, suites))
        ]
        shown += [
            (f"policies-{place}", f"{run.name}: its votes, and policies that retire traces while they grow.", figures.against_tokens(run, suites))
            for place, run in enumerate(pruned, 1)
        ]  # fmt: skip
    yield Section(
        "Accuracy against tokens", "Up and to the left is better: more right answers for fewer tokens.", shown, []
    )
    yield from _ablations(every, suites)
    scored = [run for run in runs if any("trajectories" in f["curves"] for f in run.suites.values())]
    if scored:
        shown = [
            (f"trajectories-{place}", run.name, figures.trajectories(run, suites))
            for place, run in enumerate(scored[:APART], 1)
        ]
        yield Section("Scores over a trace", "A score that can prune parts right from wrong traces early.", shown, [])
    if any("reliability" in f["curves"] for run in scored for f in run.suites.values()):
        shown = [("reliability", "Traces by tenths of the score at their end.", figures.reliability(scored, suites))]
        yield Section(
            "Reliability",
            "Of the traces that score so much, how many are right? On the line, a score means what it says.",
            shown,
            [],
        )
    shown = [
        ("entropy", "Entropy of a thinking step, by tenths of the thinking.", figures.along(runs, suites, "entropy"))
    ]
    if any(f["explored"]["mean"] for run in runs for f in run.suites.values()):
        caption = "Steps whose samples differ, by tenths of the thinking."
        shown.append(("explored", caption, figures.along(runs, suites, "explored")))
    yield Section("Entropy and exploration", "Where thoughts are open.", shown, [])
    shown = [(f"lengths-{place}", run.name, figures.lengths(run, suites)) for place, run in enumerate(runs[:APART], 1)]
    yield Section("Lengths", "Tokens of right and of wrong traces.", shown, [])


def _pruned(run: Run) -> bool:
    """Whether policies were simulated on the run's traces."""
    return any("~" in method for f in run.suites.values() for method in f["methods"])


def _ablations(runs: Sequence[Run], suites: Sequence[str]) -> Iterator[Section]:
    """Runs that differ in width or thinking budget, if there are any."""
    widths: dict[str, list[tuple[float, Run]]] = {}
    budgets: dict[str, list[tuple[float, Run]]] = {}
    for run in runs:
        c = run.config
        if c["thinking"] in ("discrete", "multiplex") and not run.limit:
            for merge in (c["merge"],) if c["thinking"] == "multiplex" else ("weighted", "mean"):  # K = 1 is discrete
                widths.setdefault(f"merge: {merge}", []).append((c["width"], run))
        if limit := run.limit:
            plain = dict(c, ending=dict(c["ending"], think_tokens=None))
            budgets.setdefault(describe(plain), []).append((limit, run))
    widths = {name: members for name, members in widths.items() if len({v for v, _ in members}) > 1}
    budgets = {name: members for name, members in budgets.items() if len({v for v, _ in members}) > 1}
    if there := figures.ablated(widths, suites):
        shown = [("width", "pass@1 with 95 % intervals; K = 1 is discrete.", figures.ablation(widths, there, "K"))]
        yield Section("Width and merge", "What more samples a step change, and how they are merged.", shown, [])
    if there := figures.ablated(budgets, suites):
        shown = [("budget", "pass@1 with 95 % intervals.", figures.ablation(budgets, there, "thinking tokens at most"))]
        yield Section("Length budget", "Accuracy when thinking is cut short and an answer is asked for.", shown, [])


def lead(material: Material) -> str:
    """What the report is about, in a sentence."""
    told = []
    for config in (run.config for run in material.runs):
        found = [f for run in material.runs if run.config["model"] == config["model"] for f in run.suites.values()]
        problems, most = {f["problems"] for f in found}, max(f["samples"] for f in found)
        each = f"{min(problems)} to {max(problems)}" if len(problems) > 1 else str(*problems)
        told.append(
            f"Model {config['model']} on {len(material.suites)} suites, {each} problems each, up to {most} traces a problem."
        )
    return " ".join(
        [*dict.fromkeys(told), "Made from stored results alone; every figure has its numbers in the results files."]
    )


def page(parts: Sequence[Section], title: str, about: str) -> str:
    """One HTML page with everything in it."""
    names = [re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-") for part in parts]
    links = "".join(f'<a href="#{name}">{escape(part.title)}</a>' for name, part in zip(names, parts, strict=True))
    body = "".join(_section(part, name) for part, name in zip(parts, names, strict=True))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f'<p class="note">{escape(about)}</p><nav>{links}</nav>'
        f"{body}</main></body></html>\n"
    )


def _section(part: Section, name: str) -> str:
    note = f"<p>{escape(part.note)}</p>" if part.note else ""
    pictures = "".join(_picture(*picture) for picture in part.pictures)
    return f'<h2 id="{name}">{escape(part.title)}</h2>{note}{pictures}{"".join(_table(t, part.title) for t in part.tables)}'


def _picture(name: str, caption: str, figure: Any) -> str:
    svg = figures.saved(figure).decode()
    svg = svg[svg.index("<svg") :]
    # Names inside a picture are made its own, as all pictures share one page.
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    width = f"max-width: {105 * figure.get_figwidth():.0f}px"
    return (f'<figure style="{width}" role="img" aria-label="{escape(caption, quote=True)}">{svg}'
            f"<figcaption>{escape(caption)}</figcaption></figure>")  # fmt: skip


def _table(table: Table, within: str) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows, before = [], None
    for row in table.rows:
        new = row[0] != before
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        rows.append(
            f"<tr{' class=first' if new else ''}><td{'' if new else ' class=same'}>{escape(row[0])}</td>{cells}</tr>"
        )
        before = row[0]
    told = "" if table.title == within else f"<h3>{escape(table.title)}</h3>"
    grid = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    long = f"<details><summary>{len(rows)} rows</summary>{grid}</details>" if len(rows) > 40 else grid
    return f'{told}<p class="note">{escape(table.note)}</p>{long}'


def markdown(parts: Sequence[Section], title: str) -> str:
    """All tables, without the pictures."""
    return f"# {title}\n\n" + "\n".join(table.markdown() for part in parts for table in part.tables)
