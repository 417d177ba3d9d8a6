"""The report as one page that fetches nothing, and its tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from trueplex.report.headline import headlines
from trueplex.report.html import Made, render
from trueplex.report.read import Material
from trueplex.report.sections import Section


def lead(material: Material) -> str:
    """What the report is about, in a sentence for each model."""
    told = []
    for model in dict.fromkeys(run.config["model"] for run in material.runs):
        found = [run for run in material.runs if run.config["model"] == model]
        suites = {suite for run in found for suite in run.suites}
        sizes = {f["problems"] for run in found for f in run.suites.values()}
        most = max(f["samples"] for run in found for f in run.suites.values())
        each = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(*sizes)
        told.append(f"Model {model} on {len(suites)} suite{'s' * (len(suites) > 1)}, {each} problems each, up to {most} traces per problem.")  # fmt: skip
    return " ".join([*told, "Made from stored results alone; the numbers behind each figure are in the results files."])


def page(parts: Sequence[Section], title: str, material: Material) -> str:
    """One HTML page with everything in it, headed by what was found."""
    return render(
        "page.html.j2",
        title=title,
        headlines=headlines(material),
        about=lead(material),
        parts=parts,
        made=Made(),
    )


def markdown(parts: Sequence[Section], title: str, material: Material) -> str:
    """What was found and all tables, without the pictures."""
    found = "".join(f"{sentence}\n\n" for sentence in headlines(material))
    return f"# {title}\n\n{found}" + "\n".join(table.markdown() for part in parts for table in part.tables)
