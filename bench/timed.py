"""Run a command of trueplex, and keep what it took: seconds, those of the CPU, and its peak memory.

    python bench/timed.py --out runs/real/times/verifier-m1.json train verifier --model ./my-model …

A command that was interrupted and run again has its seconds added up; its peak is the highest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from trueplex.files import write_json

GIB = 2**30


def run(*arguments: str) -> tuple[int, dict[str, float]]:
    """The command's exit code, and what it took."""
    print("trueplex", *arguments, flush=True)
    started = time.perf_counter()
    child = os.posix_spawn(sys.executable, [sys.executable, "-m", "trueplex", *arguments], dict(os.environ))
    # Ctrl-C reaches the child as well, which ends in its own time; a scheduler's SIGTERM reaches this process alone.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda n, _: os.kill(child, n))
    try:
        _, status, usage = os.wait4(child, 0)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return os.waitstatus_to_exitcode(status), {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(peak / GIB, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    code, took = run(*given.arguments)
    before = json.loads(given.out.read_text()) if given.out.exists() else dict.fromkeys(took, 0.0)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: round(before[name] + took[name], 1) for name in ("seconds", "cpu_seconds")}
    write_json(given.out, whole | {"peak_gib": max(before["peak_gib"], took["peak_gib"])}, indent=1)
    sys.exit(code)


if __name__ == "__main__":
    main()
