"""Scores that need no training: DeepConf's confidences (arXiv 2508.15260), log-probability, entropy.

They read what every step remembers, so live and stored traces are scored by the same function. Higher is
better in all of them. Spelled ``deepconf``, ``deepconf:KIND@WINDOW``, ``logprob`` or ``entropy``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trueplex.engine.look import Look
from trueplex.engine.probing import ProbeColumn
from trueplex.errors import OptionError
from trueplex.types import Status, Steps, Trace
from trueplex.verify.stored import Stored, tokens_at

WINDOW = 2048  # tokens of a DeepConf group, as published
LOWEST_SHARE = 0.1  # of the groups, for ``bottom``


def groups(confidence: np.ndarray, window: int) -> np.ndarray:
    """Group confidences: sliding means over `window` tokens [T − window + 1], or the one mean of a shorter trace."""
    if len(confidence) <= window:
        return confidence.mean(keepdims=True)
    summed = np.concatenate([[0.0], np.cumsum(confidence, dtype=np.float64)])
    return (summed[window:] - summed[:-window]) / window


def _lowest_mean(confidence: np.ndarray, window: int) -> float:
    found = np.sort(groups(confidence, window))
    return float(found[: max(1, int(LOWEST_SHARE * len(found)))].mean())


KINDS: dict[str, Callable[[np.ndarray, int], float]] = {
    "mean": lambda confidence, window: float(confidence.mean()),
    "tail": lambda confidence, window: float(confidence[-window:].mean()),
    "bottom": _lowest_mean,
    "lowest": lambda confidence, window: float(groups(confidence, window).min()),
}


@dataclass(frozen=True, slots=True)
class Confidence:
    """A score of a trace's first tokens.

    ``deepconf``: mean of the token confidences over all tokens (``mean``), the last WINDOW (``tail``), the
    lowest tenth of all groups (``bottom``) or the lowest group (``lowest``), unbounded above.
    ``logprob``: the geometric mean of the emitted ids' probabilities; ``entropy``: exp(−mean entropy); in [0, 1].

    Raises:
        OptionError: an unknown kind, a window below 1, or one that acts on nothing.
    """

    name: str = "deepconf"
    kind: str = "tail"
    window: int = WINDOW

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"unknown DeepConf kind {self.kind!r}. Try: one of {', '.join(KINDS)}")
        if self.window < 1:
            raise OptionError(f"the DeepConf window is {self.window}. Try: at least 1 token")

    def __call__(self, steps: Steps, tokens: int | None = None) -> float:
        """The score after `tokens` tokens, or all."""
        return self.of(self.values(steps)[:tokens])

    def values(self, steps: Steps) -> np.ndarray:
        """What is read of every step [T] float32."""
        return steps.logps[:, 0] if self.name == "logprob" else getattr(steps, "entropy" if self.name == "entropy" else "confidence")  # fmt: skip

    def of(self, values: np.ndarray) -> float:
        """The score of a trace of whose steps this was read [T]."""
        if self.name == "logprob":
            return float(np.exp(values.mean()))
        if self.name == "entropy":
            return float(np.exp(-values.mean()))
        return KINDS[self.kind](values, self.window)


def parse(text: str) -> Confidence | None:
    """The score that the text names; None when it names none of these.

    Raises:
        OptionError: malformed, or an option where it could not act.
    """
    name, _, options = text.partition(":")
    if name in ("logprob", "entropy"):
        if options:
            raise OptionError(f"{name} takes no options. Try: --verifier {name}")
        return Confidence(name)
    if name != "deepconf":
        return None
    kind, at, window = (options or "tail").partition("@")
    if at and not window.isdecimal():
        raise OptionError(f"malformed {text!r}. Try: deepconf:KIND@WINDOW, e.g. deepconf:tail@2048")
    if at and kind == "mean":
        raise OptionError("the mean over all tokens has no window. Try: deepconf:mean")
    return Confidence(name, kind, int(window) if at else WINDOW)


def highest(name: str) -> float:
    """The highest score that the scorer of that name can give: DeepConf's confidences alone have no upper end."""
    return math.inf if name.startswith("deepconf") else 1.0


class ConfidenceScorer:
    """The Scorer that reads confidences of live traces; it needs no probe and no extra token.

    Of a running trace it keeps the one number a step that it scores by, and asks for those of new steps alone.
    """

    probe: ProbeColumn | None = None
    fingerprint: str | None = None

    def __init__(self, score: Confidence, every: int = 32) -> None:
        self.score, self.every = score, every
        self._read: dict[int, tuple[Trace, np.ndarray]] = {}  # by id: running traces, and what was read of their steps

    def __call__(self, look: Look) -> Sequence[float] | None:
        none = np.zeros(0, dtype=np.float32)
        before = [self._read.get(id(trace), (trace, none))[1][: trace.tokens] for trace in look.traces]
        new = look.steps([len(values) for values in before])
        values = [np.concatenate([old, self.score.values(steps)]) for old, steps in zip(before, new, strict=True)]
        self._read |= {id(trace): (trace, own) for trace, own in zip(look.traces, values, strict=True)}
        self._read = {key: read for key, read in self._read.items() if read[0].status is Status.RUNNING}
        return [self.score.of(own) for own in values]

    @property
    def bounded(self) -> bool:
        return self.score.name != "deepconf"

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares] when the given shares of each trace were written."""
        every = [t.steps for t, _ in stored if t.steps is not None]
        return np.array([[self.score(steps, tokens_at(len(steps), share)) for share in shares] for steps in every])

    def cost(self, look: Look) -> int:
        """Nothing is read that the decode loop has not read already."""
        return 0
