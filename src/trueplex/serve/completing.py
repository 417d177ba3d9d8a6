"""OpenAI's text completions: raw prompts, without a chat template; thinking stays in the text."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from trueplex.models.backbone import Backbone
from trueplex.serve.asking import Asked
from trueplex.serve.live import batches
from trueplex.serve.telling import Choice, Likeliest, choices_of, summary, token_logprobs, usage_of
from trueplex.serve.wire import CompletionBody
from trueplex.serve.words import Spelling
from trueplex.serve.worker import Done, Ended, Failed, Grown, Job
from trueplex.types import Solution, Status


class Completion:
    """One body's completions: a choice for each prompt and each of its ``n``."""

    def __init__(self, backbone: Backbone, name: str, body: CompletionBody, aside: Callable[..., Any]) -> None:
        self.backbone, self.name, self.body, self.aside = backbone, name, body, aside
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, answered: Sequence[tuple[Asked, Solution, dict[int, Likeliest] | None]]) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        for asked, solution, likeliest in answered:
            choices += [
                self._choice(len(choices) + c.index, c, likeliest) for c in choices_of(self.backbone, asked, solution)
            ]
        usages = [usage_of(self.backbone, asked, solution) for asked, solution, _ in answered]
        usage: dict[str, Any] = {
            name: sum(u[name] for u in usages) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        }
        told = [summary(asked, solution) for asked, solution, _ in answered]
        return {**self._head(), "choices": choices, "usage": usage, "trueplex": told[0] if len(told) == 1 else told}

    async def stream(self, asked: Asked, job: Job) -> AsyncIterator[dict[str, Any]]:
        """The text as it comes, with one path or several choices; with many paths, once the vote is settled."""
        spellings = defaultdict[int, Spelling](lambda: Spelling(self.backbone, asked.prompt, asked.stops, apart=False))
        unended = set(range(asked.choices)) if asked.single else set()

        async for batch in batches(job):
            for event in batch:
                if isinstance(event, Failed):
                    raise event.error
                if asked.single and isinstance(event, Grown):
                    text = spellings[event.path].feed(event.steps.ids[:, 0].tolist()).answer
                    if text:
                        yield self._piece(event.path, text)
                if asked.single and isinstance(event, Ended):
                    path, finished = event.trace.index, event.trace.status is Status.FINISHED
                    unended.discard(path)
                    yield self._piece(path, spellings[path].end(event.trace).answer, "stop" if finished else "length")
                if isinstance(event, Done):
                    for path in sorted(unended):
                        yield self._piece(path, "", "length")
                    for one in await self.aside(self._last, asked, event.solution):
                        yield one

    def _last(self, asked: Asked, solution: Solution) -> list[dict[str, Any]]:
        chunks = []
        if not asked.single:
            for c in choices_of(self.backbone, asked, solution):
                chunks += [
                    self._piece(c.index, c.answer or ""),
                    {**self._piece(c.index, "", c.finish), "trueplex": summary(asked, solution)},
                ]
        if self.body.stream_options and self.body.stream_options.include_usage:
            chunks.append({**self._head(), "choices": [], "usage": usage_of(self.backbone, asked, solution)})
        return chunks

    def _head(self) -> dict[str, Any]:
        return {"id": self.id, "object": "text_completion", "created": self.created, "model": self.name,
                "system_fingerprint": f"fp_{self.backbone.fingerprint[:12]}"}  # fmt: skip

    def _piece(self, index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {**self._head(), "choices": [{"index": index, "text": text, "logprobs": None, "finish_reason": finish}]}

    def _choice(self, index: int, choice: Choice, likeliest: dict[int, Likeliest] | None) -> dict[str, Any]:
        text = choice.answer or ""
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(choice, likeliest),
            "finish_reason": choice.finish,
        }

    def _logprobs(self, choice: Choice, likeliest: dict[int, Likeliest] | None) -> dict[str, Any] | None:
        if self.body.logprobs is None or choice.trace is None:
            return None
        steps, at = choice.trace.steps, choice.answer_at
        assert steps is not None
        top = None if likeliest is None else likeliest.get(choice.trace.index)
        entries = token_logprobs(self.backbone, steps.ids[at, 0].tolist(), steps.logps[at, 0].tolist(), top)
        offsets, length = [], 0
        for entry in entries:
            offsets.append(length)
            length += len(entry["token"])
        return {
            "tokens": [e["token"] for e in entries],
            "token_logprobs": [e["logprob"] for e in entries],
            "top_logprobs": [{t["token"]: t["logprob"] for t in e["top_logprobs"]} for e in entries],
            "text_offset": offsets,
        }
