"""The command line's contract, with the embedded model, as a user would meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trueplex.data.embedded.tasks import problems

PROBLEM = "Ann has 12 apples. Ann loses 3. The number doubles. How many apples are there now?"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    """A command as from a terminal: a shell's background jobs, and what they start, would not hear Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, "-m", "trueplex", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **options,
    )  # fmt: skip


def test_json_prints_one_object_a_problem_in_order_and_nothing_else(trueplex, tmp_path: Path) -> None:
    found = problems("reference", "validation", 4)
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"id": p.id, "problem": p.text, "answers": p.answers}) + "\n" for p in found))
    code, out, _ = trueplex("solve", f"@{file}", "--json", "--paths", "8", "--prune", "half:32", "--quiet")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [r["problem"] for r in rows] == [p.text for p in found]
    for row in rows:
        assert set(row) >= {
            "problem",
            "answer",
            "confidence",
            "abstained",
            "votes",
            "usage",
            "paths",
            "seconds",
            "config",
        }
        assert (
            (row["confidence"] is None or 0 <= row["confidence"] <= 1)
            and 0 < row["agreement"] <= 1
            and not row["abstained"]
            and row["votes"][0]["answer"] == row["answer"]
        )
        assert [p["index"] for p in row["paths"]] == list(range(8))
        assert {p["status"] for p in row["paths"]} <= {"finished", "pruned", "truncated"}
        assert all(0 <= p["score"] <= 1 for p in row["paths"])
        assert any(p["status"] == "pruned" for p in row["paths"])
        usage = row["usage"]
        assert usage["thinking_tokens"] + usage["answer_tokens"] == sum(p["tokens"] for p in row["paths"])
        assert row["config"]["prune"] == "half:32" and row["config"]["thinking"] == "multiplex"


def test_the_same_seed_gives_the_same_answer_alone_or_among_others(trueplex) -> None:
    _, alone, _ = trueplex("solve", PROBLEM, "--json", "--paths", "4", "--quiet")
    _, among, _ = trueplex("solve", "What is 1+1?", PROBLEM, "--json", "--paths", "4", "--quiet")
    first, second = json.loads(alone), json.loads(among.splitlines()[1])
    assert [p["text"] for p in first["paths"]] == [p["text"] for p in second["paths"]]


def test_people_see_the_answer_and_the_vote(trueplex) -> None:
    code, out, _ = trueplex("solve", PROBLEM, "--paths", "8")
    assert code == 0 and PROBLEM[:30] in out and "answer" in out and "paths" in out


@pytest.mark.slow
def test_standard_input_is_a_problem() -> None:
    process = start("solve", "-", "--json", "--quiet", "--paths", "4", stdin=subprocess.PIPE)
    out, _ = process.communicate(PROBLEM, timeout=120)
    assert process.returncode == 0 and json.loads(out)["problem"] == PROBLEM


def test_no_answer_is_exit_code_1(trueplex) -> None:
    code, out, _ = trueplex("solve", PROBLEM, "--json", "--paths", "2", "--max-tokens", "5")
    row = json.loads(out)
    assert code == 1 and row["answer"] is None and not row["abstained"] and row["votes"] == [] and row["agreement"] == 0
    assert {p["status"] for p in row["paths"]} == {"truncated"}


def test_a_model_without_a_verifier_is_said_and_votes_by_majority(trueplex, folder) -> None:
    code, out, err = trueplex(
        "solve", "Hi", "--model", str(folder("llama")), "--json", "--paths", "2", "--max-tokens", "5"
    )
    assert code == 1 and "no verifier for" in err and json.loads(out)["config"]["select"] == "majority"


def test_good_lines_of_a_broken_file_are_still_solved(trueplex, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(b'{"problem": "1+1?"}\n{"problem": \n\n{"text": "x"}\n\xff\xfe\n{"problem": "2+2?"}\n' + b"[" * 200_000
                     + b'\n{"problem": "' + b"word " * 4000 + b'"}\n')  # fmt: skip
    code, out, err = trueplex("solve", f"@{file}", "--json", "--paths", "2", "--quiet")
    assert code == 2 and [json.loads(line)["problem"] for line in out.splitlines()] == ["1+1?", "2+2?"]
    for number in (2, 4, 5, 7):
        assert f"line {number}:" in err
    assert "line 4: skipped: no text in a column 'problem'" in err
    complaints = [line for line in err.splitlines() if "skipped" in line or "p/8: the problem is" in line]
    assert len(complaints) == 5
    file.write_text("1\n2\n")
    code, out, err = trueplex("solve", f"@{file}", "--quiet")
    assert code == 2 and not out and "line 1" in err.splitlines()[0] and "line 2" in err.splitlines()[1]


def test_saved_traces_are_whole_and_a_full_disk_loses_no_answer(trueplex, tmp_path: Path) -> None:
    from trueplex.data.traces import from_row, read

    path = tmp_path / "new" / "traces.jsonl"
    for _ in range(2):  # appended, not overwritten
        assert trueplex("solve", PROBLEM, "--paths", "4", "--save", str(path), "--quiet")[0] == 0
    traces = [from_row(row)[0] for row in read(path)]
    assert len(traces) == 8 and all(len(t.steps) == t.tokens for t in traces)
    code, out, err = trueplex("solve", PROBLEM, "--paths", "4", "--save", "/dev/full", "--json", "--quiet")
    assert code == 2 and json.loads(out)["answer"] is not None and "No space left" in err


def test_every_thinking_option_reaches_the_engine_and_is_stored(trueplex) -> None:
    code, out, _ = trueplex(
        "solve", PROBLEM, "--paths", "2", "--json", "--quiet", "--thinking", "stochastic-soft", "--width", "4", "--noise",
        "dirichlet", "--strength", "5", "--temperature", "0.9", "--top-k", "20", "--top-p", "0.99", "--min-p", "0.001",
        "--answer-temperature", "0.5", "--answer-top-k", "3", "--answer-top-p", "0.8", "--answer-min-p", "0.1",
        "--max-tokens", "90", "--think-tokens", "60", "--cold-entropy", "0.00001", "--cold-steps", "50", "--stop", "zz",
        "--max-seconds", "50",
    )  # fmt: skip
    assert code in (0, 1)
    config = json.loads(out)["config"]
    assert (config["thinking"], config["width"], config["noise"], config["strength"]) == (
        "stochastic-soft",
        4,
        "dirichlet",
        5,
    )
    assert config["sampling"] == {"temperature": 0.9, "top_p": 0.99, "top_k": 20, "min_p": 0.001}
    assert config["answer_sampling"] == {"temperature": 0.5, "top_p": 0.8, "top_k": 3, "min_p": 0.1}
    assert config["ending"] == {"max_tokens": 90, "think_tokens": 60, "cold_entropy": 1e-5, "cold_steps": 50,
                                "stop": ["zz"], "max_seconds": 50}  # fmt: skip


@pytest.mark.slow
def test_an_interrupted_solve_is_taken_up(tmp_path: Path) -> None:
    """Ctrl-C stores the live traces; --resume goes on with them and gives what one run would have given.

    Steps that are read again are rounded otherwise than steps that were decoded, so that a draw which lies on a
    boundary to 1e-6 may fall on its other side: one trace of the 48 may differ, behind the place where it was stored.
    """
    save, file = tmp_path / "t.arrow", tmp_path / "p.jsonl"
    file.write_text(
        "".join(json.dumps({"problem": p.text}) + "\n" for p in problems("countdown-hard", "validation", 6))
    )
    options = ("solve", f"@{file}", "--json", "--quiet", "--paths", "8")
    process = start(*options, "--save", str(save))
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (save.exists() and save.stat().st_size > 30_000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    first = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    whole = subprocess.run([sys.executable, "-m", "trueplex", *options], capture_output=True, text=True)
    again = subprocess.run([sys.executable, "-m", "trueplex", *options, "--save", str(save), "--resume"],
                           capture_output=True, text=True)  # fmt: skip
    assert len(first.splitlines()) < 6 == len(again.stdout.splitlines())
    differing = [
        (a["text"], b["text"])
        for one, other in zip(whole.stdout.splitlines(), again.stdout.splitlines(), strict=True)
        for a, b in zip(json.loads(one)["paths"], json.loads(other)["paths"], strict=True)
        if a["text"] != b["text"]
    ]
    assert len(differing) <= 1
    assert all(a[:100] == b[:100] for a, b in differing)


def test_an_interrupt_keeps_what_finished(tmp_path: Path) -> None:
    save = tmp_path / "t.jsonl"
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"problem": p.text}) + "\n" for p in problems("chain-easy", "validation", 200)))
    process = start("solve", f"@{file}", "--json", "--paths", "4", "--thinking", "discrete", "--save", str(save))
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (save.exists() and save.stat().st_size > 60_000):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    solved = [json.loads(line) for line in out.splitlines()]
    saved = [json.loads(line) for line in save.read_text().splitlines()]
    assert solved and len(saved) >= 4 * len(solved)


@pytest.mark.slow
def test_a_closed_pipe_is_one_line(tmp_path: Path) -> None:
    process = start("solve", PROBLEM, "1+1?", "2+2?", "--json", "--paths", "2", "--quiet")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "standard output was closed" in err and "Traceback" not in err


def test_grade_answers_line_by_line(trueplex, tmp_path: Path) -> None:
    file = tmp_path / "g.jsonl"
    rows = [
        ("so \\boxed{42}", ["42"]),
        ("41", ["42"]),
        ("1/2", ["0.5", "2"]),
        ("I do not know, sorry about that", ["42"]),
    ]
    file.write_text("".join(json.dumps({"prediction": p, "answers": a}) + "\n" for p, a in rows))
    code, out, said = trueplex("grade", str(file))
    assert "4 predictions: 2 right, 1 wrong, 1 without an answer, 0 that cannot be graded" in said
    assert code == 0 and [json.loads(line)["correct"] for line in out.splitlines()] == [True, False, True, False]
    file.write_text('{"prediction": "1", "answers": ["1"]}\n{"prediction": 1\n')
    code, out, err = trueplex("grade", str(file))
    assert code == 2 and out == "" and "line 2" in err


def test_eval_measures_and_resumes(trueplex, tmp_path: Path) -> None:
    arguments = ["eval", "--suite", "chain-easy", "--n", "6", "--samples", "8", "--out", str(tmp_path / "e"), "--quiet"]
    code, out, _ = trueplex(*arguments)
    first = json.loads((tmp_path / "e" / "results.json").read_text())
    assert code == 0 and "chain-easy" in out and first["suites"]["chain-easy"]["problems"] == 6
    assert trueplex(*arguments)[0] == 0
    assert json.loads((tmp_path / "e" / "results.json").read_text()) == first
    assert trueplex(*arguments, "--seed", "1")[0] == 2


def test_the_version_is_told_and_recorded(trueplex) -> None:
    from trueplex import __version__
    from trueplex.evals.run import machine

    assert trueplex("--version") == (0, f"trueplex {__version__}\n", "") and machine()["trueplex"] == __version__


HEAVY = {
    "torch",
    "transformers",
    "peft",
    "numpy",
    "scipy",
    "pydantic",
    "jinja2",
    "datasets",
    "fastapi",
    "matplotlib",
    "ray",
}


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom trueplex.cli.main import main\nsys.argv = ['trueplex', '--help']\n"
        f"try:\n    main()\nfinally:\n    print({HEAVY} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert all(name in done.stdout for name in ("solve", "problems", "grade", "rollout", "train", "eval"))
    assert done.returncode == 0 and done.stderr.strip() == "set()"


@pytest.mark.slow  # seconds mean something on an idle machine alone
def test_help_is_quick() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "trueplex", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


# -- what an audit found ---------------------------------------------------------------------------


@pytest.mark.slow
def test_text_that_is_no_unicode_is_refused_and_the_rest_solved(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"problem": "half \\ud800 a character"}\n' + json.dumps({"problem": PROBLEM}) + "\n")
    done = start("solve", f"@{file}", "--paths", "2", "--json", "--quiet", "--verifier", "none")
    out, said = done.communicate(timeout=120)
    assert done.returncode == 2 and "line 1" in said and "not valid Unicode" in said and "Traceback" not in said
    assert [json.loads(line)["problem"] for line in out.splitlines()] == [PROBLEM]
    raw = subprocess.run(
        [sys.executable, "-m", "trueplex", "solve", "-"],
        input=b"\xff\xfe",
        capture_output=True,
        env=ENVIRONMENT,
    )
    assert raw.returncode == 2 and raw.stderr.count(b"\n") == 1 and b"not valid Unicode" in raw.stderr


@pytest.mark.slow
def test_a_full_standard_output_loses_no_live_trace(tmp_path: Path) -> None:
    file, save = tmp_path / "p.jsonl", tmp_path / "t.jsonl"
    long = [p.text for p in problems("countdown-hard", "validation", 3)]
    file.write_text("".join(json.dumps({"problem": text}) + "\n" for text in [PROBLEM, *long]))
    command = [
        sys.executable,
        "-m",
        "trueplex",
        "solve",
        f"@{file}",
        "--paths",
        "2",
        "--quiet",
        "--json",
        "--save",
        str(save),
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot write" in done.stderr
    kept = [json.loads(line)["status"] for line in save.read_text().splitlines()]
    assert len(kept) == 8 and kept.count("running") > 0


@pytest.mark.slow
@pytest.mark.parametrize("redirection", [">/dev/full", "<&-", ">&-"])
def test_closed_and_full_streams_are_one_line(redirection: str) -> None:
    command = f"{sys.executable} -m trueplex.cli.main solve - --paths 2 {redirection}"
    done = subprocess.run(["bash", "-c", f"echo '{PROBLEM}' | {command}" if ">" in redirection else command],
                          capture_output=True, text=True, env=ENVIRONMENT)  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("trueplex: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr and "Try:" in said[-1], done.stderr


def test_a_save_file_is_gone_on_with_only_by_the_options_it_was_begun_with(trueplex, tmp_path: Path) -> None:
    save = str(tmp_path / "t.arrow")
    common = ("solve", PROBLEM, "--verifier", "none", "--json", "--quiet", "--save", save)
    code, _, _ = trueplex(*common, "--paths", "4")
    assert code == 0
    code, _, said = trueplex(*common, "--paths", "4", "--resume", "--thinking", "soft")
    assert code == 2 and "other options" in said
    code, out, _ = trueplex(*common, "--paths", "2", "--resume")  # the first two of the four that are there
    assert code == 0 and [p["index"] for p in json.loads(out)["paths"]] == [0, 1]
    code, out, _ = trueplex(*common, "--paths", "2", "--resume", "--seed", "7")  # another seed's are others
    assert code == 0 and [p["index"] for p in json.loads(out)["paths"]] == [0, 1]
    code, out, _ = trueplex(*common, "--paths", "5", "--resume")
    assert code == 0 and len(json.loads(out)["paths"]) == 5


def test_scores_and_retirements_of_other_options_are_not_gone_on_with(trueplex, tmp_path: Path) -> None:
    save = str(tmp_path / "t.arrow")
    common = ("solve", PROBLEM, "--paths", "4", "--json", "--quiet", "--save", save)
    assert trueplex(*common, "--verifier", "deepconf:mean")[0] in (0, 1)
    for other in (
        ("--verifier", "auto"),
        ("--verifier", "deepconf:mean", "--prune", "half:8"),
        ("--verifier", "none"),
        ("--verifier", "deepconf:mean", "--alarm", "under:0.1@8"),
        ("--verifier", "deepconf:mean", "--probe-every", "8"),
    ):
        code, _, said = trueplex(*common, *other, "--resume")
        assert code == 2 and "made by other options" in said, other
    assert trueplex(*common, "--verifier", "deepconf:mean", "--select", "best", "--resume")[0] in (
        0,
        1,
    )  # a vote is anew


def test_what_a_budget_stopped_goes_on_in_the_next_run(trueplex, tmp_path: Path) -> None:
    """By --resume without it, the paths end as they would have without it."""
    save = str(tmp_path / "t.arrow")
    common = ("solve", PROBLEM, "--paths", "4", "--json", "--quiet", "--verifier", "none")
    _, whole, _ = trueplex(*common)
    code, out, _ = trueplex(*common, "--save", save, "--budget-tokens", "60")
    assert {p["status"] for p in json.loads(out)["paths"]} == {"truncated"}
    code, out, _ = trueplex(*common, "--save", save, "--resume")
    assert code == 0
    seen = [[(p["text"], p["status"], p["tokens"]) for p in json.loads(o)["paths"]] for o in (whole, out)]
    assert seen[0] == seen[1]


def test_what_is_finished_is_shown_and_kept_whatever_breaks(
    trueplex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trueplex.data.traces import read
    from trueplex.engine.batch import Batch
    from trueplex.errors import ModelError

    whole = Batch.advance
    calls = []

    def breaking(self: Batch, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise ModelError("logits that are not finite")
        return whole(self, *arguments)

    monkeypatch.setattr(Batch, "advance", breaking)
    save = tmp_path / "t.arrow"
    long, short = (
        problems("countdown-hard", "validation", 1)[0].text,
        "Ann has 3 apples. How many apples are there now?",
    )
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"problem": text}) + "\n" for text in (long, short)))
    code, out, said = trueplex(
        "solve", f"@{file}", "--verifier", "none", "--paths", "4", "--json", "--quiet", "--save", str(save)
    )
    assert code == 2 and "not finite" in said
    statuses = [row["status"] for row in read(save, ("status",))]
    assert statuses.count("running") > 0  # live traces were laid aside
    assert len(statuses) - statuses.count("running") >= 4 and len(out.splitlines()) == 1 and short in out
