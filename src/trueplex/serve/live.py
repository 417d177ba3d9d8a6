"""Events of every path, for a page or a program to follow. docs/serve.md lists them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np

from trueplex.decide import pruning, voting
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.serve.asking import Asked
from trueplex.serve.refusals import of_error
from trueplex.serve.telling import told
from trueplex.serve.words import Piece, Spelling
from trueplex.serve.worker import Done, Ended, Failed, Grown, Job, Scored, Taken, Told
from trueplex.types import Solution, Steps, Trace

Event = dict[str, Any]


class Live:
    """Events of one request. ``votes`` are counted as paths stop, by `count`, as comparing answers may take a while."""

    def __init__(self, backbone: Backbone, asked: Asked, candidates: bool = False) -> None:
        self.backbone, self.asked, self.candidates = backbone, asked, candidates
        self._spellings = defaultdict[int, Spelling](lambda: Spelling(backbone, asked.prompt, asked.stops))
        self.stopped: list[Trace] = []
        self.solution: Solution | None = None
        self.failed: Exception | None = None

    def of(self, event: Told, name: str) -> list[Event]:
        """The events that one thing that happened comes to."""
        if isinstance(event, Taken):
            return [
                {
                    "event": "started",
                    "id": name,
                    "problem": self.asked.prompt.problem.text,
                    "paths": event.paths,
                    "config": event.config,
                }
            ]
        if isinstance(event, Grown):
            return self._tokens(event)
        if isinstance(event, Scored):
            return [{"event": "score", "path": event.path, "tokens": event.tokens, "score": event.score}]
        if isinstance(event, Ended):
            return self._ended(event.trace)
        if isinstance(event, Done):
            self.solution = event.solution
            return [{"event": "solution", **told(self.asked, event.solution)}]
        if isinstance(event, Failed):
            self.failed = event.error
            return [{"event": "error", **of_error(event.error).body()}]
        return []

    def count(self) -> list[Event]:
        """The votes as they stand; none while no path has an answer."""
        settings = self.asked.settings
        voters = pruning.parse(settings.prune).voters(self.stopped)
        scored = all(t.score is not None for t in voting.candidates(voters))
        try:
            votes = voting.selector(
                settings.select or ("weighted" if self.asked.request.scorer and scored else "majority"),
                settings.kind.group,
            )(voters)
        except OptionError:  # a path that ended before it had a score
            return []
        return (
            [{"event": "votes", "votes": [{"answer": v.answer, "weight": v.weight, "paths": v.paths} for v in votes]}]
            if votes
            else []
        )

    def _tokens(self, grown: Grown) -> list[Event]:
        spelling = self._spellings[grown.path]
        piece = spelling.feed(grown.steps.ids[:, 0].tolist())
        steps = self._steps(grown.steps) if self.candidates else None
        return self._texts(grown.path, grown.tokens, piece, spelling.thinks, steps)

    def _texts(
        self, path: int, tokens: int, piece: Piece, thinks: bool, steps: list[Event] | None = None
    ) -> list[Event]:
        parts = [("thinking", piece.thinking), ("answer", piece.answer)]
        parts = [(phase, text) for phase, text in parts if text] or (
            [("thinking" if thinks else "answer", "")] if steps else []
        )
        events: list[Event] = [
            {"event": "tokens", "path": path, "text": text, "tokens": tokens, "phase": phase} for phase, text in parts
        ]
        if steps and events:
            events[0]["steps"] = steps
        return events

    def _steps(self, steps: Steps) -> list[Event]:
        decode = self.backbone.decode
        return [
            {
                "text": decode([int(ids[0])]),
                "entropy": round(float(entropy), 4),
                "candidates": [
                    [decode([int(i)]), round(float(w), 4)] for i, w in zip(ids, weights, strict=True) if w > 0
                ],
            }
            for ids, weights, entropy in zip(steps.ids, steps.weights, steps.entropy, strict=True)
        ]

    def _ended(self, trace: Trace) -> list[Event]:
        spelling = self._spellings[trace.index]
        events = self._texts(trace.index, trace.tokens, spelling.end(trace), spelling.thinks)
        self.stopped.append(trace)
        return [*events, {"event": "stopped", "path": trace.index, "status": trace.status.value, "reason": trace.reason,
                          "tokens": trace.tokens, "answer": trace.answer}]  # fmt: skip


async def live_events(live: Live, job: Job, name: str, aside: Callable[..., Any]) -> AsyncIterator[Event]:
    """All events of a job; ``aside`` runs a function elsewhere, so that a slow comparison holds nobody up."""
    async for batch in batches(job):
        before = len(live.stopped)
        for event in batch:
            if isinstance(event, Done) and len(live.stopped) > before:
                before = len(live.stopped)
                for vote in await aside(live.count):
                    yield vote
            for one in await aside(live.of, event, name) if isinstance(event, Done) else live.of(event, name):
                yield one
        if len(live.stopped) > before:
            for vote in await aside(live.count):
                yield vote


async def batches(job: Job) -> AsyncIterator[list[Told]]:
    """What has happened since one last looked: a slow reader gets several tokens of a path in one event."""
    async for first in job.events():
        batch = [first]
        while not isinstance(batch[-1], Done | Failed):
            try:
                batch.append(job.told.get_nowait())
            except asyncio.QueueEmpty:
                break
        yield merged(batch)
        if isinstance(batch[-1], Done | Failed):
            return


def merged(batch: list[Told]) -> list[Told]:
    """The same, with the steps of a path that stand together as one."""
    found: list[Told] = []
    growing: dict[int, list[Grown]] = {}

    def flush() -> None:
        for path, parts in growing.items():
            steps = Steps(*(np.concatenate(arrays) for arrays in zip(*(p.steps.arrays() for p in parts), strict=True)))
            found.append(Grown(path, parts[-1].tokens, steps))
        growing.clear()

    for event in batch:
        if isinstance(event, Grown):
            growing.setdefault(event.path, []).append(event)
        else:
            flush()
            found.append(event)
    flush()
    return found
