"""A server's settings: its limits, and who may use it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trueplex.errors import OptionError

MOST_BODY = 1 << 20


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves; what it is asked for is in `trueplex.serve.wire`.

    Attributes:
        name: what clients call the model; None is the model's own name.
        defaults: options of requests that say nothing else, by the names of the body's ``trueplex`` object.
        verifiers: scorers that need files and that clients may name, beside ``auto``; those that need none are always allowed.
        seed: of requests that give none; None draws one for each, which the answer tells.
        rows: most paths decoded together; None is the device's own number.
        max_paths, max_width, max_tokens, max_prompt_tokens: of one request; None is what the model holds.
        max_stops: stop strings of one request, each of at most `MOST_STOP` characters.
        max_body: bytes.
        max_waiting: requests that may wait for rows; the next one gets 429.
        max_seconds: of one request; what has finished then is voted on.
        keys: API keys, any of which opens the server; none leaves it open.
        metrics_open: whether ``/metrics`` needs no key.
        origins: of browsers' pages that may ask (CORS).
        log_text: whether the access log holds what users wrote and what they got.

    Raises:
        OptionError: a limit is not positive.
    """

    name: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    verifiers: tuple[str, ...] = ()
    seed: int | None = 0
    rows: int | None = None
    max_paths: int = 64
    max_width: int = 16
    max_tokens: int | None = None
    max_prompt_tokens: int | None = None
    max_stops: int = 16
    max_body: int = MOST_BODY
    max_waiting: int = 256
    max_seconds: float = 600.0
    keys: tuple[str, ...] = ()
    metrics_open: bool = False
    origins: tuple[str, ...] = ()
    log_text: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "max_paths", "max_width", "max_tokens", "max_prompt_tokens", "max_body", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"{name.replace('_', '-')} is {value}. Try: a positive number")


MOST_STOP = 256  # characters of a stop string
