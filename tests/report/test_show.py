"""Reading stored traces: nothing is lost between the ids and what people see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from conftest import stored_trace
from trueplex.data.about import about
from trueplex.data.traces import Origin, open_store, to_row
from trueplex.errors import InputError, MissingExtra, StoreError
from trueplex.models.load import load_tokenizer
from trueplex.report.trace_page import render, write_page
from trueplex.report.trace_pieces import heaviest_ids, pieces, traces_of
from trueplex.report.trace_text import body, print_trace
from trueplex.types import Steps, Trace

TOKENIZER = load_tokenizer("reference")


def written(text: str, width: int = 3, explores: tuple[int, ...] = ()) -> Trace:
    """A trace that emits this text; the given steps have another word in slot 1."""
    first = np.array(TOKENIZER(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    ids = np.repeat(first[:, None], width, 1)
    for at in explores:
        ids[at, 1] = (ids[at, 0] + 1) % 500
    n = len(first)
    weights = np.full((n, width), 1 / width, dtype=np.float32)
    floats = np.linspace(0, 1, n).astype(np.float32)
    trace = stored_trace()
    trace.steps = Steps(ids, weights, np.zeros_like(weights), floats, floats)
    trace.tokens, trace.thinking_tokens, trace.scores = n, n, [(max(1, n // 2), 0.25), (n, 0.75)]
    return trace


@given(st.text(max_size=40))
def test_the_pieces_of_a_trace_are_its_text(text: str) -> None:
    trace = written(text + ".")
    whole = TOKENIZER.decode(trace.steps.ids[:, 0].tolist(), skip_special_tokens=False)
    assert "".join(p.text for p in pieces(trace, TOKENIZER)) == whole


def test_a_piece_knows_what_its_step_weighed() -> None:
    trace = written("12+3=15", explores=(2,))
    found = pieces(trace, TOKENIZER)
    assert [p.explores for p in found] == [i == 2 for i in range(len(found))]
    assert found[0].candidates == ((found[0].text, pytest.approx(1.0)),)  # equal words are summed
    assert [w for _, w in found[2].candidates] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    half = len(found) // 2
    assert found[0].score is None and found[half].score == 0.25 and found[-1].score == 0.75


def test_lines_under_the_text_stand_under_their_words() -> None:
    found = pieces(written("12+3=15\n15-3=12 ok\n" + "9" * 90, explores=(0,)), TOKENIZER)
    lines = [line.plain for line in body(found, 40, 1.0)]
    assert len(lines) % 3 == 0 and all(len(line) <= 40 for line in lines)
    texts, entropies, scores = lines[::3], lines[1::3], lines[2::3]
    assert all(len(a) == len(b) == len(c) for a, b, c in zip(texts, entropies, scores, strict=True))
    assert "".join(t[2:] for t in texts).replace("⏎", "") == "12+3=1515-3=12 ok" + "9" * 90
    assert entropies[-1][-1] == "█" and scores[-1][-1] == "▇" and scores[0][2] == " "


def test_print_tells_the_outcome_and_candidates_on_demand() -> None:
    trace = written("1+1=2", explores=(1,))
    told = []
    for wanted in (False, True):
        console = Console(record=True, width=80)
        print_trace(console, trace, pieces(trace, TOKENIZER), wanted)
        told.append(console.export_text())
    assert "answer 4 (right), score 0.75" in told[0] and "1 explored" in told[0]
    assert "0.67" not in told[0] and "0.67" in told[1] and "0.33" in told[1]


def test_the_page_is_self_contained_escaped_and_has_two_safe_colours() -> None:
    right, wrong = written("<script>alert(1)</script>"), written("1<2 & 3", explores=(0,))
    wrong.correct, wrong.index, wrong.answer = False, 1, "<b>"
    page = render([right, wrong], TOKENIZER)
    assert "<script" not in page and "&lt;b&gt;" in page
    assert not re.search(r"""(src|href)\s*=\s*["']https?:|@import|url\(http""", page)
    assert "var(--one)" in page and "var(--two)" in page and "stroke-dasharray" in page
    assert "1 of 2 graded traces is right." in page and "prefers-color-scheme: dark" in page
    assert page.count('class="t x') == 1 and page.count("<details") == 2
    plain = render([stored_unscored()], TOKENIZER)
    assert "<svg" not in plain  # nothing to draw without scores


def stored_unscored() -> Trace:
    trace = written("1+1=2")
    trace.scores = []
    return trace


def test_matplotlib_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"trueplex\[plot\]"):
        render([written("1+1=2")], TOKENIZER)


def test_wrong_problems_tokenizers_and_full_disks_are_said(tmp_path: Path) -> None:
    store = open_store(tmp_path / "t.arrow")
    store.append([to_row(stored_trace(), (1,), Origin("m", "another", "{}"))])
    with pytest.raises(StoreError, match="traces of tokenizer another"):
        traces_of(tmp_path / "t.arrow", "1", "reference")
    with pytest.raises(InputError, match="holds 1 problems, and problem is '2'"):
        traces_of(tmp_path / "t.arrow", "2", "reference")
    with pytest.raises(StoreError, match="cannot write"):
        write_page(Path("/proc/nowhere/p.html"), [written("1")], TOKENIZER)


def test_show_from_the_command_line(tmp_path: Path, trueplex) -> None:
    """As a user does it: solve, save, show, and a page."""
    problem = "Ann has 3 apples. Ann buys 4 more. How many apples are there now?"
    save, page = str(tmp_path / "t.arrow"), tmp_path / "t.html"
    assert trueplex("solve", problem, "--paths", "3", "--save", save, "--quiet")[0] == 0
    code, shown, _ = trueplex("show", save, "--trace", "2", "--candidates")
    assert code == 0 and "trace 2, seed 0" in shown and "</think>" in shown
    assert trueplex("show", save, "--html", str(page))[0] == 0 and page.read_text().count("<details") == 3
    code, _, missing = trueplex("show", save, "--trace", "9")
    assert code == 2 and "no trace 9" in missing


def test_a_merged_step_shows_its_heaviest_token_and_the_record_keeps_slot_0() -> None:
    steps = written("123").steps
    assert steps is not None and len(steps) == 3
    first = steps.ids[:, 0].tolist()
    steps.ids[1, 1:] = (first[1] + 1) % 500  # two of three slots agree against slot 0
    steps.ids[2, 1] = (first[2] + 1) % 500
    steps.weights[2] = (0.4, 0.3, 0.3)
    steps.ids[2, 2] = (first[2] + 2) % 500
    assert heaviest_ids(steps) == [first[0], (first[1] + 1) % 500, first[2]]
    assert steps.ids[:, 0].tolist() == first


@pytest.mark.parametrize("path", ["/", ".", "n" * 300])
def test_what_is_no_store_is_one_line(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trueplex) -> None:
    """Neither the root nor ``.`` has a name that another could be made from."""
    monkeypatch.chdir(tmp_path)
    code, _, told = trueplex("show", path, "--html", "page.html")
    assert code == 2 and told.count("\n") == 1 and "Try: " in told


def test_problems_are_found_by_the_order_of_their_file_or_by_id_and_marked(tmp_path: Path, trueplex) -> None:
    file, save = tmp_path / "p.jsonl", tmp_path / "t.jsonl"
    rows = [
        (f"Ann has {n} apples. Ann buys 4 more. How many apples are there now?", f"q-{n}", str(n + 4)) for n in (3, 2)
    ]
    file.write_text("".join(json.dumps({"problem": p, "id": i, "answer": a}) + "\n" for p, i, a in rows))
    code, out, _ = trueplex(
        "solve", f"@{file}", "--paths", "2", "--save", str(save), "--quiet", "--model", "reference-multiplex"
    )
    assert code == 0 and "✓ right" in out
    assert about(save).model == "reference-multiplex"  # so `show` needs no --model
    beside = save.with_name("t.jsonl.about.json")
    for which, text in (("1", rows[0][0]), ("2", rows[1][0]), ("q-2", rows[1][0])):
        code, shown, told = trueplex("show", str(save), "--problem", which)
        assert code == 0 and text in " ".join(shown.split()) and ("right: 0" in told or "wrong: 0" in told)
    code, _, told = trueplex("show", str(save), "--problem", "q-9")
    assert code == 2 and "an id such as q-3, q-2" in told
    for damaged in ('{"model": 3, "problems": []}', '{"model": "reference", "problems": ["1"]}', "["):
        beside.write_text(damaged)
        code, _, told = trueplex("show", str(save), "--model", "reference-multiplex")
        assert code == 0 and "problems are in the order of their traces" in told
