"""Forty mistakes that users make, and what the program says: docs/mistakes.md, beside what version 0.2 said.

    python bench/mistakes.py                    # run them all and write the page
    PYTHONPATH=OLD/src python bench/mistakes.py --record OLD.json        # what another version says, by its own code
    python bench/mistakes.py --before OLD.json  # keep that in results/mistakes.json, and write the page

Every command runs in this process, in a folder of its own with the files below.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
KEPT, PAGE = ROOT / "results" / "mistakes.json", ROOT / "docs" / "mistakes.md"

FILES = {
    "p.jsonl": '{"problem": "Ann has 3 apples. How many apples are there now?", "answer": "3"}\n',
    "no-answers.jsonl": '{"problem": "Ann has 3 apples. How many apples are there now?"}\n',
    "odd.jsonl": '{"frage": "What is 2+2?", "antwort": 4}\n',
    "broken.jsonl": '{"problem": "What is 2+2?"\n',
    "empty.jsonl": "",
    "prose.jsonl": json.dumps({"problem": "Why?", "answer": "Because the sea is so wide that no one has ever seen all of its shores at once, and no one will."}) + "\n",
    "own.py": "def broken(text):\n    return 1 / 0\n\n\ndef rows(prompts, completions):\n    return [2.0 for _ in completions]\n",
}  # fmt: skip
SUM = '"Ann has 3 apples. How many apples are there now?"'

# What was meant, and the command.
MISTAKES = [
    ("the quotes forgotten", "solve What is two plus two"),
    ("a file without @", "solve p.jsonl"),
    ("a file that is not there", "solve @nowhere.jsonl"),
    ("an empty problem", 'solve ""'),
    ("the command forgotten", '"What is 2+2?"'),
    ("a misspelt command", "slove What"),
    ("a misspelt option", f"solve {SUM} --path 4"),
    ("one dash", f"solve {SUM} -paths 4"),
    ("an option of 0.2", f"solve {SUM} --rows 4"),
    ("a number in words", f"solve {SUM} --max-tokens many"),
    ("no paths", f"solve {SUM} --paths 0"),
    ("a temperature below 0", f"solve {SUM} --temperature -1"),
    ("more tokens than positions", f"solve {SUM} --max-tokens 100000"),
    ("an unknown policy", f"solve {SUM} --prune quarter:3"),
    ("a policy that starts too late", f"solve {SUM} --prune half:5000"),
    ("pruning without scores", f"solve {SUM} --verifier none --prune half:8"),
    ("an unknown selector", f"solve {SUM} --select luck"),
    ("an unknown thinking mode", f"solve {SUM} --thinking deep"),
    ("a width with discrete thinking", f"solve {SUM} --thinking discrete --width 3"),
    ("greedy and a temperature", f"solve {SUM} --greedy --temperature 0.5"),
    ("an error rate that was not calibrated", f"solve {SUM} --paths 3 --max-error 0.1"),
    ("two thresholds at once", f"solve {SUM} --abstain-below 0.5 --max-error 0.1"),
    ("a model that is not there", f"solve {SUM} --model ./nowhere"),
    ("a misspelt built-in model", f"solve {SUM} --model refrence"),
    ("a device that is not there", f"solve {SUM} --device cuda:7"),
    ("a verifier that is not there", f"solve {SUM} --verifier ./nowhere"),
    ("a DeepConf window that is not a number", f"solve {SUM} --verifier deepconf:tail@x"),
    ("columns with other names", "solve @odd.jsonl"),
    ("a broken line", "solve @broken.jsonl"),
    ("an empty file", "solve @empty.jsonl"),
    ("--resume without --save", f"solve {SUM} --resume"),
    ("an answer kind that does not exist", f"solve {SUM} --answer digits"),
    ("a custom answer kind that fails", f"solve {SUM} --paths 2 --answer call:own:broken"),
    ("a scorer that returns no scores", f"solve {SUM} --paths 2 --verifier call:own:rows"),
    ("rollouts of problems without answers", "rollout --data no-answers.jsonl --out out"),
    ("answers that are prose", "rollout --data prose.jsonl --out out"),
    ("a suite that does not exist", "eval --suite math5000 --out out"),
    ("a verifier from nothing at all", "train verifier --out out"),
    ("traces that are not traces", "show p.jsonl"),
    ("a report of a folder without results", "report . --out page.html"),
]  # fmt: skip


def said(command: str) -> str:
    """What a command says on standard error and, if it says nothing there, on standard output; and its exit code."""
    try:
        from trueplex.cli.main import main
    except ImportError:
        from trueplex.cli import main

    sys.argv = ["trueplex", *shlex.split(command)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0) if not isinstance(stop.code, str) else 1
        except BaseException as error:
            return f"(traceback) {type(error).__name__}: {error}"
    lines = [
        line.removeprefix("trueplex: ").strip()
        for line in (err.getvalue() or out.getvalue()).splitlines()
        if line.strip()
    ]
    told = " / ".join(lines) or "(nothing)"
    shown = told if len(told) <= 420 else f"{told[:420]}…"
    return shown if code == 2 else f"(exit {code}) {shown}"


def record() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, content in FILES.items():
            Path(name).write_text(content)
        found = {command: said(command).replace(folder, ".") for _, command in MISTAKES}
        os.chdir(ROOT)
    return found


def page(before: dict[str, str], now: dict[str, str]) -> str:
    head = (
        "# Forty mistakes, and what the program says\n\nWritten by `python bench/mistakes.py`, which makes each of them. Exit code 2 and one line, unless it "
        "says otherwise. `Before` is what version 0.2 said, without its hint.\n\n| mistake | command | before | now |\n| --- | --- | --- | --- |\n"
    )
    clean = {"|": "\\|", "\n": " ", "<": "&lt;"}
    rows = []
    for what, command in MISTAKES:
        cells = [what, f"`{command}`", before.get(command, "–").partition("; mend")[0], now[command]]
        for sign, safe in clean.items():
            cells = [c if c.startswith("`") else c.replace(sign, safe) for c in cells]
        rows.append(f"| {' | '.join(cells)} |")
    return head + "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, help="only write what this version says")
    parser.add_argument("--before", type=Path, help="what an earlier version says, by --record")
    asked = parser.parse_args()
    if asked.record:
        target = asked.record.resolve()
        target.write_text(json.dumps(record(), indent=1))
        return
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"before": {}}
    if asked.before:
        kept["before"] = json.loads(asked.before.read_text())
    kept["now"] = record()
    KEPT.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(kept["before"], kept["now"]))


if __name__ == "__main__":
    main()
