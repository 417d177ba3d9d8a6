"""A stand-in for `trueplex serve`: it replays what a real run of the embedded model did, at any pace.

The page needs no model to be tested, only events in the form that the server sends.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from trueplex.decide.voting import selector
from trueplex.models.backbone import Backbone
from trueplex.report.trace_pieces import Piece, pieces
from trueplex.serve.page import page_html
from trueplex.solving.loop import Advanced, Solved, Stopped, stream
from trueplex.solving.scorers import choose_calibration, choose_scorer
from trueplex.solving.settings import Settings
from trueplex.solving.told import as_dict
from trueplex.types import Problem, Solution, Trace

Told = dict[str, Any]


def record(backbone: Backbone, problem: Problem, settings: Settings) -> list[Told]:
    """The events of a run, as the server streams them with candidates."""
    scorer, settings = choose_scorer(backbone, settings)
    log: list[tuple[Any, ...]] = []  # what happened; texts are filled in at the end, when all steps are known
    for event in stream(
        backbone, [problem], settings, scorer, calibration=choose_calibration(backbone, scorer, settings)
    ):
        if isinstance(event, Advanced):
            log += [("grown", t.index, t.tokens) for t in event.traces]
        elif isinstance(event, Stopped):
            log += [("grown", event.trace.index, event.trace.tokens), ("stopped", event.trace.index)]
        elif isinstance(event, Solved):
            solution = event.solution
    return list(_told(log, solution, backbone))


def _told(log: Sequence[tuple[Any, ...]], solution: Solution, backbone: Backbone) -> Iterator[Told]:
    traces = {t.index: t for t in solution.traces}
    steps = {i: pieces(t, backbone.tokenizer) for i, t in traces.items()}
    yield {"event": "started", "id": "solve-1", "problem": solution.problem.text, "paths": len(traces),
           "config": solution.config}  # fmt: skip
    so_far = dict.fromkeys(traces, 0)
    stopped: list[Trace] = []
    for kind, index, *rest in log:
        trace = traces[index]
        if kind == "grown":
            before, so_far[index] = so_far[index], rest[0]
            yield from _grown(index, before, steps[index][before : rest[0]])
            for at, score in trace.scores:
                if before < at <= rest[0]:
                    yield {"event": "score", "path": index, "tokens": at, "score": score}
        else:
            stopped.append(trace)
            yield {"event": "stopped", "path": index, "status": trace.status.value, "reason": trace.reason,
                   "tokens": trace.tokens, "answer": trace.answer}  # fmt: skip
            if trace.answer is not None:
                votes = selector(solution.config["select"])(stopped)
                yield {
                    "event": "votes",
                    "votes": [{"answer": v.answer, "weight": v.weight, "paths": v.paths} for v in votes],
                }
    yield {"event": "solution", **as_dict(solution, solution.problem)}


def _grown(index: int, before: int, new: Sequence[Piece]) -> Iterator[Told]:
    """A `tokens` event for each phase in the new steps."""
    for answering in (False, True):
        own = [p for p in new if p.answering is answering]
        if own:
            before += len(own)
            yield {"event": "tokens", "path": index, "text": "".join(p.text for p in own), "tokens": before,
                   "phase": "answer" if answering else "thinking",
                   "steps": [{"text": p.text, "entropy": p.entropy, "candidates": p.candidates} for p in own]}  # fmt: skip


class Stage:
    """What the stand-in shows next, and what it was asked.

    Attributes:
        held: while it is set, a replay stops before its vote is settled.
        gone: a client has left in the middle of a replay.
        refusal: (status, body, headers) instead of a replay.
        asked, keys: the bodies and the keys of all requests.
    """

    def __init__(self, events: Sequence[Told]) -> None:
        self.events = events
        self.refusal: tuple[int, Told, dict[str, str]] | None = None
        self.asked: list[Told] = []
        self.keys: list[str | None] = []
        self.held = self.gone = False

    async def lines(self) -> AsyncIterator[str]:
        try:
            for event in self.events:
                while self.held and event["event"] == "solution":
                    await asyncio.sleep(0.02)
                yield f"data: {json.dumps(event)}\n\n"
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.gone = True
            raise


def create_mock(stage: Stage, model: str = "reference") -> FastAPI:
    """An app with the page, the list of models and a `/v1/solve` that replays."""
    app = FastAPI()

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return page_html()

    @app.get("/v1/models")
    def models() -> Told:
        return {"object": "list", "data": [{"id": model, "object": "model", "created": 0, "owned_by": "trueplex"}]}

    @app.post("/v1/solve", response_model=None)
    async def solve(request: Request) -> StreamingResponse | JSONResponse:
        stage.asked.append(await request.json())
        stage.keys.append(request.headers.get("authorization"))
        if stage.refusal is not None:
            status, body, headers = stage.refusal
            return JSONResponse(body, status, headers)
        return StreamingResponse(stage.lines(), media_type="text/event-stream")

    return app
