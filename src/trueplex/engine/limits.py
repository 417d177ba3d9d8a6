"""When a trace's thinking is closed for it, and when the trace is stopped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import StopStringCriteria

from trueplex.errors import OptionError

DEFAULT_COLD_STEPS = 256  # the published length; the published threshold is 0.01


@dataclass(frozen=True)
class Ending:
    """The limits of one trace, besides the model's own end of sequence.

    Attributes:
        max_tokens: most tokens of thinking and answer together; None is the model's own limit.
        think_tokens: ``</think>`` is written as this thinking token at the latest. What max_tokens
            leaves is kept for the answer, also where the model's positions shorten the trace.
        cold_entropy: cold stop (Soft Thinking): after ``cold_steps`` consecutive thinking steps whose
            entropy, in nats, is below this, ``</think>`` replaces the last one's token.
        stop: a trace ends when its emitted text ends in one of these strings, wherever token boundaries fall.
        max_seconds: a trace is stopped this long after it was admitted.

    Raises:
        OptionError: a value is out of range, or has no effect.
    """

    max_tokens: int | None = None
    think_tokens: int | None = None
    cold_entropy: float | None = None
    cold_steps: int | None = None
    stop: tuple[str, ...] = ()
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_tokens", "think_tokens", "cold_entropy", "cold_steps", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise OptionError(f"{name.replace('_', '-')} is {value}. Try: a positive number")
        if self.cold_steps is not None and self.cold_entropy is None:
            raise OptionError("cold-steps has no effect without a cold-entropy. Try: give one, or drop cold-steps")
        if self.think_tokens and self.max_tokens and self.think_tokens >= self.max_tokens:
            raise OptionError(
                f"think-tokens {self.think_tokens} leaves no answer within max-tokens {self.max_tokens}. "
                "Try: lower it or raise max-tokens"
            )
        if not all(self.stop):
            raise OptionError("a stop string is empty. Try: drop it")

    @property
    def closes(self) -> bool:
        """Whether thinking may be closed from outside, which takes a model with ``</think>``."""
        return self.think_tokens is not None or self.cold_entropy is not None

    def most(self, default: int) -> int:
        """Most tokens of a trace, of a model whose own limit is `default`."""
        return self.max_tokens or default

    def limits(self, remaining: np.ndarray, default: int) -> tuple[np.ndarray, np.ndarray]:
        """Most tokens, and the step at which thinking is closed, of traces with so many `remaining` positions [B].

        Raises:
            OptionError: think_tokens leaves no answer within the model's own limit.
        """
        most = self.most(default)
        if self.think_tokens is not None and self.think_tokens >= most:
            raise OptionError(f"think-tokens {self.think_tokens} leaves no answer within the model's {most} tokens. "
                              "Try: lower it or give max-tokens")  # fmt: skip
        limits = np.minimum(most, remaining)
        if self.think_tokens is None:
            return limits, np.full_like(limits, np.iinfo(np.int64).max)
        for_answer = most - self.think_tokens
        return limits, np.maximum(1, np.minimum(self.think_tokens, limits - for_answer))

    @property
    def most_cold_steps(self) -> int:
        """Steps of low entropy that close the thinking; with no cold stop, more than there are."""
        if self.cold_entropy is None:
            return np.iinfo(np.int64).max
        return self.cold_steps or DEFAULT_COLD_STEPS

    def cold_run(self, entropy: np.ndarray) -> int:
        """The run of low entropy at the end of a suspended trace; entropy is [T] in nats."""
        if self.cold_entropy is None:
            return 0
        high = np.flatnonzero(entropy >= self.cold_entropy)
        return len(entropy) - (int(high[-1]) + 1 if len(high) else 0)


class StopStrings:
    """Which rows of emitted ids end in a stop string."""

    def __init__(self, tokenizer: Any, strings: tuple[str, ...]) -> None:
        self.tokenizer, self.strings = tokenizer, strings

    @cached_property
    def _criteria(self) -> StopStringCriteria:
        return StopStringCriteria(self.tokenizer, list(self.strings))

    @property
    def reach(self) -> int:
        """How many last tokens must be looked at: a token has at least one character, or byte."""
        return max((len(s.encode()) for s in self.strings), default=0)

    def ended(self, ids: Tensor) -> np.ndarray:
        """ids [B, reach] of the last emitted tokens, −1 where there is none yet → [B] bool."""
        # Beyond the vocabulary stands a token that matches nothing.
        outside = torch.where(ids < 0, torch.iinfo(torch.int32).max, ids.long())
        return self._criteria(outside, None).cpu().numpy()
