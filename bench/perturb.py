"""How a verifier's score reacts to a changed text: right traces, read again with one change.

    python bench/perturb.py --stored runs/deciding/discrete
    python bench/perturb.py --model ./my-model --verifier ./my-verifier --stored runs/real/test --suites gsm8k

Three changes. `slip`: one digit of the thought becomes another, and the trace goes on as it did. `answer`: one digit of the
final answer becomes another, so that the trace is wrong; of a trace without thinking tags, one of its last digits. `wording`: the
problem is told otherwise and means the same (another name; the other way of saying "remainder"; else, with a model that is asked in plain words, a request in front). A useful score falls for the
first two and stays for the last. Scores at the end of the trace; intervals are over problems.
Prints a table and, last, one JSON line.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cells import write
from trueplex.data.embedded.chain import NAMES
from trueplex.data.embedded.tasks import SUITES
from trueplex.data.traces import read_traces
from trueplex.evals.metrics import figure
from trueplex.evals.run import machine
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.solving.settings import origin
from trueplex.types import Problem, Trace
from trueplex.verify.open import open_scorer
from trueplex.verify.stored import Stored

ANSWER = 12  # last tokens of a text that is not divided into thought and answer: "… is \\boxed{18}."

Change = Callable[[Random, Stored], Stored | None]


def digit_changed(rng: Random, trace: Trace, digits: dict[int, str], places: Sequence[int]) -> Trace | None:
    """The trace with another digit at one of the places, drawn; None without any."""
    if not places or trace.steps is None:
        return None
    place = rng.choice(places)
    ids = trace.steps.ids.copy()
    ids[place] = rng.choice([i for i in digits if i != ids[place, 0]])
    return replace(trace, steps=replace(trace.steps, ids=ids))


def changes(backbone: Backbone) -> dict[str, Change]:
    ids = {
        i: str(digit) for digit in range(10) for i in backbone.tokenizer.encode(str(digit), add_special_tokens=False)
    }

    def digits_of(trace: Trace, first: int, last: int) -> list[int]:
        assert trace.steps is not None
        return [t for t in range(first, last) if int(trace.steps.ids[t, 0]) in ids]

    def answer_of(trace: Trace) -> int:
        """Where the answer begins: behind the thinking, or near the end of a text that is not divided."""
        divided = 0 < trace.thinking_tokens < trace.tokens
        return trace.thinking_tokens if divided else max(0, trace.tokens - ANSWER)

    def slip(rng: Random, stored: Stored) -> Stored | None:
        trace, prompt = stored
        changed = digit_changed(rng, trace, ids, digits_of(trace, 0, answer_of(trace)))
        return changed and (changed, prompt)

    def answer(rng: Random, stored: Stored) -> Stored | None:
        trace, prompt = stored
        changed = digit_changed(rng, trace, ids, digits_of(trace, answer_of(trace), trace.tokens))
        return changed and (changed, prompt)

    def wording(rng: Random, stored: Stored) -> Stored | None:
        trace, _ = stored
        text = reworded(rng, trace.problem.text)
        if text is None and backbone.instruction:  # a model that is asked in plain words
            text = f"Please solve this problem. {trace.problem.text}"
        return None if text is None else (trace, make_prompt(Problem(text), backbone).ids)

    return {"slip": slip, "answer": answer, "wording": wording}


def reworded(rng: Random, text: str) -> str | None:
    """The same problem in other words; None where the suite has none."""
    name = text.split(" ", 1)[0]
    if name in NAMES:
        return re.sub(rf"\b{name}\b", rng.choice([n for n in NAMES if n != name]), text)
    told = re.sub(r"leaves (\d+) when divided by (\d+)", r"has remainder \1 by \2", text)
    if told == text:
        told = re.sub(r"has remainder (\d+) by (\d+)", r"leaves \1 when divided by \2", text)
    return None if told == text else told


def figures(problems: list[int], before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Mean scores, how many fell, and the mean change with its interval over problems."""
    change: dict[int, list[float]] = {}
    for problem, difference in zip(problems, after - before, strict=True):
        change.setdefault(problem, []).append(float(difference))
    means = [float(np.mean(c)) for c in change.values()]
    return {"traces": len(before), "problems": len(means), "before": round(float(before.mean()), 4),
            "after": round(float(after.mean()), 4), "fell": round(float((after < before).mean()), 4),
            "change": figure(means)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--verifier", default="auto")
    parser.add_argument("--stored", type=Path, required=True, help="folder of an evaluation")
    parser.add_argument("--suites", nargs="+", default=SUITES, help="its suites")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--problems", type=int, default=60, help="most problems a suite")
    parser.add_argument("--traces", type=int, default=8, help="right traces of each")
    options = parser.parse_args()
    backbone = load(options.model, device="cpu")
    scorer = open_scorer(backbone, options.verifier)
    result: dict[str, dict[str, Any]] = {}
    table = Table("suite", "changed", "traces", "score before", "after", "fell", "change")
    for suite in options.suites:
        kept: dict[str, list[Stored]] = {}
        for trace, prompt in read_traces(options.stored / suite, origin(None, backbone)):
            mine = (
                kept.setdefault(trace.problem.text, [])
                if len(kept) < options.problems or trace.problem.text in kept
                else []
            )
            if trace.correct and len(mine) < options.traces:
                mine.append((trace, prompt))
        right = [s for traces in kept.values() for s in traces]
        before = scorer.score_shares(right, (1.0,))[:, 0]
        result[suite] = {}
        for name, change in changes(backbone).items():
            rng = Random(f"{suite}/{name}")
            pairs = [(i, changed) for i, s in enumerate(right) if (changed := change(rng, s)) is not None]
            if not pairs:
                continue
            rows = [i for i, _ in pairs]
            after = scorer.score_shares([changed for _, changed in pairs], (1.0,))[:, 0]
            f = figures([right[i][0].problem.key for i in rows], before[rows], after)
            result[suite][name] = f
            c = f["change"]
            table.add_row(suite, name, str(f["traces"]), f"{f['before']:.3f}", f"{f['after']:.3f}", f"{f['fell']:.0%}",
                          f"{c['mean']:+.3f} [{c['low']:+.3f}, {c['high']:+.3f}]")  # fmt: skip
    Console(width=110).print(table)
    write(
        {"machine": machine(), "stored": str(options.stored), "fingerprint": backbone.fingerprint, "suites": result},
        options.out,
    )


if __name__ == "__main__":
    main()
