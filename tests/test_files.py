"""Files that appear whole or not at all, locks that stop a second run, and JSON that is checked when it is read."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file

from trueplex import locks as locking
from trueplex.errors import StoreError
from trueplex.files import read_json, write_bytes, write_json, write_text, write_with, writing
from trueplex.locks import lock, locks
from trueplex.stamps import stamped


def test_a_file_is_written_whole_with_its_folders_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.json"
    write_json(path, {"x": [1, 2]}, indent=1)
    assert json.loads(path.read_text()).items() >= {"x": [1, 2]}.items() and path.read_text().endswith("}\n")
    assert read_json(path, dict[str, Any]) == {"x": [1, 2]}
    path.chmod(0o640)
    write_text(path, "é")
    assert path.read_bytes() == "é".encode() and path.stat().st_mode & 0o777 == 0o640
    write_with(path.with_suffix(".safetensors"), lambda temporary: save_file({"w": torch.ones(2)}, temporary))
    assert sorted(p.name for p in path.parent.iterdir()) == ["c.json", "c.safetensors"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a bug"), OSError(28, "No space left on device")])
def test_what_was_there_stays_when_a_write_fails(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("before")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(StoreError if isinstance(error, OSError) else error if isinstance(error, type) else type(error)):
        write_with(path, write)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_symlink_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("there", "not-yet"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "there").write_text("before")
    for name in ("there", "not-yet"):
        write_text(tmp_path / name, "after")
        assert (tmp_path / name).is_symlink() and (tmp_path / "disk" / name).read_text() == "after"


def test_devices_and_pipes_are_written_into_and_never_replaced(tmp_path: Path) -> None:
    """As root, `show --html /dev/full` replaced the device by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(10)
    assert read == [b"through"] and pipe.is_fifo()
    write_text("/dev/null", "gone")
    with pytest.raises(StoreError, match=r"cannot write /dev/full \(No space left on device\)\. Try: free some space"):
        write_text("/dev/full", "too much")
    assert Path("/dev/full").is_char_device() and Path("/dev/null").is_char_device()


def test_standard_output_in_a_file_keeps_what_was_printed_before(tmp_path: Path) -> None:
    code = "from trueplex.files import write_text; print('one', flush=True); write_text('/dev/stdout', 'two\\n')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "Is a directory"),
        (".", "give the name of a file"),
        ("n" * 300, "File name too long"),
        ("file/below", "a file is where a folder should be"),
        ("null\0byte", "null byte"),
        ("circle", "form a loop"),
        ("half \ud800", "cannot write"),
        ("/proc/nowhere/x", "cannot write"),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("circle").symlink_to("circle")
    for act in (lambda: write_text(name, "x"), lambda: write_with(name, lambda t: save_file({}, t))):
        with pytest.raises(StoreError) as stop:
            act()
        assert says in str(stop.value) and "Try: " in str(stop.value) and "\n" not in str(stop.value)
    str(stop.value).encode()
    assert sorted(os.listdir()) == ["circle", "file"]


def test_a_text_with_half_a_character_is_not_written(tmp_path: Path) -> None:
    """A page showed a name that is not UTF-8, and its writer raised; JSON hid it in an escape, which no reader took."""
    write_text(tmp_path / "x", "before")
    for write, content in ((write_text, "caf\udce9"), (write_json, {"name": "caf\udce9"})):
        with pytest.raises(
            StoreError, match=r"cannot write .*x \(.*surrogates not allowed\)\. Try: give valid Unicode$"
        ):
            write(tmp_path / "x", content)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x").chmod(0o500)
    if os.access(tmp_path / "x", os.W_OK):  # root may write everywhere
        pytest.skip("this user may write into read-only folders")
    with pytest.raises(StoreError, match="Permission denied"):
        write_text(tmp_path / "x" / "y", "z")


@pytest.mark.parametrize("writer", ["safetensors", "torch"])
def test_a_disk_that_is_full_for_weights_is_one_line(writer: str, tmp_path: Path) -> None:
    """safetensors raises an error of its own, torch a RuntimeError."""
    weights = {"w": torch.ones(1000)}

    def write(temporary: Path) -> None:
        temporary.symlink_to("/dev/full")
        if writer == "torch":
            torch.save(weights, temporary)
        else:
            from safetensors import SafetensorError

            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(StoreError, match=r"cannot write .*w\.bin.*Try: ") as stop:
        write_with(tmp_path / "w.bin", write)
    assert "\n" not in str(stop.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(27, "File too large"),
                                   RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0")])  # fmt: skip
def test_what_a_library_cannot_write_is_one_line(error: Exception, tmp_path: Path) -> None:
    """A checkpoint of transformers on a full disk was a traceback, by whichever library wrote it."""
    with pytest.raises(StoreError, match=r"cannot write .*Try: "), writing(tmp_path):
        raise error
    for other in (RuntimeError("a bug"), FileNotFoundError(2, "No such file"), StoreError("as it is")):
        with pytest.raises(type(other), match=f"^{other}$".replace("[", r"\[")), writing(tmp_path):
            raise other


# -- locks --------------------------------------------------------------------------------------------------------

HOLD = "import sys, time; from trueplex.locks import lock; l = lock(sys.argv[1]); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "t.arrow")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_stops_and_says_who_holds_the_lock(holder: subprocess.Popen, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"t\.arrow is in use by process {holder.pid} on .+, since \d{{4}}-.*Try: "):
        lock(tmp_path / "t.arrow")
    (tmp_path / "link").symlink_to("t.arrow")
    with pytest.raises(StoreError, match="in use"):
        lock(tmp_path / "link")
    holder.kill()
    holder.wait()
    with lock(tmp_path / "t.arrow"):  # the side file of a killed run is no lock
        assert (tmp_path / "t.arrow.lock").exists()
    assert not (tmp_path / "t.arrow.lock").exists()


def test_a_lock_is_given_back_by_release_by_garbage_and_at_exit(tmp_path: Path) -> None:
    for _ in range(2):
        with lock(tmp_path / "out", folder=True), pytest.raises(StoreError, match="in use by this process"):
            lock(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    lock(tmp_path / "x")  # nobody keeps it
    lock(tmp_path / "x").release()
    code = "import sys; from trueplex.locks import lock; l = lock(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_of_many_that_want_a_lock_one_at_a_time_has_it(tmp_path: Path) -> None:
    """Side files are removed on release: nobody may end up with a lock on one that is gone."""
    inside, most, got = [0], [0], [0]

    def want() -> None:
        for _ in range(100):
            try:
                with lock(tmp_path / "x"):
                    inside[0] += 1
                    time.sleep(1e-4)  # another thread's turn
                    most[0] = max(most[0], inside[0])
                    got[0] += 1
                    inside[0] -= 1
            except StoreError:
                pass

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and got[0] > 0 and list(tmp_path.iterdir()) == []


def test_a_side_file_that_is_removed_while_it_is_being_locked_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last holder removes it between our opening and our locking of it: the next run would find no lock."""
    import fcntl

    real, left = fcntl.flock, [tmp_path / "x.lock"]

    def flock(handle: int, how: int) -> None:
        if left:
            left.pop().unlink()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(tmp_path / "x"), pytest.raises(StoreError, match="in use by this process"):
        lock(tmp_path / "x")


def test_without_file_locks_that_is_said_once_and_runs_go_on(
    said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "fcntl":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(locking, "_said", set())
    with lock(tmp_path / "x"), lock(tmp_path / "x"):
        pass
    assert len(said) == 1 and "cannot be locked" in said[0]


def test_a_place_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("file/below/x", "n" * 300, "/proc/nowhere/x", "null\0byte"):
        with pytest.raises(StoreError, match=r"cannot write .* Try: "):
            lock(tmp_path / name)
    lock("/dev/null").release()


# -- reading ------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    name: str
    share: float


@dataclass
class State:
    step: int
    parts: list[Part]
    by: dict[str, float] = field(default_factory=dict)
    mode: Literal["a", "b"] = "a"
    note: str | None = None
    best: Part | None = None


GOOD = {"step": 3, "parts": [{"name": "x", "share": 1}], "by": {"y": 0.5}, "best": {"name": "z", "share": 0.5}}


def test_a_state_file_is_read_as_its_type(tmp_path: Path) -> None:
    write_json(tmp_path / "s.json", GOOD | {"of a later version": 1})
    assert read_json(tmp_path / "s.json", State) == State(3, [Part("x", 1.0)], {"y": 0.5}, best=Part("z", 0.5))
    assert read_json(tmp_path / "s.json", dict[str, Any])["step"] == 3
    write_json(tmp_path / "n.json", [2**64 - 1, -(2**63)])  # the names of problems have 64 bits and no sign
    assert read_json(tmp_path / "n.json", list[int]) == [2**64 - 1, -(2**63)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "step is missing"),
        ("[]", "the whole is []"),
        (json.dumps(GOOD)[:-3], "not valid JSON"),
        ("", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        (json.dumps(GOOD | {"step": "3"}), 'step is "3"'),
        (json.dumps(GOOD | {"step": True}), "step is true"),
        (json.dumps(GOOD | {"step": 2**64}), "more than 64 bits"),
        (json.dumps(GOOD | {"by": {"y": float("nan")}}), "NaN is not a finite number"),
        (json.dumps(GOOD | {"by": {"y": 10**400}}), "more than 64 bits"),
        (json.dumps(GOOD).replace("0.5", "1e999"), "1e999 is not a finite number"),
        (json.dumps(GOOD | {"mode": "c"}), 'mode is "c"'),
        (json.dumps(GOOD | {"parts": [{"name": "x"}]}), "parts[0].share is missing"),
        (json.dumps(GOOD | {"best": {"name": 1, "share": 1}}), "best.name is 1"),
        (json.dumps(stamped(GOOD)).replace("0.5", "0.4"), "its checksum does not match"),
        (json.dumps(stamped(GOOD)).replace('"y"', '"z"'), "its checksum does not match"),
        (json.dumps(GOOD | {"checksum": None}), "its checksum does not match"),
        ('{"step": ' + "1" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_state_file_of_anything_else_is_one_line(content: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StoreError) as stop:
        read_json(tmp_path / "s.json", State)
    assert says in str(stop.value) and "Try: " in str(stop.value) and "\n" not in str(stop.value)


def test_a_checksum_survives_what_leaves_the_values(tmp_path: Path) -> None:
    """Another program may have written it with other spaces, or in another order."""
    whole = stamped(GOOD)
    # The last: a flipped bit in the name of the checksum itself left one more field.
    for text in (
        json.dumps(whole, indent=4),
        json.dumps(dict(reversed(whole.items()))),
        json.dumps(whole).replace('"checksum"', '"checkstm"'),
    ):
        (tmp_path / "s.json").write_text(text)
        assert read_json(tmp_path / "s.json", dict[str, Any]) == GOOD


def test_what_works_in_a_folder_works_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @locks("out")
    def work(out: Path | None, within: Any = None) -> Any:
        return within and within()

    assert work(tmp_path / "x", lambda: 3) == 3 and work(None, lambda: work(None)) is None
    with pytest.raises(StoreError, match="in use by this process"):
        work(tmp_path / "x", lambda: work(tmp_path / "x"))
    whole = locks("out", side=".whole.lock")(
        lambda out: work(out, lambda: 4)
    )  # of works that lock the folder themselves
    with lock(tmp_path / "x", True, ".whole.lock"), pytest.raises(StoreError, match="x is in use by this process"):
        whole(tmp_path / "x")
    assert whole(tmp_path / "x") == 4 and list((tmp_path / "x").iterdir()) == []
    monkeypatch.setenv("RANK", "1")  # the first of several processes holds the lock for all
    work(tmp_path / "x", lambda: work(tmp_path / "x"))


def test_a_state_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for name in ("nothing.json", ".", "n" * 300):
        with pytest.raises(StoreError, match=r"cannot read .* Try: "):
            read_json(tmp_path / name, State)
