"""A small OpenAI-compatible server that says what a test wrote, token by token."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse


@dataclass
class Script:
    """What the server says, and what it was asked.

    Attributes:
        says: by seed, the tokens of a path as (text, log-probability); seeds that are not there get those of 0.
        thinks: how many of its tokens are told as ``reasoning``.
        logprobs: whether log-probabilities are told; with one more token beside, as peaked as a sure or an unsure model would have it.
        ends: finish_reason of every path; None breaks off after the tokens.
        pause: seconds before every token; by seed, others none.
        refusal: (status, message) instead of any path.
        key: the one that is wanted.
    """

    says: dict[int, list[tuple[str, float]]] = field(default_factory=dict)
    models: tuple[str, ...] = ("tiny",)
    owner: str = "vllm"
    thinks: int = 0
    logprobs: bool = True
    ends: str | None = "stop"
    pause: dict[int, float] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    key: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)

    async def path(self, body: dict[str, Any]) -> AsyncIterator[str]:
        seed = body["seed"]
        tokens = self.says.get(seed, self.says.get(0, []))
        try:
            for at, (text, logprob) in enumerate(tokens):
                await asyncio.sleep(self.pause.get(seed, 0.0))
                name = "reasoning" if at < self.thinks else "content"
                choice: dict[str, Any] = {"index": 0, "delta": {name: text}, "finish_reason": None}
                if self.logprobs and body.get("logprobs"):
                    top = [
                        {"token": text, "logprob": logprob, "bytes": None},
                        {"token": "~", "logprob": logprob - (20.0 if logprob > -1 else 0.1), "bytes": None},
                    ]
                    choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
                yield self.chunk([choice])
            if self.ends is None:
                raise ConnectionError("gone")
            yield self.chunk([{"index": 0, "delta": {}, "finish_reason": self.ends}])
            yield self.chunk(
                [], {"prompt_tokens": 7, "completion_tokens": len(tokens), "total_tokens": 7 + len(tokens)}
            )
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.left.append(seed)
            raise

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        told = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.models[0],
            "choices": choices,
            "usage": usage,
        }
        return f"data: {json.dumps(told)}\n\n"


def error(status: int, message: str) -> JSONResponse:
    return JSONResponse(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}, status
    )


def create_server(script: Script) -> FastAPI:
    app = FastAPI()

    def locked(request: Request) -> bool:
        return script.key is not None and request.headers.get("authorization") != f"Bearer {script.key}"

    @app.get("/v1/models", response_model=None)
    def models(request: Request) -> dict[str, Any] | JSONResponse:
        if locked(request):
            return error(401, "invalid api key")
        return {
            "object": "list",
            "data": [{"id": m, "object": "model", "created": 1, "owned_by": script.owner} for m in script.models],
        }

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request) -> StreamingResponse | JSONResponse:
        if locked(request):
            return error(401, "invalid api key")
        body = await request.json()
        script.asked.append(body)
        return (
            error(*script.refusal)
            if script.refusal
            else StreamingResponse(script.path(body), media_type="text/event-stream")
        )

    return app


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The address of an app that is served by a thread for as long as the context lasts."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
