"""What the pages may show: no table of two versions; a stage is done only by this version and these bytes."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

import trueplex
from trueplex.cli.main import app

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))

import cells
import papers
import real_modes
import results
import serve_tables
import slow_tests
import tables


def test_a_table_says_its_version_and_mixes_none() -> None:
    one, later = ({"machine": {"trueplex": version}} for version in ("0.2.0", "0.3.0"))
    assert cells.measured(one, None, one) == " Measured by trueplex 0.2.0." and cells.measured() == ""
    with pytest.raises(SystemExit, match=r"several versions \(0.2.0, 0.3.0\)"):
        cells.measured(later, one)


def test_a_stage_is_done_by_this_version_and_these_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    stage = results.Stage("measure", ("one.json",), 1)
    assert not results.done(stage, {})
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"suites": {"s": {"ids": [["1", "ab"]]}}}))
    made = {"one.json": results.manifest(file, "make measure", 2.4)}
    assert results.done(stage, made) and made["one.json"]["version"] == trueplex.__version__
    assert made["one.json"]["problems"] and made["one.json"]["seconds"] == 2
    assert not results.done(stage, {"one.json": made["one.json"] | {"version": "0.2.0"}})
    file.write_text("{}")
    assert not results.done(stage, made)


def test_only_what_this_version_measured_is_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(results, "MANIFESTS", tmp_path / "manifests.json")
    stage, file = results.Stage("hybrid", ("one.json",), 1), tmp_path / "one.json"
    file.write_text(json.dumps({"machine": {"trueplex": "0.2.0"}}))
    with pytest.raises(SystemExit, match=r"one.json was measured by 0.2.0, not by .*make hybrid"):
        results.adopt(stage, "make hybrid STEPS=2")
    assert not results.done(stage, results.known())
    file.write_text(json.dumps({"machine": {"trueplex": trueplex.__version__}}))
    results.adopt(stage, "make hybrid STEPS=2")
    assert results.done(stage, results.known()) and results.known()["one.json"]["command"] == "make hybrid STEPS=2"


def test_a_page_shows_the_solved_problem_between_its_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    assert serve_tables.solved(whole=True).startswith("No `results/serve-gsm8k.json` yet")
    found = {
        "configuration": {"paths": 4, "temperature": 0.6, "max_tokens": 9, "seed": 0, "openai": "2.0"}, "machine": {"trueplex": "0.3.0", "cores": 2},
        "model": "small", "problem": "1 + 1?", "content": "So it is\n2", "answer": "2", "right": True, "paths that finished": 3,
        "votes": [{"answer": "2", "paths": 2, "weight": 1.5}, {"answer": "3", "paths": 1, "weight": 0.5}], "usage": {"completion_tokens": 1234}, "seconds": 7.4, "load average": [9.5, 1, 1],
    }  # fmt: skip
    (tmp_path / serve_tables.SOLVED).write_text(json.dumps(found))
    whole, short = serve_tables.solved(whole=True), serve_tables.solved(whole=False)
    for told in (whole, short):
        assert (
            "3 of 4 paths finished, and 2 of them say **2**, which is right; 1,234 tokens in 7 s on 2 CPU cores, with other jobs beside it (load 9.5)."
            in told
        )
    assert (
        "```text\nSo it is\n2\n```" in whole
        and "| 3 | 1 | 0.50 |" in whole
        and 'model="small"' in whole
        and "| 3 |" not in short
    )
    page = f"before\n{tables.BEGIN.format('transcript')}\nold\n{tables.END.format('transcript')}\nafter\n"
    assert tables.within(page, "transcript", "new") == page.replace("old", "new")


def test_slow_tests_are_counted(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite tests="4" failures="1" errors="0" skipped="1" time="9.6">'
        '<testcase classname="a" name="b"><failure/></testcase></testsuite></testsuites>'
    )
    told = slow_tests.counts(report)
    assert (told["passed"], told["failed"], told["skipped"], told["seconds"]) == (2, 1, 1, 10)
    assert told["failures"] == ["a.b"]


def test_every_file_that_the_pages_show_has_a_stage() -> None:
    staged = {path for stage in results.STAGES for path in results.files(stage)}
    own = {
        "manifests.json",
        "mistakes.json",
        "verifier-combined-reference.json",
        "serve.json",
        "serve-load.json",
        "serve-gsm8k.json",
        "faults.json",
        "replicas.json",
        "soak.json",
        "test-slow.json",
        "hybrid-speed.json",
    }
    left = [str(p.relative_to(results.RESULTS)) for p in results.RESULTS.rglob("*.json") if p not in staged]
    of_a_model = ("real-", "real/", "walkthrough", "test-slow", "training-")  # measured on a model that is named
    assert [n for n in left if n not in own and not n.startswith(of_a_model)] == []


def test_few_problems_are_said_and_a_share_of_0_has_a_width() -> None:
    """Three problems, all wrong, were shown as 0.000 [0.000, 0.000]."""
    from trueplex.cli.evaluate import _method_table

    zero = {"mean": 0.0, "low": 0.0, "high": 0.0}
    figures = {
        "samples": 4, "problems": 3, "tokens": {"mean": 9.0}, "outcomes": {"truncated": 0, "no answer": 0}, "ungraded": 0, "pairs": [],
        "pass": {"1": zero, "4": zero}, "methods": {"majority": {"4": zero | {"tokens": 36.0}}},
    }  # fmt: skip
    table = _method_table("gsm8k", figures)
    assert "3 problems (too few to tell)" in str(table.title)
    assert list(table.columns[1].cells) == ["0.000 [0.000, 0.561]"] * 3


@pytest.mark.parametrize(("paper", "model"), [("otv", "Qwen/Qwen3-4B"), ("multiplex", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B")])  # fmt: skip
def test_the_papers_commands_are_ones_that_trueplex_takes(
    paper: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make paper-otv DRY=1`: every command is printed, none is run, and each is read by the command line."""
    papers.main([paper, "--model", model, "--dry", "--all", "--devices", "1"])
    told = capsys.readouterr().out
    commands = [shlex.split(line) for line in told.splitlines() if line.startswith("trueplex ")]
    assert len(commands) > 4 and "hours" in told
    for _, *arguments in commands:
        group: Any = typer.main.get_command(app)
        context = None
        while hasattr(group, "commands"):
            name, *arguments = arguments
            context, group = typer.Context(group, info_name=name, parent=context), group.commands[name]
        group.make_context(group.name, arguments, parent=context)


def test_a_mode_is_judged_at_a_temperature_that_its_problem_did_not_choose() -> None:
    found = {"0.4": np.array([1.0, 0.0, 1.0, 0.0]), "1.0": np.array([0.0, 1.0, 0.0, 1.0])}
    values, chosen = real_modes.own_best(found)
    assert chosen == ["1.0", "0.4"] and values.tolist() == [0.0, 0.0, 0.0, 0.0]
