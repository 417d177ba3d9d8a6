"""The few objects that travel through the pipeline. Plain data: numpy, no torch.

A `Problem` becomes a `Prompt`; the engine grows a `Trace` per path; a selector turns the traces
into a `Solution`. Each stage only adds to what the stage before made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from html import escape
from typing import Any

import numpy as np

from trueplex.errors import InputError


class Status(str, Enum):
    """Where a trace stands. ``finished``: it ended by itself; ``truncated``: a limit ended it."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    TRUNCATED = "truncated"


@dataclass(slots=True, frozen=True)
class Problem:
    """A question, and the answers that count as right where they are known.

    Raises:
        InputError: the text is empty, or something is not valid Unicode.
    """

    text: str
    id: str = ""
    answers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("the problem is empty. Try: give some text, '-' or @FILE.jsonl")
        told = (("the problem", self.text), ("its id", self.id), *(("an answer", one) for one in self.answers or ()))
        for what, text in told:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(f"{what} is not valid Unicode at character {error.start}. Try: give UTF-8") from error

    @property
    def key(self) -> int:
        """64-bit name of the text: randomness belongs to it, so the batch around it cannot matter."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=8).digest(), "little")


@dataclass(slots=True, frozen=True)
class Prompt:
    """A problem as the token ids that the model reads, up to the first thought.

    ``thinking`` says where the prompt leaves it: ``open`` (the template opened it, so the first token thinks), ``closed``
    (every token is answer), ``model`` (the model may open it itself; until it does, what it writes is answer) or
    ``untagged`` (the model has no thinking tags).
    """

    problem: Problem
    ids: tuple[int, ...]
    text: str
    thinking: str = "open"


@dataclass(slots=True)
class Usage:
    """Tokens spent. One count per forward row: nothing twice, nothing free (law 9).

    ``prompt_tokens`` counts a problem's prompt as often as it was prefilled: once, and again where traces start in
    rounds.
    ``saved_tokens`` estimates what pruned traces did not spend: the mean length of the
    problem's finished traces less what each pruned trace had spent, never below 0.
    """

    prompt_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    probe_tokens: int = 0
    saved_tokens: int = 0


@dataclass(slots=True, eq=False, repr=False)
class Steps:
    """What a trace remembers of its T steps of width K; all arrays share the first axis.

    ids [T, K] int32, weights [T, K] float32, logps [T, K] float32 (log-probability of each id under
    the full softmax at its phase's temperature, before filters and noise), entropy [T] float32 in nats
    of that softmax, confidence [T] float32: DeepConf's token confidence, minus the mean
    log-probability of the 20 most likely tokens at temperature 1.
    An answer-phase step has weight 1 in slot 0; its other slots repeat slot 0 with weight 0.
    """

    ids: np.ndarray
    weights: np.ndarray
    logps: np.ndarray
    entropy: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Steps: {len(self)} of width {self.ids.shape[1]}>"

    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.ids, self.weights, self.logps, self.entropy, self.confidence

    def first(self, count: int) -> Steps:
        """The first steps."""
        return Steps(*(array[:count] for array in self.arrays()))

    @property
    def consensus(self) -> np.ndarray:
        """[T] bool: every slot that has weight holds the same id. The other steps explore."""
        return ((self.ids == self.ids[:, :1]) | (self.weights == 0)).all(1)

    @property
    def joint_entropy(self) -> np.ndarray:
        """[T] float32: K · H where K ids were drawn, H where one was (Multiplex Thinking, section 3).

        Of K independent draws, that is: soft thinking draws none, and K draws without replacement have less.
        """
        drawn = (self.weights > 0).sum(1)
        return (self.entropy * drawn).astype(np.float32)


@dataclass(slots=True, eq=False, repr=False)
class Trace:
    """One path of reasoning for one problem, from the end of the prompt to its stop.

    ``tokens`` counts its steps; ``thinking_tokens`` those up to and including ``</think>``.
    ``closing`` says what closed its thinking: ``model``, ``prompt``, ``thinking budget``, ``cold stop``, or nothing
    yet; ``reason`` what stopped it. ``trust`` is ``trusted``, ``doubted`` or ``uncertain`` for a finished trace whose score
    was calibrated; it is not stored, as it belongs to the calibration; nor is ``request``, the id of the request that it runs for,
    nor ``found``, how its answer was found (see `grading.kinds`). ``scores`` are (token count, score) pairs in order; ``steps`` is
    filled when the trace stops, or is suspended to be resumed later.
    """

    problem: Problem
    index: int
    seed: int
    status: Status = Status.RUNNING
    reason: str = ""
    closing: str = ""
    tokens: int = 0
    thinking_tokens: int = 0
    probe_tokens: int = 0
    scores: list[tuple[int, float]] = field(default_factory=list)
    steps: Steps | None = None
    text: str = ""
    answer: str | None = None
    correct: bool | None = None
    trust: str | None = None
    request: int = 0
    found: str = ""

    @property
    def score(self) -> float | None:
        """The latest score, or None when nothing has scored the trace."""
        return self.scores[-1][1] if self.scores else None

    @property
    def answer_tokens(self) -> int:
        return self.tokens - self.thinking_tokens

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score {self.score:.2f}"
        right = {True: ", right", False: ", wrong", None: ""}[self.correct]
        return f"<Trace {self.index}: {self.status.value}, {self.tokens} tokens, answer {_short(self.answer)}{score}{right}>"


@dataclass(slots=True, frozen=True)
class Stop:
    """The decision that a running trace is to stop, whoever made it: a policy, an alarm, a budget or a cancellation."""

    trace: Trace
    status: Status
    reason: str


@dataclass(slots=True, frozen=True)
class Vote:
    """One group of equal answers: its spelling, its summed weight, and how many paths gave it."""

    answer: str
    weight: float
    paths: int


@dataclass(slots=True, frozen=True)
class Alarmed:
    """An alarm that rang: where (trace index, tokens), what it stopped, and why."""

    index: int
    tokens: int
    stopped: str
    why: str


@dataclass(slots=True, repr=False)
class Solution:
    """What a problem's traces came to.

    Attributes:
        answer: None when no trace gave one, or when the run abstained.
        confidence: the calibrated probability that the leading answer is right; None where no calibration covers the run.
        agreement: the share of all traces, unanswered and pruned ones among them, that gave the leading answer.
        state: ``answered``, ``uncertain`` (there is a leading answer, and the run was asked not to give one that is this
            doubtful) or ``none`` (no trace came to an answer).
        alarms: those that were raised on this problem.
    """

    problem: Problem
    answer: str | None
    confidence: float | None
    agreement: float
    votes: list[Vote]
    traces: list[Trace]
    usage: Usage
    seconds: float
    config: dict[str, Any]
    state: str = "answered"
    alarms: list[Alarmed] = field(default_factory=list)

    def __repr__(self) -> str:
        sure = "" if self.confidence is None else f", confidence {self.confidence:.2f}"
        votes = self.votes[0].paths if self.votes else 0
        return f"<Solution {_short(self.answer)}: {self.state}, {votes} of {len(self.traces)} paths agree{sure}, {self.seconds:.1f} s>"

    def _repr_html_(self) -> str:
        """For notebooks: the problem, the answer, the vote and the paths with their scores."""
        rows = [("answer", "weight", "paths"), *((v.answer, f"{v.weight:.2f}", str(v.paths)) for v in self.votes[:8])]
        paths = [("path", "ended", "tokens", "score", "answer")] + [
            (str(t.index), t.status.value, str(t.tokens), "" if t.score is None else f"{t.score:.2f}", t.answer or "–")
            for t in self.traces[:32]
        ]
        sure = f"confidence {self.confidence:.2f}" if self.confidence is not None else "not calibrated"
        head = f"<p>{escape(self.problem.text)}</p><p><b>{escape(self.answer or self.state)}</b> ({100 * self.agreement:.0f} % of the paths agree, {sure})</p>"
        return f"<div>{head}{_table(rows)}<details><summary>{len(self.traces)} paths</summary>{_table(paths)}</details></div>"

    @property
    def abstained(self) -> bool:
        """Whether there is an answer that was not given, as the run was asked."""
        return self.state == "uncertain"


def _short(text: str | None) -> str:
    return "None" if text is None else repr(text if len(text) <= 40 else f"{text[:40]}…")


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as an HTML table, the first one its head."""
    head, *body = (["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in
                    zip(("th", *["td"] * len(rows)), rows, strict=False)])  # fmt: skip
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"
