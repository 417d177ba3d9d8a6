"""Problems in the forms that users have: one reader, the same answers from each, and one line for what is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trueplex.data.golds import answers_of
from trueplex.data.problems import Columns, read_file, read_problems
from trueplex.data.rows import RowError, stem_of, suffix_of
from trueplex.data.suites import label, problems_of
from trueplex.errors import InputError, OptionError
from trueplex.grading.answers import grade
from trueplex.types import Problem

FOLDER = Path(os.environ.get("TRUEPLEX_BENCHMARKS", Path(__file__).parents[3] / "shared" / "benchmarks"))
SIZES = {
    "aime24": 30,
    "aime25": 30,
    "amc23": 83,
    "math500": 500,
    "minerva": 272,
    "olympiadbench": 675,
    "gsm8k-test": 1319,
}

RATIONALE = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"
)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "question": "How many clips, in April and May?", "answer": RATIONALE},
    {
        "id": "b",
        "question": 'He said "two;\nthree", didn\'t he?',
        "answer": "So it is\n$$\\boxed{\\frac{1}{2}}$$\nQED.",
    },
    {"id": "c", "question": "Σ ☃ 1+1?", "answer": "2"},
]
ANSWERS = [("72",), (r"\frac{1}{2}",), ("2",)]


def jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict], delimiter: str = ",", ends: str = "\n") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], delimiter=delimiter, lineterminator=ends)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: list[dict]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


FORMS: dict[str, Callable[[list[dict]], bytes]] = {
    "p.jsonl": jsonl,
    "p.ndjson": lambda rows: jsonl(rows).replace(b"\n", b"\r\n"),
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + jsonl(rows),
    "list.jsonl": lambda rows: json.dumps(rows).encode(),
    "p.json": lambda rows: b"\xef\xbb\xbf \r\n" + json.dumps(rows, indent=2).replace("\n", "\r\n").encode(),
    "lines.json": jsonl,
    "held.json": lambda rows: json.dumps({"version": 1, "data": rows}, indent=1).encode(),
    "utf16.jsonl": lambda rows: jsonl(rows).decode().encode("utf-16"),
    "p.csv": table,
    "excel.csv": lambda rows: b"\xef\xbb\xbf" + table(rows, ";", "\r\n"),
    "utf16.tsv": lambda rows: table(rows, "\t").decode().encode("utf-16"),
    "p.parquet": parquet,
    "P.JSONL.GZ": lambda rows: gzip.compress(jsonl(rows)),
    "p.csv.gz": lambda rows: gzip.compress(table(rows)),
    "p.parquet.gz": lambda rows: gzip.compress(parquet(rows)),
    "misnamed.jsonl": lambda rows: gzip.compress(parquet(rows)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_problems_and_answers(name: str, tmp_path: Path) -> None:
    """JSON lines refused GSM8K line by line, and Parquet took its whole rationale for the answer."""
    (tmp_path / name).write_bytes(FORMS[name](ROWS))
    problems, complaints = read_file(str(tmp_path / name))
    assert not complaints and [p.answers for p in problems] == ANSWERS
    assert [(p.id, p.text) for p in problems] == [(row["id"], row["question"]) for row in ROWS]
    assert [p.answers for p in problems_of(str(tmp_path / name), None, 2, 0)] == ANSWERS[:2]
    assert read_problems([f"@{tmp_path / name}"])[0] == problems


def test_gsm8k_as_its_authors_publish_it(tmp_path: Path) -> None:
    rows = [
        {"question": f"Q{i}", "answer": f"{i} and {i}\nmake <<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i:,}"}
        for i in range(1319)
    ]
    (tmp_path / "test.jsonl").write_bytes(jsonl(rows))
    problems, complaints = read_file(str(tmp_path / "test.jsonl"))
    assert len(problems) == 1319 and not complaints and problems[1000].answers == ("2,000",)
    assert all(grade(rf"\boxed{{{2 * i}}}", p.answers).correct for i, p in enumerate(problems))


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the public sets are not beside this checkout")
@pytest.mark.parametrize("name", SIZES)
def test_public_sets_are_read_as_they_are(name: str) -> None:
    problems, complaints = read_file(str(FOLDER / f"{name}.jsonl"))
    rows = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    assert not complaints and len(problems) == SIZES[name]
    assert [(p.id, p.text, list(p.answers or ())) for p in problems] == [
        (r["id"], r["problem"], r["answers"]) for r in rows
    ]


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        (18, ("18",)), (142.0, ("142",)), (0.5, ("0.5",)), ("#### 18", ("18",)), ("x\n####18\n", ("18",)), ("a b #### -3.5", ("-3.5",)),
        (r"\boxed{1} then \boxed{2}", ("2",)), (["1", 2, r"$\boxed{3}$"], ("1", "2", "3")), ("[1, 2]", ("[1, 2]",)), ([], None),
        ('["1", "2"]', ("1", "2")), ("", None), ("  ", None), (None, None), (float("nan"), None), ("18 ", ("18 ",)),
        ("#### A heading\nand more, so\n\\boxed{5}", ("5",)), ("the odd ones", ("the odd ones",)),
        ("\\begin{pmatrix}\n1\\\\2\n\\end{pmatrix}", ("\\begin{pmatrix}\n1\\\\2\n\\end{pmatrix}",)), (2**80, (str(2**80),)),
    ],
)  # fmt: skip
def test_what_counts_as_the_answer(value: Any, answers: tuple[str, ...] | None) -> None:
    assert answers_of(value, "answers") == answers


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (True, "neither text, a number"), ({"a": 1}, "neither text"), ([None], "is blank"), (["1", " "], "is blank"), ([["1"]], "neither"),
        (float("inf"), "not a finite number"), (10**5000, "too long"), ("half \ud800", "not valid Unicode (at character 5)"),
        (["1", "\\boxed{\ud800}"], "Unicode"), ("so \\boxed{}", "empty or never closes"),
        ("so \\boxed{1", "never closes"), ("First, this.\nThen that.", "no answer can be compared with"), ("9" * 401, "compared with"),
        ("We see that the total number of apples which he has in the end is equal to seven and not one more", "compared with"),
    ],
    ids=range(14),
)  # fmt: skip
def test_what_no_answer_could_be_compared_with_is_refused(value: Any, says: str) -> None:
    with pytest.raises(RowError) as stop:
        answers_of(value, "answer")
    assert says in str(stop.value) and "Try: " in str(stop.value) and "\n" not in str(stop.value)


def test_ungradable_answers_are_refused_with_their_lines(tmp_path: Path, said: list[str]) -> None:
    rows = [{"problem": "P", "solution": "5"}, {"problem": "Q", "solution": "First this.\nThen that."}]
    (tmp_path / "p.jsonl").write_bytes(jsonl(rows))
    assert [p.text for p in problems_of(str(tmp_path / "p.jsonl"), None, None, 0)] == ["P"]
    assert len(said) == 1 and "line 2: skipped: 'solution' is a text that no answer can be compared with" in said[0]


def test_many_lines_with_one_fault_are_one_message_with_a_count(tmp_path: Path) -> None:
    rows = [{"text": "?"}] * 1319 + [{"problem": "P", "answer": True}] * 2
    (tmp_path / "p.jsonl").write_bytes(jsonl(rows) + b"{\n[1\n")
    problems, told = read_file(str(tmp_path / "p.jsonl"))
    assert not problems and len(told) == 5
    assert ": 1,319 lines are skipped (1, 2, 3 …): no text in a column 'problem' or 'question'" in told[0]
    assert "line 1320: " in told[1] and "line 1321: " in told[2] and "line 1322: " in told[3]
    assert all(message.count("\n") == 0 and "Try: " in message for message in told)
    many = [{"problem": f"half {'x' * i}\ud800"} for i in range(40)]  # each for a reason of its own
    (tmp_path / "p.jsonl").write_bytes(jsonl(many))
    told = read_file(str(tmp_path / "p.jsonl"))[1]
    assert len(told) == 9 and "32 more lines are skipped for other reasons" in told[-1]


def test_columns_by_usual_names_and_by_given_ones(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_text("Problem ,Answer,solution,Frage,Lösung\nP,,5,F,7\nQ,6,,G,8\n")
    assert [(p.text, p.answers) for p in read_file(str(file))[0]] == [("P", ("5",)), ("Q", ("6",))]
    given = Columns(("Frage",), ("Lösung",))
    assert [(p.text, p.answers) for p in read_file(str(file), given)[0]] == [("F", ("7",)), ("G", ("8",))]
    assert problems_of(str(file), None, None, 0, columns=given)[0].text == "F"
    assert read_problems([f"@{file}"], given)[0][0].text == "F"
    _, told = read_file(str(file), Columns(("Frage",), ("Antwort",)))
    assert "line 2: skipped: it has no column 'Antwort' (its columns: Problem , Answer" in told[0]
    with pytest.raises(OptionError, match="no columns to choose"):
        problems_of("chain-easy", "test", 1, 0, columns=given)


def test_chat_turns_ask_what_their_only_turn_asks(tmp_path: Path) -> None:
    user, system = {"role": "user", "content": "1+1?"}, {"role": "system", "content": "Be brief."}
    (tmp_path / "p.jsonl").write_bytes(
        jsonl(
            [
                {"messages": [user], "answer": 2},
                {"prompt": [user]},
                {"messages": [system, user]},
                {"messages": ["1+1?"]},
                {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
                {"messages": []},
            ]
        )
    )
    problems, told = read_file(str(tmp_path / "p.jsonl"))
    assert [(p.text, p.answers) for p in problems] == [("1+1?", ("2",)), ("1+1?", None)]
    assert (
        len(told) == 4
        and "line 3" in told[0]
        and "not a single turn of the user" in told[0]
        and "(system, user)" in told[0]
    )


def test_ids_are_text_numbers_or_places(tmp_path: Path) -> None:
    rows = [{"id": 7}, {"id": None}, {"id": ""}, {"id": "é"}, {"id": [1]}, {"id": "\ud800"}]
    (tmp_path / "p.jsonl").write_bytes(jsonl([row | {"problem": "P"} for row in rows]))
    problems, told = read_file(str(tmp_path / "p.jsonl"))
    assert [p.id for p in problems] == ["7", "p/2", "p/3", "é"]
    assert len(told) == 2 and "neither text nor a number" in told[0] and "not valid Unicode" in told[1]


@pytest.mark.parametrize("told", [("\ud800",), ("P", "\ud800"), ("P", "", ("1", "\ud800"))])
def test_no_problem_has_text_that_could_not_be_stored(told: tuple) -> None:
    """It failed where its traces were written, when all tokens were spent."""
    with pytest.raises(InputError, match=r"is not valid Unicode at character 0\. Try:"):
        Problem(*told)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.jsonl", b"", "holds no problems"), ("p.json", b" \n", "holds no problems"), ("p.csv", b"problem,answer\n", "holds no problems"),
        ("p.json", b'[{"problem": "P"', "not valid JSON"), ("p.json", b'{"problem":\n "P"', "not valid JSON"),
        ("p.json", b"[" * 100_000, "not valid JSON"), ("p.parquet", b"PAR1 and no more", "cannot read"), ("p.parquet", b"", "cannot read"),
        ("p.csv", "problem\nhé\n".encode("latin-1"), "not valid UTF-8 at byte 9"), ("p.csv", b'problem\n"P\n\nQ\n', "line 2: "),
        ("p.csv", b"problem\n" + b"P" * 200_000 + b"\n", "field larger"), ("p.jsonl", b"\xff\xfea", "not valid Unicode"),
        ("p.jsonl.gz", gzip.compress(jsonl(ROWS))[:-9], "cannot read"), ("p.jsonl.gz", b"\x1f\x8bnot gzip", "cannot read"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as stop:
        read_file(str(tmp_path / name))
    assert says in str(stop.value) and "Try: " in str(stop.value) and "\n" not in str(stop.value)


def test_rows_of_a_csv_that_do_not_fit_its_header_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('problem,answer\n"two\nlines",1\n\nP, with a comma,2\nQ\nR,3\n')
    problems, told = read_file(str(tmp_path / "p.csv"))
    assert [p.text for p in problems] == ["two\nlines", "R"] and [p.id for p in problems] == ["p/2", "p/7"]
    assert len(told) == 2 and "line 5: " in told[0] and "line 6: " in told[1]


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "excel.csv", "p.parquet", "p.csv.gz"])
def test_damaged_files_give_problems_or_one_clear_error(name: str, tmp_path: Path) -> None:
    content, rng = FORMS[name](ROWS), random.Random(2)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(content))] = rng.randrange(256)
        (tmp_path / name).write_bytes(damaged[: rng.choice([len(content), rng.randrange(len(content))])])
        try:
            problems, told = read_file(str(tmp_path / name))
            assert len(problems) <= 3 and all("\n" not in message for message in told)
        except InputError as error:
            assert "Try: " in str(error) and "\n" not in str(error)


def test_names_of_tables() -> None:
    assert [suffix_of(n) for n in ("a.JSONL.gz", "b.csv", "owner/set", "c.gz", "d.txt")] == [
        ".jsonl",
        ".csv",
        None,
        None,
        None,
    ]
    assert [stem_of(n) for n in ("d/a.jsonl.gz", "b.v2.csv", "set")] == ["a", "b.v2", "set"]
    assert label("@d/a.jsonl.gz") == "a"


def test_a_data_folder_may_hold_any_form(tmp_path: Path) -> None:
    (tmp_path / "math500.csv.gz").write_bytes(gzip.compress(table([{"problem": "P", "answer": "5"}])))
    assert problems_of("math500", None, None, 0, tmp_path)[0].answers == ("5",)


def test_more_problems_than_a_suite_has_are_not_looked_for_without_end(said: list[str]) -> None:
    """--n 10^20 never came back."""
    from trueplex.data.embedded import tasks

    small = tasks.SUITES["chain-easy"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "PATIENCE", 20)
        patch.setattr(tasks, "SUITES", {"chain-easy": tasks.Suite("chain-easy", lambda rng: small.make(random.Random(rng.randrange(9))), small.think)})  # fmt: skip
        assert len(tasks.problems("reference", "train", 10**20)) < 10
    assert "no more" in said[0]
