"""The life of a request in one server: admitted, run, counted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from trueplex.engine.replay import likeliest
from trueplex.models.backbone import Backbone
from trueplex.serve.asking import Asked, Desk
from trueplex.serve.metrics import Metrics
from trueplex.serve.options import ServerOptions
from trueplex.serve.refusals import Refusal
from trueplex.serve.structured import Grammars
from trueplex.serve.telling import Choice, Likeliest, choices_of
from trueplex.serve.worker import Done, Failed, Job, Worker
from trueplex.types import Solution


class Service:
    """The parts of one server.

    Attributes:
        draining: whether new requests are refused, as the server is about to stop.
    """

    def __init__(self, backbone: Backbone, options: ServerOptions) -> None:
        self.backbone, self.options = backbone, options
        self.desk = Desk(backbone, options)
        self.grammars = Grammars(self.desk.backbone)
        self.worker = Worker(backbone, options.rows)
        self.metrics = Metrics(self.worker)
        self.worker.heard = self.metrics.heard
        self.draining = False
        self._aside = ThreadPoolExecutor(1, "trueplex-desk")
        self._seconds = 1.0  # of a request, lately

    @property
    def name(self) -> str:
        return self.desk.name

    async def aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function gives that reads, tokenises or compares; on the desk's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._aside, lambda: function(*arguments))

    async def close(self) -> None:
        await self.worker.close()
        self._aside.shutdown(wait=False, cancel_futures=True)

    @asynccontextmanager
    async def running(self, asked: Asked, every: int | None = None) -> AsyncIterator[Job]:
        """A job for the request. Whatever ends the block, be it that the client has gone, frees its rows.

        ``every``: how often it tells of running paths, as `Job.every`.

        Raises:
            Refusal: 429 where too many are waiting.
        """
        waiting = len(self.worker.waiting)
        if waiting >= self.options.max_waiting:
            later = max(1, min(60, math.ceil(self._seconds)))
            raise Refusal(
                429,
                f"{waiting} requests are waiting already. Try: again in {later} s",
                None,
                "queue_full",
                {"retry-after": str(later)},
            )
        job = Job(asked.request, every)
        self.worker.submit(job)
        try:
            yield job
        finally:
            if job in self.worker.jobs:
                self.metrics.gone.inc()
            self.worker.cancel(job)
            self._seconds += 0.1 * (time.monotonic() - job.created - self._seconds)

    async def solved(self, asked: Asked) -> Solution:
        """The solution of a request that nobody watches."""
        async with self.running(asked) as job:
            async for event in job.events():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Done):
                    return event.solution
        raise AssertionError("a job ended without a last event")

    async def likeliest(self, asked: Asked, solution: Solution, count: int) -> dict[int, Likeliest] | None:
        """The most likely tokens of the paths that are told, read again by the model's own thread."""
        if not count:
            return None
        choices = await self.aside(choices_of, self.backbone, asked, solution)
        found = {
            c.trace.index: await self.worker.call(partial(self._read, asked, c, count)) for c in choices if c.answer_at
        }
        return found or None

    def _read(self, asked: Asked, choice: Choice, count: int) -> Likeliest:
        thinking, steps = asked.settings.thinking, choice.trace.steps if choice.trace else None
        assert steps is not None
        sampling = thinking.answering if self.backbone.markers else thinking.sampling
        ids, logps = likeliest(self.backbone, asked.prompt.ids, steps, choice.answer_at, count, sampling.temperature)
        return ids.cpu().numpy(), logps.cpu().numpy()

    async def all_solved(self, several: Sequence[Asked]) -> list[Solution]:
        return list(await asyncio.gather(*(self.solved(asked) for asked in several)))
