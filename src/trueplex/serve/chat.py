"""OpenAI's chat completions: the object of a whole response, and the chunks of a streamed one."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

from trueplex.models.backbone import Backbone
from trueplex.serve.asking import Asked
from trueplex.serve.live import Live, batches, live_events
from trueplex.serve.telling import Choice, Likeliest, choices_of, summary, token_logprobs, usage_of
from trueplex.serve.wire import ChatBody
from trueplex.serve.words import Piece, Spelling
from trueplex.serve.worker import Done, Ended, Failed, Grown, Job, Taken
from trueplex.types import Solution, Status

STATUS_EVERY = 32  # tokens of the longest path between two lines of status
Chunk = dict[str, Any]


class Chat:
    """One chat completion: `whole` of a solution, or `stream` of a job."""

    def __init__(self, backbone: Backbone, name: str, body: ChatBody, asked: Asked, aside: Callable[..., Any]) -> None:
        self.backbone, self.name, self.body, self.asked, self.aside = backbone, name, body, asked, aside
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._live_paths = body.trueplex is not None and body.trueplex.stream_paths == "live"

    @property
    def every(self) -> int:
        """Tokens of a path between two things that a stream has to say of it."""
        return 1 if self._live_paths or self.asked.single else STATUS_EVERY

    def whole(self, solution: Solution, likeliest: dict[int, Likeliest] | None = None) -> dict[str, Any]:
        choices = [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": choice.answer,
                    "refusal": choice.refusal,
                    "reasoning": choice.thinking,
                    "reasoning_content": choice.thinking,
                },
                "logprobs": self._logprobs(choice, likeliest),
                "finish_reason": choice.finish,
            }
            for choice in choices_of(self.backbone, self.asked, solution)
        ]
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": usage_of(self.backbone, self.asked, solution),
            "trueplex": summary(self.asked, solution),
        }

    async def stream(self, job: Job, rest: Callable[[Solution], Any]) -> AsyncIterator[Chunk]:
        """``rest`` gives the most likely tokens, where they were asked for, by the model's own thread."""
        for index in range(self.asked.choices):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        way = self._live if self._live_paths else self._tokens if self.asked.single else self._status
        solution = None
        async for chunk in way(job):
            if isinstance(chunk, Solution):
                solution = chunk
            else:
                yield chunk
        assert solution is not None
        if self._live_paths or not self.asked.single:
            async for chunk in self._answer(solution, await rest(solution)):
                yield chunk
        if self.body.stream_options and self.body.stream_options.include_usage:
            yield {
                **self._head("chat.completion.chunk"),
                "choices": [],
                "usage": usage_of(self.backbone, self.asked, solution),
            }

    # -- ways of streaming: chunks, and the solution last ---------------------------------------------

    async def _tokens(self, job: Job) -> AsyncIterator[Chunk | Solution]:
        """The tokens of each path as they come; each path is a choice."""
        spellings = defaultdict[int, Spelling](lambda: Spelling(self.backbone, self.asked.prompt, self.asked.stops))
        last, unended = None, dict.fromkeys(range(self.asked.choices))
        async for event in _events(job):
            if isinstance(event, Grown | Ended):
                path = event.path if isinstance(event, Grown) else event.trace.index
                spelling = spellings[path]
                at = len(spelling.answer_at)
                if isinstance(event, Grown):
                    first = event.tokens - len(event.steps)
                    piece = spelling.feed(event.steps.ids[:, 0].tolist())
                    logprobs = self._streamed_logprobs(
                        event, [i - first for i in spelling.answer_at[at:] if i >= first]
                    )
                else:
                    piece, logprobs = spelling.end(event.trace), None
                for chunk in self._deltas(path, piece, logprobs):
                    yield chunk
                if isinstance(event, Ended):
                    if last:
                        yield last
                    last = self._chunk(path, {}, finish="stop" if event.trace.status is Status.FINISHED else "length")
                    unended.pop(path, None)
            if isinstance(event, Done):
                *ends, last = [*([last] if last else []), *(self._chunk(path, {}, finish="length") for path in unended)]
                for end in ends:
                    yield end
                yield {**last, "trueplex": await self.aside(summary, self.asked, event.solution)}
                yield event.solution

    async def _status(self, job: Job) -> AsyncIterator[Chunk | Solution]:
        """How the paths fare, as lines of reasoning: a client that knows nothing of paths shows them."""
        tokens: dict[int, int] = {}
        stopped: list[Status] = []
        shown = paths = 0
        async for event in _events(job):
            if isinstance(event, Taken):
                paths = event.paths
            elif isinstance(event, Grown):
                tokens[event.path] = event.tokens
            elif isinstance(event, Ended):
                stopped.append(event.trace.status)
            elif isinstance(event, Done):
                yield event.solution
                return
            longest = max(tokens.values(), default=0)
            if longest // STATUS_EVERY > shown:
                shown = longest // STATUS_EVERY
                yield self._status_chunk(paths, len(tokens) - len(stopped), stopped, shown * STATUS_EVERY)

    def _status_chunk(self, paths: int, running: int, stopped: list[Status], tokens: int) -> Chunk:
        counts = {"paths": paths, "running": running, "finished": stopped.count(Status.FINISHED),
                  "pruned": stopped.count(Status.PRUNED), "tokens": tokens}  # fmt: skip
        line = f"[{tokens} tokens: {running} of {paths} paths running, {counts['finished']} finished, {counts['pruned']} pruned]\n"
        return {**self._chunk(0, _thought(line)), "trueplex": {"event": "status", **counts}}

    async def _live(self, job: Job) -> AsyncIterator[Chunk | Solution]:
        """Events of every path, each beside no choices."""
        extension = self.body.trueplex
        live = Live(self.backbone, self.asked, bool(extension and extension.candidates))
        async for event in live_events(live, job, self.id, self.aside):
            yield {**self._head("chat.completion.chunk"), "choices": [], "trueplex": event}
        if live.failed is not None:
            raise live.failed
        assert live.solution is not None
        yield live.solution

    async def _answer(self, solution: Solution, likeliest: dict[int, Likeliest] | None) -> AsyncIterator[Chunk]:
        """The settled answer: the chosen path's thinking, then its text."""
        for choice in await self.aside(choices_of, self.backbone, self.asked, solution):
            if choice.thinking:
                yield self._chunk(choice.index, _thought(choice.thinking))
            logprobs = self._logprobs(choice, likeliest)
            if choice.answer:
                yield self._chunk(choice.index, {"content": choice.answer}, logprobs=logprobs)
            if choice.refusal:
                yield self._chunk(choice.index, {"refusal": choice.refusal})
            told = await self.aside(summary, self.asked, solution)
            yield {**self._chunk(choice.index, {}, finish=choice.finish), "trueplex": told}

    # -- parts ----------------------------------------------------------------------------------------

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.name,
                "system_fingerprint": f"fp_{self.backbone.fingerprint[:12]}"}  # fmt: skip

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: Any = None) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _deltas(self, index: int, piece: Piece, logprobs: Any) -> list[Chunk]:
        chunks = [self._chunk(index, _thought(piece.thinking))] if piece.thinking else []
        if piece.answer or logprobs:
            chunks.append(self._chunk(index, {"content": piece.answer}, logprobs=logprobs))
        return chunks

    def _logprobs(self, choice: Choice, likeliest: dict[int, Likeliest] | None) -> dict[str, Any] | None:
        if not self.body.logprobs or choice.refusal or choice.trace is None:
            return None
        steps, at = choice.trace.steps, choice.answer_at
        assert steps is not None
        top = None if likeliest is None else likeliest.get(choice.trace.index)
        return {
            "content": token_logprobs(self.backbone, steps.ids[at, 0].tolist(), steps.logps[at, 0].tolist(), top),
            "refusal": None,
        }

    def _streamed_logprobs(self, grown: Grown, at: list[int]) -> dict[str, Any] | None:
        if not self.body.logprobs or not at:
            return None
        entries = token_logprobs(self.backbone, grown.steps.ids[at, 0].tolist(), grown.steps.logps[at, 0].tolist())
        return {"content": entries, "refusal": None}


def _thought(text: str) -> dict[str, str]:
    return {"reasoning": text, "reasoning_content": text}


async def _events(job: Job) -> AsyncIterator[Any]:
    """Everything that happens to a job. Raises what it failed with."""
    async for batch in batches(job):
        for event in batch:
            if isinstance(event, Failed):
                raise event.error
            yield event
