"""What users get wrong: each mistake is answered by one line that says what to do, on standard error, and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trueplex.cli.mistakes import RENAMED

PROBLEM = "Ann has 12 apples. Ann loses 3. The number doubles. How many apples are there now?"
POLICY = ("train", "policy", "--data", "chain-easy", "--out", "/tmp/never")
VERIFIER = ("train", "verifier", "--data", "/nowhere", "--out", "/tmp/never")
ROLLOUT = ("rollout", "--data", "chain-easy", "--out", "/tmp/never")
DIGITS = "9" * 5000

MISTAKES = [
    # options and commands that do not exist
    (["solve", PROBLEM, "--pahts", "4"], "No such option: --pahts. Try: --paths (see 'trueplex solve --help')"),
    (["solve", PROBLEM, "--max_tokens", "4"], "No such option: --max_tokens. Try: --max-tokens"),
    (["solve", PROBLEM, "-paths", "4"], "No such option: -paths. Try: --paths"),
    (["solve", PROBLEM, "--temp", "0.6"], "No such option: --temp. Try: --template-arg or --temperature"),
    (["solve", PROBLEM, "--Quiet"], "No such option: --Quiet. Try: --quiet"),
    (["solve", PROBLEM, "--colour", "red"], "No such option: --colour. Try: see 'trueplex solve --help'"),
    ([*POLICY, "--greedy"], "No such option: --greedy. Try: see 'trueplex train policy --help'"),
    (["solve", "-3 + 5 = ?"], "Try: put -- before a problem that begins with a dash"),
    (["sovle", PROBLEM], "No such command: sovle. Try: trueplex solve"),
    (["train", "verfier"], "No such command: verfier. Try: trueplex train verifier"),
    (["frobnicate"], "Try: one of solve, serve, show, problems"),
    ([PROBLEM], 'Try: trueplex solve "PROBLEM"'),
    # options that were renamed
    (["solve", PROBLEM, "--rows", "4"], "--rows was renamed to --max-batch-size. Try: --max-batch-size"),
    (["eval", "--rows=4"], "--rows was renamed to --max-batch-size. Try: --max-batch-size"),
    (["show", "t.arrow", "--rows", "4"], "renamed to --max-batch-size, which 'trueplex show' does not have"),
    ([*POLICY, "--held", "4"], "--held was renamed to --val-problems"),
    ([*POLICY, "--validated", "4"], "--validated was renamed to --val-samples"),
    ([*POLICY, "--kept", "4"], "--kept was renamed to --keep-rollouts"),
    ([*VERIFIER, "--targets", "q_proj"], "--targets was renamed to --target-modules"),
    ([*VERIFIER, "--checkpointing"], "--checkpointing was renamed to --gradient-checkpointing"),
    # options and arguments that lack something
    (["solve"], "Missing argument 'PROBLEM...'. Try: see 'trueplex solve --help'"),
    (["solve", PROBLEM, "--paths"], "Option '--paths' requires an argument. Try: see 'trueplex solve --help'"),
    (["solve", PROBLEM, "--json=yes"], "Option '--json' does not take a value. Try: see 'trueplex solve --help'"),
    (["eval", "--suite", "chain-easy"], "Missing option '--out'. Try: see 'trueplex eval --help'"),
    (["train", "reward", "--data", "x", "--out", "y"], "Missing option '--kind'. Try: see 'trueplex train reward --help'"),
    (["solve", PROBLEM, "--resume"], "give --save FILE"),
    (["report", "/nowhere"], "nothing to write. Try: give --out PAGE.html"),
    (["report", "/nowhere", "--figures", "d", "--title", "T"], "figures have no title of the page"),
    (["show", "/nowhere", "--html", "p.html", "--trace", "1"], "Try: drop --trace and --candidates"),
    (["score", "/nowhere", "--verifier", "x", "--out", "/tmp/never", "--memory", "2"], "--memory and --compile are of decoding"),
    (["calibrate", "/nowhere", "--model", "some/model"], "kept in the model's folder, and some/model has none here"),
    (["train", "combined", "--data", "/nowhere", "--model", "some/model"], "some/model has none here"),
    (["train", "combined", "--data", "/nowhere", "--verifier", "none", "--keep-base", "k"], "keeps what a verifier reads, and there is none"),
    (["eval-verifier", "/nowhere", "--scorers", "entropy", "--keep-base", "k", "--out", "/tmp/never"], "none is judged. Try: drop it, or name one"),
    ([*VERIFIER[:2], "--problems", "chain-easy", "--labels", "soft", "--out", "/tmp/never"], "labels soft need values of rollouts"),
    (["report", "/nowhere", "--out", "p.html", "--format", "pdf"], "--format pdf has no effect without --figures"),
    # problems that are none
    (["solve", ""], "the problem is empty"),
    (["solve", "What", "is", "1+1?"], "3 problems of one word each (did you mean one problem?). Try: quote it: trueplex solve 'What is 1+1?'"),
    (["solve", "Simplify", "x+x"], "quote it: trueplex solve 'Simplify x+x'"),
    (["solve", "/etc/hostname"], "'/etc/hostname' is the name of a file, and a problem is text. Try: @/etc/hostname"),
    (["solve", "problems.jsonl"], "Try: @problems.jsonl"),
    (["solve", "@/nowhere.jsonl"], "cannot read /nowhere.jsonl"),
    (["solve", "@~nobody/p.jsonl"], "cannot read ~nobody/p.jsonl"),
    (["solve", "word " * 4000], "tokens long and the model holds"),
    # numbers
    (["solve", PROBLEM, "--max-tokens", str(2**63)], "--max-tokens is 9223372036854775808. Try: a whole number of at most 2147483647"),
    (["solve", PROBLEM, "--max-tokens", "²"], "--max-tokens is '²'. Try: a whole number"),
    (["solve", PROBLEM, "--max-tokens", DIGITS], f"--max-tokens is '{DIGITS[:40]}…'. Try: a whole number"),
    (["solve", PROBLEM, f"--max-tokens={DIGITS[:4000]}"], f"--max-tokens is {DIGITS[:40]}…. Try: a whole number of at most"),
    (["solve", PROBLEM, "--max-tokens", "4000"], "--max-tokens 4000 is more than the 2048 positions of reference"),
    ([*ROLLOUT, "--max-tokens", "4000"], "--max-tokens 4000 is more than the 2048 positions of reference"),
    (["solve", PROBLEM, "--paths", str(2**64)], "--paths is 18446744073709551616. Try: a number of at most 2147483647"),
    (["solve", PROBLEM, "--paths", f"auto:{2**64}"], "--paths is 18446744073709551616. Try: a number of at most"),
    (["solve", PROBLEM, "--paths", "²"], "--paths is '²'. Try: the digits 0 to 9"),
    (["solve", PROBLEM, "--paths", DIGITS], f"--paths is {DIGITS[:40]}…. Try:"),
    (["solve", PROBLEM, "--paths", "0"], "paths is 0"),
    (["solve", PROBLEM, "--paths", "many"], "paths is 'many'"),
    (["calibrate", "/nowhere", "--paths", str(2**64)], "--paths is 18446744073709551616"),
    (["calibrate", "/nowhere", "--error", "2"], "--error is 2.0. Try: a share between 0 and 1"),
    ([*VERIFIER, "--positions", "²"], "--positions is '²'. Try: the digits 0 to 9"),
    ([*VERIFIER, "--positions", "few"], "positions is 'few'. Try: a number, or 'all'"),
    (["solve", PROBLEM, "--seed", "-1"], "--seed is -1. Try: a whole number from 0 to 9223372036854775807"),
    (["solve", PROBLEM, "--seed", "9" * 20], "Try: a whole number from 0 to 9223372036854775807"),
    (["solve", PROBLEM, "--threads", "0"], "--threads is 0. Try: a whole number from 1"),
    (["solve", PROBLEM, "--temperature", "warm"], "--temperature is 'warm'. Try: a number"),
    (["solve", PROBLEM, "--temperature", "nan"], "--temperature is nan. Try: a finite number"),
    (["solve", PROBLEM, "--temperature", "-1"], "temperature is -1"),
    (["solve", PROBLEM, "--budget-seconds", "inf"], "--budget-seconds is inf. Try: a finite number"),
    (["solve", PROBLEM, "--width", "0"], "width is 0"),
    (["solve", PROBLEM, "--width", "3.5"], "--width is '3.5'. Try: a whole number"),
    (["problems", "chain-easy", "--n", "-1"], "--n is -1. Try: a whole number from 1"),
    # options that could not act together
    (["solve", PROBLEM, "--greedy", "--temperature", "0.5"], "Try: drop --greedy, or --temperature"),
    (["solve", PROBLEM, "--greedy", "--width", "3", "--top-p", "0.9"], "Try: drop --greedy, or --width and --top-p"),
    (["solve", PROBLEM, "--greedy", "--thinking", "soft"], "Try: drop --greedy, or --thinking"),
    (["solve", PROBLEM, "--greedy", "--answer-temperature", "1"], "Try: drop --greedy, or --answer-temperature"),
    (["solve", PROBLEM, "--thinking", "discrete", "--width", "3"], "no effect in discrete thinking"),
    (["solve", PROBLEM, "--thinking", "soft", "--merge", "mean"], "no effect outside multiplex"),
    (["solve", PROBLEM, "--thinking", "soft", "--temperature", "0"], "temperature 0 leaves one"),
    (["solve", PROBLEM, "--noise", "gumbel"], "no effect outside stochastic-soft"),
    (["solve", PROBLEM, "--width", "64", "--without-replacement", "--top-k", "9"], "without replacement"),
    (["solve", PROBLEM, "--width", "1", "--merge", "mean"], "merged with nothing"),
    (["solve", PROBLEM, "--top-p", "0.9", "--answer-temperature", "0"], "--answer-top-p 1"),
    (["solve", PROBLEM, "--think-tokens", "900"], "within the model's 640 tokens"),
    (["solve", PROBLEM, "--cold-steps", "3"], "has no effect without a cold-entropy"),
    (["solve", PROBLEM, "--stop", ""], "stop string is empty"),
    (["solve", PROBLEM, "--prune", "half:8", "--verifier", "none"], "needs scores"),
    # grammars and names
    (["solve", PROBLEM, "--prune", "half"], "'' is not a positive whole number. Try: use none, half:EVERY"),
    (["solve", PROBLEM, "--prune", "keep:0.5"], "does not say how often, as @EVERY"),
    (["solve", PROBLEM, "--prune", "floor:x"], "the score 'x' is"),
    (["solve", PROBLEM, "--select", "luck"], "unknown selector"),
    (["solve", PROBLEM, "--model", "nowhere"], "no model 'nowhere'"),
    (["solve", PROBLEM, "--verifier", ""], "the verifier's name is empty"),
    (["solve", PROBLEM, "--verifier", "/nowhere"], "is not a verifier"),
    (["solve", PROBLEM, "--verifier", "~nobody/v"], "is not a verifier"),
    (["solve", PROBLEM, "--verifier", "v" * 300], "Try:"),
    (["solve", PROBLEM, "--verifier", "orm:" + "v" * 300], "Try:"),
    (["solve", PROBLEM, "--verifier", "genrm:~nobody/m"], "Try:"),
    (["calibrate", "/nowhere.jsonl", "--verifier", "~nobody/v"], "is not a verifier"),
    (["eval", "--suite", "s" * 300 + ".jsonl", "--out", "/tmp/never"], "cannot read"),
    (["show", "/nowhere.jsonl"], "cannot read /nowhere.jsonl"),
    (["solve", PROBLEM, "--save", "/proc/nowhere/t.jsonl"], "cannot write"),
    (["bench", "sample", "--out", "/proc/nowhere/b.json"], "cannot write"),
    (["problems", "nope"], "unknown suite"),
    (["grade", "/nowhere.jsonl"], "cannot read"),
    (["rollout", "--data", "nope", "--out", "/tmp/never"], "no suite or file"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_clear_line_and_exit_code_2(trueplex, arguments: list[str], says: str) -> None:
    code, out, err = trueplex(*arguments)
    assert code == 2 and out == ""
    assert says in err and err.startswith("trueplex: ") and err.count("\n") == 1 and "Traceback" not in err
    assert "Try:" in err and len(err) < 1000


def test_every_new_name_is_an_option_of_some_command() -> None:
    from trueplex.cli import groups, train, train_policy

    fields = {name for module in (groups, train, train_policy) for kind in vars(module).values()
              for name in getattr(kind, "__dataclass_fields__", ())}  # fmt: skip
    fields.add("max_batch_size")
    assert {new[2:].replace("-", "_") for new in RENAMED.values()} <= fields
    assert not {old[2:].replace("-", "_") for old in RENAMED} & fields


def test_problems_of_one_word_that_are_no_sentence_are_solved(trueplex) -> None:
    """`1+1? 2+2?` are two problems; only plain words look like one that lacks its quotes."""
    code, out, _ = trueplex("solve", "1+1?", "2+2?", "--json", "--quiet", "--paths", "1", "--max-tokens", "2")
    assert code == 1 and [json.loads(line)["problem"] for line in out.splitlines()] == ["1+1?", "2+2?"]


def run(command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command line in a shell, where `trueplex` is this interpreter's."""
    whole = f'trueplex() {{ {sys.executable} -m trueplex "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", whole], capture_output=True, timeout=120,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment})  # fmt: skip


@pytest.mark.parametrize("command", ["trueplex --help", "trueplex solve --help", "trueplex"])
def test_help_whose_reader_has_gone_is_silent(command: str) -> None:
    """`| head -1` may close the pipe before, while or after the help is written; a reader that never reads closes it before."""
    for reader in ("head -1", "exec 0<&-"):
        done = run(f"{command} | {reader}; echo ${{PIPESTATUS[0]}} >&2")
        assert done.stderr.strip() in (b"0", b"2") and not done.stderr.strip().startswith(b"trueplex")


def test_a_closed_standard_error_gets_no_summary_among_the_results(tmp_path: Path) -> None:
    """Python prints to standard output what it is told to print to a standard error that is None."""
    file, verdicts = tmp_path / "g.jsonl", tmp_path / "v.jsonl"
    file.write_text('{"prediction": "42", "answers": ["42"]}\n')
    done = run(f"trueplex grade {file} > {verdicts} 2>&-")
    assert done.returncode == 0
    assert [json.loads(line)["correct"] for line in verdicts.read_text().splitlines()] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_standard_output_of_any_encoding_loses_nothing(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"problem": "Is √2 ≤ 3/2 → 数?"}))
    options = "--paths 1 --max-tokens 4 --verifier none --quiet"
    shown, told = (
        run(f"trueplex solve @{file} {options} {more}", PYTHONIOENCODING=encoding) for more in ("", "--json")
    )
    for done in (shown, told):
        assert done.returncode == 1 and not done.stderr, done.stderr
    text = shown.stdout.decode(encoding)
    assert "Is √2 ≤ 3/2 → 数?" in text.encode("latin-1").decode("unicode_escape")
    assert json.loads(told.stdout)["problem"] == "Is √2 ≤ 3/2 → 数?"
    helped = run("trueplex solve --help", PYTHONIOENCODING=encoding)
    assert helped.returncode == 0 and not helped.stderr and b"--paths" in helped.stdout


@pytest.mark.parametrize(
    "arguments", [["show", "/dev/full"], ["solve", "@/dev/zero"], ["grade", "/dev/zero"], ["calibrate", "/dev/zero", "--out", "x"]]
)  # fmt: skip
def test_a_device_that_has_no_end_is_refused(trueplex, arguments: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, said = trueplex(*arguments)
    assert (code, out) == (2, "") and "it is a device" in said and said.count("\n") == 1
