"""What a run is asked to do, and what it effectively did: options in, configuration out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from trueplex import policy, vote
from trueplex.backbone import Backbone
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError

DEFAULT_STRIDE = 32  # tokens between looks at the traces when nothing asks for a finer cadence


@dataclass(slots=True, frozen=True)
class Settings:
    """What a run is asked to do; validated whole, before any token is spent.

    ``select`` None is weighted with a scorer and majority without; ``rows`` None is the device's own.

    Raises:
        OptionError: a value is out of range, or an option could not act in this combination.
    """

    paths: int = 16
    thinking: Thinking = field(default_factory=Thinking)
    verifier: str = "auto"
    prune: str = "none"
    select: str | None = None
    seed: int = 0
    probe_every: int = DEFAULT_STRIDE
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise OptionError(f"paths is {self.paths}; mend: at least 1")
        if self.probe_every < 1:
            raise OptionError(f"probe-every is {self.probe_every}; mend: at least 1")
        if self.select is not None:
            vote.selector(self.select)
        parsed = policy.parse(self.prune)
        if self.verifier == "none" and parsed.rules:
            raise OptionError(f"pruning {self.prune!r} needs scores; mend: --prune none, or give a verifier")
        if self.verifier == "none" and self.select not in (None, "majority"):
            raise OptionError(f"selecting by {self.select!r} needs scores; mend: --select majority, or give a verifier")


def configuration(settings: Settings, backbone: Backbone) -> dict[str, Any]:
    """The effective configuration, defaults filled in, as stored beside every result (law 10)."""
    thinking = settings.thinking
    return {
        "model": backbone.name,
        "fingerprint": backbone.fingerprint,
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "paths": settings.paths,
        "thinking": thinking.mode,
        "width": thinking.k,
        "merge": (thinking.merge or "weighted") if thinking.mode == "multiplex" else None,
        "sampling": asdict(thinking.sampling),
        "answer_sampling": asdict(thinking.answering),
        "max_tokens": thinking.max_tokens or backbone.default_max_tokens,
        "verifier": settings.verifier,
        "prune": settings.prune,
        "select": settings.select,
        "probe_every": settings.probe_every,
        "seed": settings.seed,
    }
