"""Stores that lose nothing and survive a kill at any byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import stored_trace
from trueplex.data.arrow import STEPS
from trueplex.data.traces import Origin, from_row, open_store, read, read_traces, to_row
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.errors import StoreError
from trueplex.solving.settings import origin
from trueplex.types import Status, Trace

SOURCE = Origin("model", "tokenizer", "{}")
FORMS = pytest.mark.parametrize("name", ["t.jsonl", "t.arrow"])


def equal(a: Trace, b: Trace) -> bool:
    arrays = all(
        np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a.steps.arrays(), b.steps.arrays(), strict=True)
    )
    return arrays and all(getattr(a, n) == getattr(b, n) for n in Trace.__slots__ if n != "steps")


def write(path: Path, traces: list[Trace], batch: int = 1) -> None:
    store = open_store(path)
    rows = [to_row(t, (1, 2, 3), SOURCE) for t in traces]
    for first in range(0, len(rows), batch):
        store.append(rows[first : first + batch])
    store.close()


@FORMS
def test_traces_lose_nothing_and_stores_are_gone_on_with(said: list[str], name: str, tmp_path: Path) -> None:
    traces = [stored_trace(i) for i in range(4)] + [stored_trace(4, None, None)]
    write(tmp_path / name, traces[:3], batch=2)
    write(tmp_path / name, traces[3:])
    back = list(read_traces(tmp_path / name))
    assert len(back) == 5 and not said
    assert all(equal(a, b) and ids == (1, 2, 3) for a, (b, ids) in zip(traces, back, strict=True))


@FORMS
def test_cut_off_at_any_byte_all_whole_records_are_read_and_the_rest_is_said(
    said: list[str], name: str, tmp_path: Path
) -> None:
    path, ends = tmp_path / name, []
    for i in range(3):
        write(path, [stored_trace(i)])
        ends.append(path.stat().st_size)
    content = path.read_bytes()
    near = {at + by for at in (0, *ends) for by in range(-12, 13)}  # every byte near a border, every fifth between
    for size in sorted({*range(0, len(content), 5), *near} & set(range(len(content)))):
        path.write_bytes(content[:size])
        said.clear()
        rows = list(read(path))
        # A line is whole without its newline, a batch only with its last byte.
        whole = sum(size >= end - (name == "t.jsonl") for end in ends)
        assert len(rows) == whole and all(equal(from_row(r)[0], stored_trace(i)) for i, r in enumerate(rows))
        at_a_record = size in {0, *ends, *(e - 1 for e in ends if name == "t.jsonl")} or (rows == [] and not said)
        assert bool(said) != at_a_record
        if size % 97 == 0:  # and it can be gone on with
            write(path, [stored_trace(7)])
            assert equal(list(read_traces(path))[-1][0], stored_trace(7))
            assert len(list(read(path))) == whole + 1


@FORMS
def test_a_full_disk_keeps_whole_records_and_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / name, [stored_trace(0)])
    before = (tmp_path / name).read_bytes()
    store = open_store(tmp_path / name)
    real = store._file

    class Filling:
        def write(self, data: bytes) -> int:
            if len(data) > 40:
                return real.write(data[:40])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    store._file = Filling()
    with pytest.raises(StoreError, match="No space left"):
        store.append([to_row(stored_trace(1), (1,), SOURCE)])
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.slow
def test_a_kill_in_the_midst_of_writing_leaves_whole_records(tmp_path: Path) -> None:
    """A real process, killed by the system while it appends as fast as it can."""
    code = """
import sys; sys.path.insert(0, sys.argv[2])
from conftest import stored_trace
from trueplex.data.arrow import STEPS
from trueplex.data.traces import Origin, open_store, to_row
store, n = open_store(sys.argv[1]), 0
while True:
    store.append([to_row(stored_trace(n), (1, 2), Origin("m", "t", "{}"))])
    n += 1
    print(n, flush=True)
"""
    path = tmp_path / "t.arrow"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(Path(__file__).parents[1])], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) >= 20:
            break
    process.kill()
    process.wait()
    rows = list(read(path))
    assert len(rows) >= 20 and all(equal(from_row(r)[0], stored_trace(i)) for i, r in enumerate(rows))


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    path.write_bytes(b"a letter to my aunt" * 20)
    with pytest.raises(StoreError, match="not a store of traces"):
        open_store(path)
    assert path.read_bytes() == b"a letter to my aunt" * 20
    with pytest.raises(StoreError, match="cannot read"):
        list(read(tmp_path / "nothing.arrow"))


def test_a_broken_line_is_named_and_the_others_are_read(said: list[str], tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write(path, [stored_trace(0)])
    path.write_bytes(path.read_bytes() + b'{"problem": "2+\n')
    write(path, [stored_trace(1)])
    assert len(list(read_traces(path))) == 2
    assert len(said) == 1 and "line 2" in said[0]


def test_a_later_record_of_a_trace_stands_for_an_earlier_one(tmp_path: Path) -> None:
    begun = stored_trace(1)
    begun.status = Status.RUNNING
    write(tmp_path / "t.arrow", [begun, stored_trace(0), stored_trace(1)])
    assert [(t.index, t.status.value) for t, _ in read_traces(tmp_path / "t.arrow")] == [
        (0, "finished"), (1, "finished"),
    ]  # fmt: skip


def test_traces_of_another_model_or_tokenizer_are_refused(qwen, tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", [stored_trace(0)])
    with pytest.raises(StoreError, match="traces of model model"):
        list(read_traces(tmp_path / "t.jsonl", origin(Thinking(), qwen)))
    with pytest.raises(StoreError, match="traces of tokenizer"):
        list(read_traces(tmp_path / "t.jsonl", Origin("model", "other", "{}")))


def test_pandas_reads_the_columns(tmp_path: Path) -> None:
    import pandas
    import pyarrow

    write(tmp_path / "t.arrow", [stored_trace(i) for i in range(3)], batch=2)
    frame = pyarrow.ipc.open_stream(tmp_path / "t.arrow").read_pandas()
    assert list(frame["index"]) == [0, 1, 2] and frame["ids"].iloc[0].dtype == np.int32
    write(tmp_path / "t.jsonl", [stored_trace(i) for i in range(3)])
    assert list(pandas.read_json(tmp_path / "t.jsonl", lines=True)["tokens"]) == [5, 5, 5]


def test_origin_tells_how_the_trace_was_thought(qwen) -> None:
    told = origin(Thinking("stochastic-soft", noise="dirichlet", ending=Ending(9)), qwen).thinking
    assert '"noise": "dirichlet"' in told and '"max_tokens": 9' in told and '"merge": null' in told


def test_long_traces_are_stored_one_by_one_and_short_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a file cut off loses one trace of a real model, and a small model's file stays small."""
    from trueplex.solving import rollouts

    class Counting:
        def __init__(self) -> None:
            self.batches: list[int] = []

        def append(self, rows: list) -> None:
            self.batches.append(len(rows))

        def close(self) -> None: ...

    row = to_row(stored_trace(), (1, 2), SOURCE)
    long = row | {"ids": np.zeros(rollouts.BATCH_BYTES // 4, np.int32)}
    clock = iter(range(1000))
    monkeypatch.setattr(rollouts.time, "monotonic", lambda: next(clock) * 1e-6)
    store = Counting()
    writer = rollouts._Writer(store)
    for some in (row, row, long, long, row):
        writer.add(some)
    assert store.batches == [3, 1]
    monkeypatch.setattr(rollouts.time, "monotonic", lambda: 10.0)
    writer.add(row)
    assert store.batches == [3, 1, 2]


def test_the_numbers_of_every_step_are_read_as_arrays_and_nothing_else_is(tmp_path: Path) -> None:
    store = open_store(tmp_path / "t.arrow")
    store.append([to_row(stored_trace(i), [1, 2], Origin("m", "t", "o")) for i in range(2)])
    store.close()
    rows, steps = list(read(tmp_path / "t.arrow")), stored_trace(1).steps
    assert {name for name, value in rows[1].items() if isinstance(value, np.ndarray)} == set(STEPS)
    assert steps is not None and (rows[1]["ids"] == steps.ids.ravel()).all() and rows[1]["prompt_ids"] == [1, 2]
    assert [row["ids"].base for row in read(tmp_path / "t.arrow", ("ids",))] == [
        None,
        None,
    ]  # no view of the whole batch
