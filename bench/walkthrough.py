"""A new user's first hour: commands of README and docs/howto.md only, in an empty folder; `make walkthrough` calls this.

    python bench/walkthrough.py                       # the embedded model; offline
    python bench/walkthrough.py --model ./my-model    # any other, with few tokens, paths and problems

Writes results/walkthrough.MODEL.json (seconds and exit code of every step) and .txt (what was typed and said). A step stumbles
where it ends with an unexpected exit code or a traceback; the script then goes on, and exits with 1 at its end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from cells import RESULTS, ROOT
from trueplex import __version__
from trueplex.files import write_json, write_text

PROBLEM = "Ann has 12 apples. Ann loses 3. The number doubles. How many apples are there now?"
RAW = """{"question": "A box holds 6 pens. Mia buys 3 boxes and gives away 4 pens. How many pens are left?", "answer": "3 boxes hold 3 * 6 = <<3*6=18>>18 pens. 18 - 4 = <<18-4=14>>14 are left.\\n#### 14"}
{"question": "A train needs 2 hours for 150 km. How many km does it go in 4 hours?", "answer": "It goes 150 / 2 = <<150/2=75>>75 km an hour, so 4 * 75 = <<4*75=300>>300 km.\\n#### 300"}
{"question": "Tom saves $5 a week. How many dollars has he after 8 weeks?", "answer": "5 * 8 = <<5*8=40>>40 dollars.\\n#### 40"}
"""
MINE = """
import re

def score(prompts, completions):
    return [min(1.0, 0.1 + len(text) / 1000) for text in completions]

def short_and_right(prompts, completions, correct, tokens, **columns):
    return [None if c is None else c * (1.0 if t < 200 else 0.5) for c, t in zip(correct, tokens)]

def find(text):
    numbers = re.findall(r"[0-9]+", text)
    return numbers[-1] if numbers else None

def same(one, other):
    return int(one) == int(other)
"""
NOTEBOOK = """
import ast, asyncio, inspect, json, sys
space = {"__name__": "notebook"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        code = compile("".join(cell["source"]), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        made = eval(code, space)
        if inspect.iscoroutine(made):
            asyncio.run(made)
"""


@dataclass(frozen=True)
class Step:
    """What the user wants, and what is typed; ``codes`` are exit codes that are no stumble (1: no answer was found)."""

    title: str
    command: str
    codes: tuple[int, ...] = (0,)


def steps(model: str, small: str) -> list[Step]:
    ask = f"--model {model} --paths 4 {small}"
    return [
        Step("Does my model work here?", f"trueplex doctor --model {model}"),
        Step("My own problem", f'trueplex solve "{PROBLEM}" {ask}', (0, 1)),
        Step("GSM8K as it is", f"trueplex eval --suite gsm8k.jsonl --model {model} --samples 4 {small} --out runs/gsm8k"),
        Step("My own scorer", f'trueplex solve "{PROBLEM}" {ask} --verifier call:mine:score', (0, 1)),
        Step("My own answer kind", f'trueplex solve "{PROBLEM}" {ask} --answer call:mine:find:same', (0, 1)),
        Step("Twenty problems with answers", "trueplex problems chain-easy --split validation --n 20 > train.jsonl"),
        Step("My own reward", f"trueplex train policy --model {model} --data train.jsonl --reward mine:short_and_right --rank 4 --steps 1 "
             f"--prompts 2 --samples 2 --every 1 --val-problems 2 --val-samples 1 {small} --out runs/policy"),
        Step("A verifier from nothing", f"trueplex train verifier --problems train.jsonl --n 20 --samples 4 --rank 4 --model {model} {small} "
             "--out my-verifier"),
        Step("My verifier at work", f'trueplex solve "{PROBLEM}" {ask} --verifier my-verifier', (0, 1)),
        Step("The notebook", f"python notebook.py {ROOT / 'docs' / 'first-steps.ipynb'}"),
    ]  # fmt: skip


def walk(planned: list[Step], shown: dict[str, str]) -> tuple[list[dict[str, object]], str]:
    """Run every step in an empty folder: what came of each, and the transcript with ``shown`` in place of paths."""
    told, transcript = [], ""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"gsm8k.jsonl": RAW, "mine.py": MINE, "notebook.py": NOTEBOOK}.items():
            (Path(folder) / name).write_text(text)
        for step in planned:
            began = time.monotonic()
            ran = subprocess.run(  # both outputs as one, in the order in which they come
                step.command, shell=True, cwd=folder, env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            said, seconds = ran.stdout, round(time.monotonic() - began, 1)
            fine = ran.returncode in step.codes and "Traceback" not in said
            print(f"{'ok' if fine else 'STUMBLE':8} {seconds:7.1f} s  {step.title}", flush=True)
            told.append(
                {"step": step.title, "command": step.command, "seconds": seconds, "code": ran.returncode, "fine": fine}
            )
            transcript += f"# {step.title}\n\n$ {step.command}\n{said}[{seconds} s, exit code {ran.returncode}]\n\n"
        for one, other in (shown | {folder: "."}).items():
            transcript = transcript.replace(one, other)
            told = [{k: v.replace(one, other) if isinstance(v, str) else v for k, v in line.items()} for line in told]
    return told, transcript


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference", help="as `trueplex solve --model`")
    model = parser.parse_args().model
    name = Path(model).name
    shown = {sysconfig.get_path("purelib"): "site-packages", str(ROOT): "trueplex"}
    if Path(model).exists():
        model = str(Path(model).resolve())
        shown = {model: name, **shown}
    small = "" if name == "reference" else "--max-tokens 160"
    began = time.monotonic()
    told, transcript = walk(steps(model, small), shown)
    minutes = round((time.monotonic() - began) / 60, 1)
    out = RESULTS / f"walkthrough.{name}.json"
    write_json(out, {"version": __version__, "model": name, "minutes": minutes, "steps": told})
    write_text(out.with_suffix(".txt"), transcript)
    stumbles = sum(not line["fine"] for line in told)
    print(f"{len(told)} steps in {minutes} minutes, {stumbles} stumbles; {out.relative_to(ROOT)}")
    sys.exit(1 if stumbles else 0)


if __name__ == "__main__":
    main()
