"""One thread that owns the model and one scheduler; asyncio around it talks to it by messages.

Requests of many clients share every forward pass. The thread takes messages between two steps, and a step is one token
of every running path, so that a request enters, or frees its rows, within a token. Whatever happens to a request is
posted to its own queue; numbers are copied, so that no other thread reads what the model's thread still changes.

Where a step fails, nobody knows yet whose request did it: all that were running begin again, each alone. Draws belong
to (seed, problem, path, step), so they come to the same as before, and only the one that fails again is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trueplex.models.backbone import Backbone
from trueplex.solving.events import Solved, Stopped
from trueplex.solving.request import Request
from trueplex.solving.scheduler import Scheduler
from trueplex.solving.settings import configuration
from trueplex.types import Solution, Steps, Trace

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(slots=True, frozen=True)
class Taken:
    """The request can run: at most so many paths, with this effective configuration."""

    paths: int
    config: dict[str, Any]


@dataclass(slots=True, frozen=True)
class Began:
    """The first paths of the request have rows."""


@dataclass(slots=True, frozen=True)
class Grown:
    """A path has new steps; ``tokens`` counts all that it has now."""

    path: int
    tokens: int
    steps: Steps


@dataclass(slots=True, frozen=True)
class Scored:
    path: int
    tokens: int
    score: float


@dataclass(slots=True, frozen=True)
class Ended:
    """A path has stopped; its trace changes no more."""

    trace: Trace


@dataclass(slots=True, frozen=True)
class Done:
    solution: Solution


@dataclass(slots=True, frozen=True)
class Failed:
    error: Exception


Told = Taken | Began | Grown | Scored | Ended | Done | Failed


@dataclass(slots=True, frozen=True)
class Load:
    """How full the batch is: rows in use, and bytes of the KV cache and of its budget, None where nothing bounds it."""

    rows: int
    cache_bytes: int
    budget: int | None

    @property
    def share(self) -> float:
        """Of the budget that is in use, 0 to 1; 0 without one."""
        return self.cache_bytes / self.budget if self.budget else 0.0


@dataclass(eq=False)
class Job:
    """A request on its way, as its client sees it.

    Attributes:
        every: the client is told of a running path at its first token, and at every multiple of so many; None: of none.
        told: what happened, in order; the last is `Done` or `Failed`.
        created: the moment of `time.monotonic` at which it came.
        times: when each path last grew.
    """

    request: Request
    every: int | None = None
    told: asyncio.Queue[Told] = field(default_factory=asyncio.Queue)
    created: float = field(default_factory=time.monotonic)
    times: dict[int, float] = field(default_factory=dict)
    number: int = -1  # the scheduler's id, of the model's thread alone; so are the next three
    taken: bool = False
    begun: bool = False
    grown: dict[int, int] = field(default_factory=dict)
    scored: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    _first: Told | None = None

    def due(self, trace: Trace) -> bool:
        """Whether the client is to be told now of a running path that it watches; asked by the model's thread."""
        assert self.every is not None
        known = self.grown.get(trace.index, 0)
        return trace.tokens > known and (not known or trace.tokens // self.every > known // self.every)

    async def accepted(self) -> None:
        """Wait until the scheduler has taken it. Raises what it refuses it with."""
        self._first = await self.told.get()
        if isinstance(self._first, Failed):
            raise self._first.error

    async def events(self) -> AsyncIterator[Told]:
        while True:
            event, self._first = self._first or await self.told.get(), None
            yield event
            if isinstance(event, Done | Failed):
                return


class Worker:
    """The model's thread. All methods are called from the event loop's thread.

    Attributes:
        jobs: requests that are not done.
        waiting: those of them that have no rows yet.
        heard: is told everything that happens.
    """

    def __init__(self, backbone: Backbone, rows: int | None = None) -> None:
        self.backbone, self._rows = backbone, rows
        self.jobs: set[Job] = set()
        self.waiting: set[Job] = set()
        self.heard: Callable[[Job, Told], None] = lambda job, event: None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._scheduler = self._new_scheduler()
        self._running: dict[int, Job] = {}
        self._pending: deque[Job] = deque()
        self._alone: deque[Job] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="trueplex-model", daemon=True)

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(self.backbone, self._rows, stride=1)

    # -- the event loop's side ----------------------------------------------------------------------

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the model's thread runs."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        self.jobs.add(job)
        self.waiting.add(job)
        self._inbox.put(lambda: self._pending.append(job))

    def cancel(self, job: Job) -> None:
        """Free the rows of a job before the next step; without effect on one that is done."""
        if job in self.jobs:
            self._forget(job)
            self._inbox.put(lambda: self._drop(job))

    def call(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """What a function gives that needs the model; it runs between two steps."""
        result: Future[Result] = Future()

        def run() -> None:
            try:
                result.set_result(function())
            except Exception as error:
                result.set_exception(error)

        self._inbox.put(run)
        return asyncio.wrap_future(result)

    async def close(self) -> None:
        """Stop what runs, and end the thread."""
        for job in list(self.jobs):
            self.cancel(job)
        self._inbox.put(self._close)
        await asyncio.to_thread(self._thread.join)

    @property
    def load(self) -> Load:
        batch = self._scheduler.batch
        return Load(len(batch.traces), batch.cache_bytes, batch.budget)

    def _forget(self, job: Job) -> None:
        self.jobs.discard(job)
        self.waiting.discard(job)

    def _deliver(self, posts: list[tuple[Job, Told]]) -> None:
        for job, event in posts:
            if job not in self.jobs:
                continue  # its client has gone
            if isinstance(event, Began):
                self.waiting.discard(job)
            if isinstance(event, Done | Failed):
                self._forget(job)
            self.heard(job, event)
            job.told.put_nowait(event)

    # -- the model's thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            self._read()
            self._admit()
            if self._scheduler:
                try:
                    self._step()
                except Exception as error:
                    self._again(error)

    def _read(self) -> None:
        """Take all messages; wait for one where there is nothing else to do."""
        idle = not (self._scheduler or self._pending or self._alone)
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get(block=idle)()
                idle = False

    def _close(self) -> None:
        self._closing = True

    def _drop(self, job: Job) -> None:
        for line in (self._pending, self._alone):
            with contextlib.suppress(ValueError):
                line.remove(job)
        if self._running.pop(job.number, None):
            self._scheduler.cancel(job.number)

    def _admit(self) -> None:
        """Give new jobs to the scheduler; those that must run alone come first, one after the other."""
        if self._alone:
            if not self._scheduler:
                self._submit(self._alone.popleft())
            return
        while self._pending:
            self._submit(self._pending.popleft())

    def _submit(self, job: Job) -> None:
        try:
            job.number = self._scheduler.submit(job.request)
        except Exception as error:
            self._post([(job, Failed(error))])
            return
        self._running[job.number] = job
        run = self._scheduler.runs[job.number]
        if not job.taken:
            job.taken = True
            self._post([(job, Taken(run.schedule.most, configuration(run.settings, self.backbone)))])

    def _step(self) -> None:
        events, posts = self._scheduler.step(), list[tuple[Job, Told]]()
        for request in {*self._scheduler.batch.running} | {e.trace.request for e in events if isinstance(e, Stopped)}:
            job = self._running[request]
            if not job.begun:
                job.begun = True
                posts.append((job, Began()))
        self._watch(posts)
        for event in events:
            if isinstance(event, Stopped):
                self._stopped(self._running[event.trace.request], event.trace, posts)
            elif isinstance(event, Solved):
                posts.append((self._running.pop(event.request), Done(event.solution)))
        self._post(posts)

    def _watch(self, posts: list[tuple[Job, Told]]) -> None:
        """New steps and scores of the running paths that somebody watches."""
        batch, running = self._scheduler.batch, self._running
        watched = {id(t): running[t.request] for t in batch.traces if running[t.request].every}
        look = batch.look(lambda t: id(t) in watched and watched[id(t)].due(t))
        jobs = [watched[id(t)] for t in look.traces]
        since = [job.grown.get(t.index, 0) for job, t in zip(jobs, look.traces, strict=True)]
        for job, trace, steps in zip(jobs, look.traces, look.steps(since), strict=True):
            posts.append((job, Grown(trace.index, trace.tokens, steps)))
            job.grown[trace.index] = trace.tokens
        for trace in batch.traces:
            if id(trace) in watched:
                self._scores(watched[id(trace)], trace, posts)

    def _scores(self, job: Job, trace: Trace, posts: list[tuple[Job, Told]]) -> None:
        known = job.scored.get(trace.index, 0)
        posts += [(job, Scored(trace.index, at, score)) for at, score in trace.scores[known:]]
        job.scored[trace.index] = max(known, len(trace.scores))

    def _stopped(self, job: Job, trace: Trace, posts: list[tuple[Job, Told]]) -> None:
        if not job.every or trace.index in job.ended:
            return
        job.ended.add(trace.index)
        assert trace.steps is not None
        first = job.grown.get(trace.index, 0)
        if trace.tokens > first:
            posts.append((job, Grown(trace.index, trace.tokens, Steps(*(a[first:] for a in trace.steps.arrays())))))
            job.grown[trace.index] = trace.tokens
        self._scores(job, trace, posts)
        posts.append((job, Ended(trace)))

    def _post(self, posts: list[tuple[Job, Told]]) -> None:
        if posts and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
                self._loop.call_soon_threadsafe(self._deliver, posts)

    def _again(self, error: Exception) -> None:
        """A step failed: with one request running it is that one's fault, else each of them begins again alone."""
        # The error's own words may hold what a user wrote: the client gets them, the log does not.
        log.warning(f"a step failed with {type(error).__name__}; restarting its requests one at a time")
        log.debug("".join(traceback.format_tb(error.__traceback__)))
        jobs = list(self._running.values())
        self._running.clear()
        self._scheduler = self._new_scheduler()
        if len(jobs) == 1:
            self._post([(jobs[0], Failed(error))])
        else:
            self._alone.extend(jobs)
