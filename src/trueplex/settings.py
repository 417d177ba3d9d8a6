"""What a run is asked to do, and what it effectively did: options in, configuration out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from trueplex import policy, vote
from trueplex.backbone import Backbone
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.store import Origin

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


def thinking_options(thinking: Thinking) -> dict[str, Any]:
    """How traces think, defaults filled in; options that do not act in the mode are None."""
    stochastic = thinking.mode == "stochastic-soft"
    return {
        "thinking": thinking.mode,
        "width": thinking.k,
        "merge": thinking.merge_kind,
        "replacement": thinking.replacement if thinking.mode == "multiplex" else None,
        "noise": thinking.noise_kind,
        "strength": (thinking.strength or 1.0) if stochastic else None,
        "sampling": asdict(thinking.sampling),
        "answer_sampling": asdict(thinking.answering),
        "ending": asdict(thinking.ending),
    }


def origin(thinking: Thinking, backbone: Backbone) -> Origin:
    """What is stored with every trace of a run."""
    return Origin(backbone.fingerprint, backbone.tokenizer_fingerprint, json.dumps(thinking_options(thinking)))


def configuration(settings: Settings, backbone: Backbone) -> dict[str, Any]:
    """The effective configuration, defaults filled in, as stored beside every result (law 10)."""
    thinking = settings.thinking
    return {
        "model": backbone.name,
        "fingerprint": backbone.fingerprint,
        "device": str(backbone.device),
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "paths": settings.paths,
        **thinking_options(thinking),
        "max_tokens": thinking.ending.max_tokens or backbone.default_max_tokens,
        "verifier": settings.verifier,
        "prune": settings.prune,
        "select": settings.select,
        "probe_every": settings.probe_every,
        "seed": settings.seed,
    }
