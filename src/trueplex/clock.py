"""The clock that limits of time are held against: this process's own, or, where several run one model, the first one's."""

from __future__ import annotations

import time
from collections.abc import Callable

_clock: list[Callable[[], float]] = [time.monotonic]


def now() -> float:
    """Seconds since some moment, never falling."""
    return _clock[0]()


def follow(clock: Callable[[], float]) -> None:
    """Read another clock from here on."""
    _clock[0] = clock
