"""The progress of long jobs, on standard error."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Traces done, tokens a second and time left, on standard error."""

    def __init__(self, total: int, quiet: bool) -> None:
        columns = (
            TextColumn("traces"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
        self.bar = self.progress.add_task("", total=total, rate="")
        self.started, self.tokens = time.monotonic(), 0

    def __enter__(self) -> Bar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def step(self, traces: int, tokens: int) -> None:
        self.tokens += tokens
        self.progress.update(
            self.bar, advance=traces, rate=f"{self.tokens / (time.monotonic() - self.started):.0f} tokens/s"
        )
