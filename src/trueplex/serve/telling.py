"""A solution → what clients get: the chosen path, its text, usage, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trueplex.grading.kinds import Grouping
from trueplex.models.backbone import Backbone
from trueplex.serve.asking import Asked
from trueplex.serve.words import whole
from trueplex.solving.told import as_dict
from trueplex.types import Solution, Status, Trace

Likeliest = tuple[np.ndarray, np.ndarray]  # ids and log-probabilities [n, k] of the most likely tokens of an answer's n


@dataclass(slots=True, frozen=True)
class Choice:
    """One answer: a path, and how it reads. Without a path (none was begun within the budget) it is empty."""

    index: int
    trace: Trace | None
    thinking: str | None
    answer: str | None
    answer_at: list[int]
    refusal: str | None = None

    @property
    def finish(self) -> str:
        return "stop" if self.refusal or (self.trace and self.trace.status is Status.FINISHED) else "length"


def choices_of(backbone: Backbone, asked: Asked, solution: Solution) -> list[Choice]:
    """The answers that a client gets: each path where it asked for several, else the path that speaks for the vote."""
    traces: list[Trace | None] = (
        [*solution.traces] if asked.choices > 1 else [chosen(solution, asked.settings.kind.group)]
    )
    traces += [None] * (asked.choices - len(traces))
    apart = asked.prompting is not None
    refusal = None
    if solution.state == "uncertain" and asked.choices == 1:
        known = "agreement" if solution.confidence is None else "confidence"
        value = solution.agreement if solution.confidence is None else solution.confidence
        refusal = f"no answer is given because its {known}, {value:.3f}, is below the requested threshold"
    found = []
    for index, trace in enumerate(traces):
        thinking, answer, at = whole(backbone, asked.prompt, trace, asked.stops, apart) if trace else ("", "", [])
        found.append(Choice(index, trace, thinking or None, None if refusal else answer, at, refusal))
    return found


def chosen(solution: Solution, group: Grouping) -> Trace | None:
    """The best path of those that agree with the vote; without a vote, the best of those that finished, or of all."""
    finished = [t for t in solution.traces if t.status is Status.FINISHED]
    voting = [t for t in finished if t.answer is not None]
    if solution.votes:
        alike = group([solution.votes[0].answer, *(t.answer or "" for t in voting)])[0]
        agreeing = [voting[i - 1] for i in alike if i]
        pool = agreeing or voting
    else:
        pool = finished or solution.traces
    best = min(pool, key=lambda t: (-(t.score if t.score is not None else -np.inf), t.index), default=None)
    # Of paths with one text the first: the last digits of their scores depend on what else was in the batch.
    return best and min((t for t in pool if t.text == best.text), key=lambda t: t.index)


def usage_of(backbone: Backbone, asked: Asked, solution: Solution) -> dict[str, Any]:
    """The prompt, and what all paths spent. A model without thinking tags reasons in its answer, and none of it apart.

    The prompt counts once. How often it was read is in the solution's own usage: that depends on how many paths could
    enter together, and so on what else the server did.
    """
    usage, prompt = solution.usage, len(asked.prompt.ids)
    completion = usage.thinking_tokens + usage.answer_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens if backbone.markers else 0},
    }


def told(asked: Asked, solution: Solution) -> dict[str, Any]:
    """The object of `trueplex solve --json`, with how the problem was put."""
    found = as_dict(solution, solution.problem)
    if asked.prompting is not None:
        found["config"]["prompt"] = asdict(asked.prompting)
    return found


def summary(asked: Asked, solution: Solution) -> dict[str, Any]:
    """The ``trueplex`` object of a response: `told` without texts, and which path was chosen."""
    found = told(asked, solution)
    for name in ("id", "problem"):
        del found[name]
    found["config"].pop("prompt", None)
    for path in found["paths"]:
        del path["text"]
    best = chosen(solution, asked.settings.kind.group) if asked.choices == 1 else None
    return found | {"path": best.index if best else None}


# -- log-probabilities ------------------------------------------------------------------------------


def token_logprobs(
    backbone: Backbone, trace_ids: Sequence[int], logps: Sequence[float], likeliest: Likeliest | None = None
) -> list[dict[str, Any]]:
    """OpenAI's list of an answer's tokens: ids [T] and their stored log-probabilities [T]."""
    entries = []
    for at, (token, logp) in enumerate(zip(trace_ids, logps, strict=True)):
        top = [] if likeliest is None else list(zip(likeliest[0][at].tolist(), likeliest[1][at].tolist(), strict=True))
        # Read again in another batch, a half-precision model differs a little: the drawn token has one value.
        told = [_entry(backbone, i, float(logp) if i == token else p) for i, p in top]
        entries.append({**_entry(backbone, int(token), float(logp)), "top_logprobs": told})
    return entries


def _entry(backbone: Backbone, token: int, logp: float) -> dict[str, Any]:
    text = backbone.decode([token])
    return {"token": text, "logprob": max(logp, -9999.0), "bytes": list(text.encode())}
