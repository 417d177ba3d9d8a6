"""A scorer from a function of one's own: it gets texts, and gives each a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from trueplex.engine.look import Look
from trueplex.engine.probing import ProbeColumn
from trueplex.errors import OptionError
from trueplex.grading.calls import careful, spelled
from trueplex.verify.readers.transcript import Transcript
from trueplex.verify.stored import Stored, tokens_at


class ScoreFunction(Protocol):
    """Scores traces by their texts, many at once; a TRL reward function whose values are in [0, 1] is one, too."""

    def __call__(self, prompts: list[str], completions: list[str], /) -> Sequence[float]:
        """A score in [0, 1] for each of the completions, which are what paths have written so far for these problems."""


class FunctionScorer:
    """The Scorer of a `ScoreFunction`, live and stored; what it reads costs no tokens of the model.

    Raises:
        OptionError: the function failed, or gave anything else than a number from 0 to 1 for each text.
    """

    probe: ProbeColumn | None = None
    fingerprint: str | None = None
    bounded = True

    def __init__(self, function: ScoreFunction, transcript: Transcript, every: int = 32) -> None:
        self.function, self.transcript, self.every = function, transcript, every

    def __call__(self, look: Look) -> Sequence[float] | None:
        texts = [self.transcript.text(steps.ids[:, 0].tolist(), tags=True) for steps in look.steps()]
        return self._scores([trace.problem.text for trace in look.traces], texts)

    def score_shares(self, stored: Sequence[Stored], shares: Sequence[float]) -> np.ndarray:
        """Scores [traces, shares] when the given shares of each trace were written."""
        whole = [(trace.problem.text, trace.steps.ids[:, 0].tolist()) for trace, _ in stored if trace.steps is not None]
        texts = [
            self.transcript.text(ids[: tokens_at(len(ids), share)], tags=True) for _, ids in whole for share in shares
        ]
        prompts = [prompt for prompt, _ in whole for _ in shares]
        return np.array(self._scores(prompts, texts)).reshape(len(whole), len(shares))

    def cost(self, look: Look) -> int:
        return 0

    def _scores(self, prompts: list[str], texts: list[str]) -> list[float]:
        name = spelled(self.function)
        told = careful(self.function, "verifier")(prompts, texts)
        try:
            scores = [float(score) for score in told]
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"the verifier {name!r} gave no numbers ({error}). Try: return a list with one for each text"
            ) from error
        if len(scores) != len(texts):
            raise OptionError(
                f"the verifier {name!r} gave {len(scores)} scores for {len(texts)} texts. Try: one for each"
            )
        if wrong := [score for score in scores if not 0 <= score <= 1]:
            raise OptionError(f"the verifier {name!r} gave {wrong[0]}. Try: a number from 0 to 1")
        return scores
