"""A damaged store costs the records that the damage lies in: none is lost in silence, none is read wrongly."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from conftest import stored_trace
from trueplex.data.messages import BATCH, Message, is_intact, messages
from trueplex.data.traces import Origin, Row, from_row, open_store, read, read_traces, to_row
from trueplex.errors import StoreError

SOURCE = Origin("m", "t", "{}")
FORMS = pytest.mark.parametrize("name", ["t.arrow", "t.jsonl"])
OLD = Path(__file__).parent / "version-0.2"  # the traces 0 to 3 as version 0.2 wrote them, two a batch


def add(path: Path, *indices: int) -> None:
    """Append traces, all in one batch."""
    store = open_store(path)
    store.append([to_row(stored_trace(i), (1, 2), SOURCE) for i in indices])
    store.close()


def plain(rows: list[Row]) -> list[str]:
    return [json.dumps({k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}) for row in rows]


def indices(path: Path) -> list[int]:
    return [row["index"] for row in read(path, ("index",))]


def batches(path: Path) -> list[tuple[int, int]]:
    """Where each batch (or line) begins and ends."""
    if path.suffix == ".jsonl":
        ends = [i + 1 for i, byte in enumerate(path.read_bytes()) if byte == 10]
        return list(zip([0, *ends], ends, strict=False))
    with path.open("rb") as file:
        found = [m for m in messages(file, path.stat().st_size, lambda m: True) if isinstance(m, Message)]
    return [(m.at, m.end) for m in found if m.header.kind == BATCH]


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[str], tuple[Path, bytes, list[str], list[tuple[int, int]]]]:
    """A store of four batches of two traces (or eight lines), its content, its records, and where its batches are."""

    def make(name: str) -> tuple[Path, bytes, list[str], list[tuple[int, int]]]:
        path = tmp_path / name
        for i in range(0, 8, 2):
            add(path, i, i + 1)
        return path, path.read_bytes(), plain(list(read(path))), batches(path)

    return make


@FORMS
def test_any_one_flipped_bit_costs_at_most_the_batch_that_it_lies_in(name: str, damaged, said: list[str]) -> None:
    path, content, records, where = damaged(name)
    each = len(records) // len(where)
    rng = random.Random(0)
    bits = [rng.randrange(len(content) * 8) for _ in range(500)]
    bits += [8 * at + rng.randrange(8) for begin, end in where for at in (*range(begin, begin + 16), end - 2, end - 1)]
    bits += range(0, 8 * where[0][0], 37)  # the schema
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        said.clear()
        found = plain(list(read(path)))
        hit = next((i for i, (begin, end) in enumerate(where) if begin <= bit // 8 < end), None)
        others = [r for i, r in enumerate(records) if i // each != hit]
        assert found in (others, records), f"bit {bit}"
        assert found == records or len(said) == 1, f"bit {bit}: lost in silence"


@FORMS
def test_cut_and_damaged_at_random_all_whole_records_are_read_and_nothing_is_cut_but_the_tail(
    name: str, damaged, said: list[str]
) -> None:
    path, content, records, where = damaged(name)
    each, beside = len(records) // len(where), path.with_name(path.name + ".damaged")
    rng = random.Random(1)
    for _ in range(60):
        size, begin = rng.randrange(where[1][1], len(content)), rng.randrange(where[0][0], where[1][1] - 1)
        broken = bytearray(content[:size])
        broken[begin : begin + 20] = rng.randbytes(20)  # within the first two batches
        path.write_bytes(broken)
        beside.unlink(missing_ok=True)
        # A line is whole without its end.
        clean = [
            i for i, (a, b) in enumerate(where) if (b <= begin or a >= begin + 20) and b - (name == "t.jsonl") <= size
        ]
        whole = [r for i, r in enumerate(records) if i // each in clean]
        assert [r for r in plain(list(read(path))) if r in whole] == whole
        add(path, 99)
        kept = beside.read_bytes() if beside.exists() else b""
        now = path.read_bytes()
        last = where[max(clean)][1] if clean else 0
        assert now.startswith(broken[:last]) and (now + kept).count(broken[last:]) >= 1  # no byte is gone
        found = plain(list(read(path)))
        assert [r for r in found if r in whole] == whole and indices(path)[-1] == 99


def test_a_flipped_bit_in_the_middle_costs_two_records_and_not_the_rest(damaged, said: list[str]) -> None:
    """Opening a store of 320 rows for `solve --save` cut it to the 13 before a flipped bit, without a word."""
    path, content, _, where = damaged("t.arrow")
    at = (where[1][0] + where[1][1]) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    broken = path.read_bytes()
    add(path, 8)
    assert path.read_bytes().startswith(broken) and not said
    assert indices(path) == [0, 1, 4, 5, 6, 7, 8]
    assert said == [f"{path}: 2 records are lost at byte {where[1][0]} ({where[1][1] - where[1][0]} bytes are damaged); "
                    "all other records are read"]  # fmt: skip
    said.clear()
    assert len(list(read_traces(path))) == 7 and len(said) == 1  # read twice, said once


def test_bytes_that_are_missing_or_too_many_cost_no_batch_behind(damaged, said: list[str]) -> None:
    path, content, _, where = damaged("t.arrow")
    at = where[1][0] + 901
    path.write_bytes(content[:at] + content[at + 13 :])
    assert indices(path) == [0, 1, 4, 5, 6, 7] and "2 records are lost" in said[0]
    path.write_bytes(content[: where[1][0]] + b"\xff" * 21 + content[where[1][0] :])
    assert indices(path) == list(range(8)) and "no record is lost" in said[1]
    path.write_bytes(content[: where[1][0]] + content[where[2][0] :])  # a whole batch is gone without a trace
    assert indices(path) == [0, 1, 4, 5, 6, 7] and "2 records are lost" in said[2]


def test_a_tail_that_was_cut_off_is_kept_beside_and_told(damaged, said: list[str]) -> None:
    path, content, _, where = damaged("t.arrow")
    path.write_bytes(content[:-100])
    assert indices(path) == [0, 1, 2, 3, 4, 5] and "was cut off" in said[0]
    add(path, 8)
    beside = path.with_name("t.arrow.damaged")
    assert beside.read_bytes() == content[where[3][0] : -100]
    assert said[1:] == [
        f"{path}: its last batch was cut off; its {len(beside.read_bytes())} bytes are moved to t.arrow.damaged"
    ]
    assert indices(path) == [0, 1, 2, 3, 4, 5, 8] and len(said) == 2
    path.write_bytes(path.read_bytes()[:-9])  # and once more: what is beside is only added to
    add(path, 9)
    assert beside.read_bytes().startswith(content[where[3][0] : -100]) and indices(path)[-1] == 9


def test_a_damaged_last_batch_that_is_all_there_is_not_cut(damaged, said: list[str]) -> None:
    path, content, _, _ = damaged("t.arrow")
    path.write_bytes(content[:-50] + bytes(50))
    add(path, 8)
    assert path.read_bytes()[: len(content)] == content[:-50] + bytes(50)
    assert indices(path) == [0, 1, 2, 3, 4, 5, 8]
    assert len(said) == 1 and "2 records are lost" in said[0] and not path.with_name("t.arrow.damaged").exists()


def test_a_damaged_number_of_records_does_not_break_what_is_appended(damaged, said: list[str]) -> None:
    path, content, _, where = damaged("t.arrow")
    begin, end = where[3]
    for at in range(begin + 8, begin + 700, 8):  # the header, where the number is one of these
        path.write_bytes(content[:at] + (1 << 60).to_bytes(8, "little") + content[at + 8 :])
        add(path, 8)
        add(path, 9)
        assert indices(path) == [0, 1, 2, 3, 4, 5, 8, 9]
    assert said and not [told for told in said if re.search(r"\d{9} records", told)]
    path.write_bytes(content[: end - 50] + bytes(50))
    said.clear()
    assert indices(path) == [0, 1, 2, 3, 4, 5] and "at least 2 records are lost" in said[0]


def test_a_damaged_schema_costs_nothing(damaged, said: list[str]) -> None:
    path, content, records, where = damaged("t.arrow")
    path.write_bytes(bytes(where[0][0]) + content[where[0][0] :])
    assert plain(list(read(path))) == records and "no record is lost" in said[0]
    add(path, 8)
    assert indices(path) == list(range(9))


def test_two_lines_that_run_into_each_other_are_both_read(damaged, said: list[str]) -> None:
    path, content, records, where = damaged("t.jsonl")
    end = where[2][1] - 1
    path.write_bytes(content[:end] + b"\x0b" + content[end + 1 :])
    assert plain(list(read(path))) == records
    path.write_bytes(content[: end - 30] + b"#" * 31 + content[end + 1 :])
    assert plain(list(read(path))) == records[:2] + records[3:] and "line 3 " in said[-1]


def test_many_damaged_lines_are_told_once_with_a_count(damaged, said: list[str]) -> None:
    path, content, _, _ = damaged("t.jsonl")
    path.write_bytes(content.replace(b'"seed": 9', b'"seed": 8'))
    assert list(read(path)) == [] and len(said) == 2 and "8 of its lines" in said[1]


def test_a_line_that_another_program_wrote_anew_is_read_and_a_changed_one_is_not(damaged, said: list[str]) -> None:
    path, content, records, _ = damaged("t.jsonl")
    rows = [json.loads(line) for line in content.splitlines()]
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    assert plain(list(read(path))) == records and not said
    path.write_text(json.dumps(rows[0] | {"correct": False}, separators=(",", ":")) + "\n")
    assert list(read(path)) == [] and "is damaged" in said[0]


@FORMS
def test_files_of_version_0_2_are_read_and_appended_to(name: str, tmp_path: Path, said: list[str]) -> None:
    path = tmp_path / name
    shutil.copy(OLD / name, path)
    assert [from_row(row)[0].steps.ids.tolist() for row in read(path)] == [
        stored_trace(i).steps.ids.tolist() for i in range(4)
    ]
    old = path.read_bytes()
    add(path, 4, 5)
    assert path.read_bytes().startswith(old) and indices(path) == list(range(6)) and not said
    if name == "t.arrow":
        assert pa.ipc.open_stream(path).read_all()["index"].to_pylist() == list(range(6))
        where = batches(path)
        path.write_bytes(old[: where[0][0] + 900] + bytes(400) + path.read_bytes()[where[0][0] + 1300 :])
        assert indices(path) == [2, 3, 4, 5] and "2 records are lost" in said[0]


def test_other_readers_of_arrow_read_undamaged_files(damaged) -> None:
    path, content, _, where = damaged("t.arrow")
    assert datasets.Dataset.from_file(str(path))["index"][:] == list(range(8))
    reader = pa.ipc.open_stream(path)
    metadata = [reader.read_next_batch_with_custom_metadata()[1] for _ in where]
    assert [int(m[b"trueplex"].split(b":")[2]) for m in metadata] == [0, 2, 4, 6]
    assert all(is_intact(content[a:b]) and not is_intact(content[a : b - 1] + b"\x01") for a, b in where)


def test_a_stream_of_another_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    table = pa.table({"problem": ["2+2?"] * 3})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    before = path.read_bytes()
    for act in (lambda: open_store(path), lambda: list(read(path))):
        with pytest.raises(StoreError, match="written by another version"):
            act()
    assert path.read_bytes() == before and not path.with_name("t.arrow.lock").exists()


def test_an_end_mark_does_not_hide_what_is_appended_behind_it(damaged) -> None:
    """A stream that another program closed has one."""
    path, content, _, _ = damaged("t.arrow")
    path.write_bytes(content + b"\xff\xff\xff\xff\x00\x00\x00\x00")
    add(path, 8)
    assert indices(path) == list(range(9)) and pa.ipc.open_stream(path).read_all().num_rows == 9


@FORMS
def test_a_second_run_does_not_append_to_an_open_store(name: str, tmp_path: Path) -> None:
    store = open_store(tmp_path / name)
    store.append([to_row(stored_trace(0), (1, 2), SOURCE)])
    with pytest.raises(StoreError, match="is in use by this process"):
        open_store(tmp_path / name)
    code = f"from trueplex.data.traces import open_store; open_store({str(tmp_path / name)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "is in use by process" in done.stderr
    assert indices(tmp_path / name) == [0]  # reading needs no lock
    store.close()
    add(tmp_path / name, 1)
    assert indices(tmp_path / name) == [0, 1] and [p.name for p in tmp_path.iterdir()] == [name]
    subprocess.run([sys.executable, "-c", code], check=True)  # not closed: given back at exit
    assert [p.name for p in tmp_path.iterdir()] == [name]


@FORMS
def test_a_store_may_be_a_device(name: str, tmp_path: Path) -> None:
    for device in ("null", "full"):
        (tmp_path / device).mkdir()
        (tmp_path / device / name).symlink_to(f"/dev/{device}")
    add(tmp_path / "null" / name, 0)
    with pytest.raises(StoreError, match="No space left"):
        add(tmp_path / "full" / name, 0)


def test_a_disk_that_fails_while_a_store_is_read_is_one_line() -> None:
    with pytest.raises(StoreError, match=r"cannot read /proc/self/mem \(Input/output error\)\. Try:"):
        list(read("/proc/self/mem"))
