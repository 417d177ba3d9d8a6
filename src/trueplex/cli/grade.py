"""`trueplex grade`: predictions of a file against their accepted answers, or an audit of the graders."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from trueplex.errors import InputError
from trueplex.files import text_of

log = logging.getLogger(__name__)

EXAMPLE = "trueplex grade predictions.jsonl > verdicts.jsonl"


def grade(
    file: Annotated[Path, typer.Argument(help='JSON lines {"prediction": …, "answers": […]}.', show_default=False)],
    audit: Annotated[bool, typer.Option("--audit", help="List instead the lines where exact strings, numbers or math-verify give another verdict.")] = False,
) -> None:  # fmt: skip
    """Grade predictions against accepted answers, one JSON line each, in order; the counts go to standard error."""
    from trueplex.grading.answers import grade_many
    from trueplex.grading.audit import NAMES, audit_many

    pairs = read_pairs(file)
    if not audit:
        counts: Counter[str] = Counter()
        for g in grade_many(pairs):
            print(json.dumps({"correct": g.correct, "extracted": g.extracted, "why": g.why}))
            missed = "untold" if g.correct is None else "none" if g.extracted is None else "wrong"
            counts["right" if g.correct else missed] += 1
        log.info(f"{len(pairs)} predictions: {counts['right']} right, {counts['wrong']} wrong, {counts['none']} without an "
              f"answer, {counts['untold']} that cannot be graded")  # fmt: skip
        return
    found: Counter[str] = Counter()
    for number, ((_, answers), a) in enumerate(zip(pairs, audit_many(pairs), strict=True), 1):
        verdicts = {name: getattr(a, name) for name in NAMES}
        found["ungradable"] += a.grade.correct is None
        if a.disagree:
            found["disagreements"] += 1
            found.update(name for name, verdict in verdicts.items() if {verdict, a.grade.correct} == {True, False})
            ours = {"correct": a.grade.correct, "why": a.grade.why}
            print(json.dumps({"line": number, "extracted": a.grade.extracted, "answers": answers, **ours, **verdicts}))
    against = ", ".join(f"{found[name]} with {name}" for name in NAMES)
    log.info(f"{len(pairs)} predictions, {found['disagreements']} disagreements ({against}), "
          f"{found['ungradable']} that cannot be graded")  # fmt: skip


def read_pairs(file: Path) -> list[tuple[str | None, list[str]]]:
    """(prediction, answers) of each line. Raises InputError naming the first line that has none."""
    pairs = []
    try:
        lines = text_of(file).rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}. Try: check the path") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            prediction, answers = row["prediction"], row["answers"]
            if not isinstance(prediction, (str, type(None))) or not isinstance(answers, list):
                raise TypeError("the prediction is not a string, or the answers are not a list")
            if not all(isinstance(answer, str) for answer in answers):
                raise TypeError("an answer is not a string")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f'{file}, line {number}: no {{"prediction", "answers"}} ({error}). Try: correct that line'
            ) from error
        pairs.append((prediction, answers))
    return pairs
