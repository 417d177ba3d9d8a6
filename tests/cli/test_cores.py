"""How many CPU threads a command takes where nobody says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trueplex.cli import cores


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine of four cores, all idle, without limits, on which torch would take all."""
    before = torch.get_num_threads()
    for name in cores.SAYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(cores.psutil, "cpu_percent", lambda interval, percpu: [0.0] * 4)
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_an_idle_machine_is_taken_whole(caplog: pytest.LogCaptureFixture) -> None:
    cores.take_free_cores()
    assert torch.get_num_threads() == 4
    assert not caplog.records


@pytest.mark.parametrize(("work", "left"), [([99.0, 0, 3, 1], 3), ([99.0, 97, 0, 0], 2), ([99.0] * 4, 1)])
def test_busy_cores_are_left_to_those_who_work_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, work: list[float], left: int
) -> None:
    monkeypatch.setattr(cores.psutil, "cpu_percent", lambda interval, percpu: work)
    with caplog.at_level(logging.WARNING):
        cores.take_free_cores()
    assert torch.get_num_threads() == left
    assert f"CPU threads: {left}, as {4 - left if left > 1 else 4} of 4 cores are busy" in caplog.text
    assert "--threads 4" in caplog.text


def test_busy_cores_that_are_not_ours_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {2, 3})
    monkeypatch.setattr(cores.psutil, "cpu_percent", lambda interval, percpu: [99.0, 99.0, 0.0, 0.0])
    cores.take_free_cores()
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("text", "most"), [("150000 100000\n", 2), ("max 100000\n", 4), ("50000 100000", 1), ("?", 4)])
def test_a_container_s_quota_is_kept(text: str, most: int) -> None:
    cores.QUOTA.write_text(text)
    cores.take_free_cores()
    assert torch.get_num_threads() == most


@pytest.mark.parametrize("name", cores.SAYS)
def test_who_has_chosen_is_not_overruled(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "4")
    monkeypatch.setattr(cores.psutil, "cpu_percent", lambda interval, percpu: [99.0] * 4)
    cores.take_free_cores()
    assert torch.get_num_threads() == 4
