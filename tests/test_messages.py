"""How a command ends: what is refused is one line and exit code 2, whichever entry point it is."""

from __future__ import annotations

import runpy
import sys
import threading
from pathlib import Path

import pytest

from trueplex.messages import exit_code


@pytest.mark.parametrize(
    ("module", "arguments", "says"),
    [
        ("trueplex.train.tagged", ["--model", "nowhere", "--rollouts", "r", "--out", "out"], "'nowhere'"),
        ("trueplex.train.tagged", ["--model", "m", "--rollouts", "r", "--out", "o", "--lr", "nan"], "lr is nan"),
        ("trueplex.reference.build", ["--base", "nowhere"], "cannot load model 'nowhere'"),
        ("trueplex.reference.build", ["--policy", "nowhere"], "cannot read nowhere/adapter_config.json"),
        ("trueplex.reference.build", ["--verifier", "nowhere"], "cannot use nowhere/adapter_config.json"),
        ("trueplex.reference.pretrain", ["--out", "file/below"], "cannot use file/below"),
        ("trueplex.cli.main", ["verifier", "list", "x" * 5000], "(File name too long). Try: choose a shorter name"),
        ("trueplex.cli.main", ["serve", "--host", "\udcff"], "\\udcff is not valid Unicode"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_what_is_refused_is_one_line(
    module: str, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    monkeypatch.setattr("trueplex.models.load.reference_path", lambda *name: tmp_path / "ships")
    monkeypatch.setattr(sys, "argv", ["trueplex", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(module, run_name="__main__")
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("trueplex: ")]
    assert stop.value.code == 2 and len(said) == 1 and says in said[0] and "Try: " in said[0], said


def test_only_what_is_refused_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the program itself is raised, with all that says where it is."""
    monkeypatch.setattr(sys, "argv", ["trueplex"])
    for fault in (ValueError("x"), OSError(5, "Input/output error"), ConnectionRefusedError(111, "Connection refused")):

        def work(fault: Exception = fault) -> None:
            raise fault

        with pytest.raises(type(fault)):
            exit_code(work)


def test_a_thread_that_cannot_write_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorBoard writes in a thread of its own, which ended with a traceback when the disk was full."""
    monkeypatch.setattr(sys, "argv", ["trueplex"])
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    def work() -> None:
        for error in (OSError(27, "File too large"), ValueError("a fault")):

            def fail(error: Exception = error) -> None:
                raise error

            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()

    assert exit_code(work) == 0
    said = capfd.readouterr().err
    assert said.startswith("trueplex: cannot write a file (File too large). Try: ")
    assert said.count("Traceback") == 1 and said.endswith("ValueError: a fault\n")
