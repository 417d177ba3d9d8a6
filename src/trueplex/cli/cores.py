"""How many CPU threads a command takes when nobody says: the cores that it may use, less those at which others work.

Threads of PyTorch wait for one another at every operation, and one that shares its core with another job holds up all of
them: `generate` of a small model took 106 s with two threads beside a busy job, and 2.1 s with one.
"""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import psutil

log = logging.getLogger(__name__)

SAYS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # a user who sets one of these has chosen
QUOTA = Path("/sys/fs/cgroup/cpu.max")
LOOK = 0.1  # seconds in which it is seen who works
BUSY = 50.0  # per cent of them


def take_free_cores() -> None:
    """Give PyTorch no more threads than there are free cores, and say so where others are busy."""
    import torch

    if any(os.environ.get(name) for name in SAYS):
        return
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    threads = most = min(torch.get_num_threads(), len(usable), quota())
    if most > 1:
        work = psutil.cpu_percent(LOOK, percpu=True)
        busy = sum(core < len(work) and work[core] > BUSY for core in usable)
        threads = max(1, min(most, len(usable) - busy))
    if threads < most:
        log.warning(
            f"CPU threads: {threads}, as {busy} of {len(usable)} cores are busy with other work. Try: --threads {most} for all"
        )
    if threads != torch.get_num_threads():  # setting it starts torch's pool anew, which a forked process cannot
        torch.set_num_threads(threads)


def quota() -> int:
    """How many cores a container may keep busy; a number beyond any machine's where nothing limits it."""
    try:
        most, _, period = QUOTA.read_text().partition(" ")
        return 2**16 if most == "max" else max(1, math.ceil(int(most) / int(period)))
    except (OSError, ValueError):  # another system, or another kind of cgroup
        return 2**16
