"""The application: `create_app` for a model, and its endpoints. docs/serve.md documents them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from trueplex import __version__
from trueplex.errors import TrueplexError
from trueplex.grading.answers import grade
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.serve.asking import Asked
from trueplex.serve.chat import Chat
from trueplex.serve.completing import Completion
from trueplex.serve.gate import Gate
from trueplex.serve.live import Live, live_events
from trueplex.serve.options import ServerOptions
from trueplex.serve.page import page_html
from trueplex.serve.refusals import Refusal, of_error
from trueplex.serve.service import Service
from trueplex.serve.telling import told
from trueplex.serve.transport import EventStream, Json, body_of, refused, until_gone
from trueplex.serve.wire import ChatBody, CompletionBody, DetokenizeBody, GradeBody, Options, SolveBody, TokenizeBody


def create_app(model: Backbone | str, options: ServerOptions | None = None) -> FastAPI:
    """An application that serves one model. ``app.state.service`` holds its parts.

    >>> app = create_app("reference")  # doctest: +SKIP
    >>> uvicorn.run(app)  # doctest: +SKIP

    Raises:
        TrueplexError: the model, or the defaults of its requests, cannot be used.
    """
    options = options or ServerOptions()
    service = Service(load(model) if isinstance(model, str) else model, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.draining = True
        await service.close()

    app = FastAPI(title="trueplex", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, options=options, refused=lambda status: service.metrics.refused.labels(str(status)).inc(),
                       draining=lambda: service.draining)  # fmt: skip
    if options.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(options.origins), allow_methods=["GET", "POST"],
                           allow_headers=["authorization", "content-type", "x-request-id"], expose_headers=["x-request-id"])  # fmt: skip
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _refused)
    endpoints = Endpoints(service)
    for path, kind, function in endpoints.posts():
        app.post(path, summary=function.__doc__, openapi_extra=_documented(kind), response_class=Json)(function)
    for path, function in endpoints.gets():
        app.get(path, summary=function.__doc__)(function)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        path = (
            "there is no such endpoint. Try: see /openapi.json"
            if error.status_code == 404
            else f"{error.detail}. Try: see /openapi.json"
        )
        error = Refusal(error.status_code, path, None, "not_found" if error.status_code == 404 else None)
    return refused(of_error(error))


def _documented(kind: type[BaseModel]) -> dict[str, Any]:
    """A body's fields for OpenAPI; the body itself is read by `transport.body_of`, within bounds."""
    schema = kind.model_json_schema(ref_template=f"#/components/schemas/{kind.__name__}/$defs/{{model}}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _fields(body: BaseModel) -> list[str]:
    """The names that an error may be about, as the client spells them."""
    own = [name for name in type(body).model_fields if name not in ("id", "model")]
    return own + [f"trueplex.{name}" for name in Options.model_fields if name not in own and "trueplex" in own]


class Endpoints:
    """What each path does. Every body passes `transport.body_of`, every answer is told in OpenAI's or the project's form."""

    def __init__(self, service: Service) -> None:
        self.service, self.created = service, int(time.time())

    def posts(self) -> list[tuple[str, type[BaseModel], Callable[..., Any]]]:
        return [
            ("/v1/chat/completions", ChatBody, self.chat),
            ("/v1/completions", CompletionBody, self.completions),
            ("/v1/solve", SolveBody, self.solve),
            ("/v1/grade", GradeBody, self.grade),
            ("/tokenize", TokenizeBody, self.tokenize),
            ("/detokenize", DetokenizeBody, self.detokenize),
        ]

    def gets(self) -> list[tuple[str, Callable[..., Any]]]:
        return [
            ("/v1/models", self.models),
            ("/v1/models/{name:path}", self.model),
            ("/health", self.health),
            ("/metrics", self.metrics),
            ("/", self.page),
        ]

    # -- answers --------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """A chat completion, whole or streamed."""
        service, body = self.service, await self._read(request, ChatBody)
        constraint = None
        if body.response_format is not None and body.response_format.type != "text":
            constraint = await asyncio.to_thread(service.grammars.of, body.response_format)
        asked = await self._asked(request, service.desk.chat, body, constraint)
        chat = Chat(service.backbone, service.name, body, asked, service.aside)
        top = body.top_logprobs or 0
        if body.stream:
            if top and asked.single:
                raise Refusal(400, "top_logprobs cannot be streamed (they are computed once a path has ended). Try: "
                              "stream: false, or top_logprobs: 0", "top_logprobs", "invalid_value")  # fmt: skip
            return await self._streamed(
                request,
                body,
                asked,
                lambda job: chat.stream(job, lambda s: service.likeliest(asked, s, top)),
                chat.every,
            )

        async def answered() -> Any:
            solution = await service.solved(asked)
            return await service.aside(chat.whole, solution, await service.likeliest(asked, solution, top)), solution

        content, solution = await self._answered(request, body, answered())
        self._note(request, solution)
        return Json(content)

    async def completions(self, request: Request) -> Response:
        """A text completion of raw prompts, whole or streamed."""
        service, body = self.service, await self._read(request, CompletionBody)
        several = await self._asked(request, service.desk.completion, body)
        completion = Completion(service.backbone, service.name, body, service.aside)
        if body.stream:
            if len(several) > 1 or body.logprobs is not None:
                field = "prompt" if len(several) > 1 else "logprobs"
                raise Refusal(
                    400,
                    "a stream takes one prompt and gives no log-probabilities. Try: stream: false",
                    field,
                    "invalid_value",
                )
            return await self._streamed(request, body, several[0], lambda job: completion.stream(several[0], job))

        async def answered() -> Any:
            solutions = await service.all_solved(several)
            tops = [await service.likeliest(a, s, body.logprobs or 0) for a, s in zip(several, solutions, strict=True)]
            return await service.aside(completion.whole, list(zip(several, solutions, tops, strict=True)))

        return Json(await self._answered(request, body, answered()))

    async def solve(self, request: Request) -> Response:
        """A problem solved along many paths: the object of `trueplex solve --json`, or events of every path."""
        service, body = self.service, await self._read(request, SolveBody)
        asked = await self._asked(request, service.desk.solve, body)
        if body.stream:
            live = Live(service.backbone, asked, bool(body.candidates))
            name = request.scope["trueplex"]["id"]
            return await self._streamed(request, body, asked, lambda job: live_events(live, job, name, service.aside))
        if body.candidates:
            raise Refusal(
                400, "candidates are only sent while paths run. Try: stream: true", "candidates", "invalid_value"
            )
        solution = await self._answered(request, body, service.solved(asked))
        self._note(request, solution)
        return Json(await service.aside(told, asked, solution))

    async def grade(self, request: Request) -> Response:
        """Whether a prediction is one of the right answers."""
        body = await self._read(request, GradeBody)
        found = await self.service.aside(grade, body.prediction, body.answers)
        return Json({"correct": found.correct, "extracted": found.extracted, "why": found.why})

    # -- tokens ---------------------------------------------------------------------------------------

    async def tokenize(self, request: Request) -> Response:
        """The token ids of a text, or of messages."""
        body = await self._read(request, TokenizeBody)
        if (body.prompt is None) == (not body.messages):
            raise Refusal(400, "give either a prompt or messages. Try: {'prompt': …}", "prompt", "invalid_value")
        desk = self.service.desk
        ids = await self.service.aside(desk.tokenize, body)
        found = {"count": len(ids), "max_model_len": desk.backbone.max_positions, "tokens": ids}
        if body.return_token_strs:
            found["token_strs"] = [desk.backbone.decode([i]) for i in ids]
        return Json(found)

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids."""
        body = await self._read(request, DetokenizeBody)
        return Json({"prompt": await self.service.aside(self.service.desk.detokenize, body)})

    # -- the server itself ----------------------------------------------------------------------------

    async def models(self) -> Response:
        """The model that is served."""
        return Json({"object": "list", "data": [self._card()]})

    async def model(self, name: str) -> Response:
        """The model of that name."""
        if name != self.service.name:
            raise Refusal(
                404, f"there is no model {name[:200]!r}. Try: {self.service.name!r}", "model", "model_not_found"
            )
        return Json(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self.service.name, "object": "model", "created": self.created, "owned_by": "trueplex",
                "max_model_len": self.service.backbone.max_positions}  # fmt: skip

    async def health(self) -> Response:
        """Whether new requests are accepted."""
        return Json({"status": "stopping" if self.service.draining else "ok"}, 503 if self.service.draining else 200)

    async def metrics(self) -> Response:
        """Metrics for Prometheus."""
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def page(self) -> Response:
        """A page to ask questions on, and to watch the paths."""
        return HTMLResponse(page_html())

    # -- parts ----------------------------------------------------------------------------------------

    async def _read(self, request: Request, kind: type[Any]) -> Any:
        return await body_of(request, kind, self.service.options.max_body)

    async def _asked(self, request: Request, read: Callable[..., Any], body: Any, *others: Any) -> Any:
        """What a body asks. Raises Refusal naming the field."""
        if self.service.options.log_text:
            request.scope["trueplex"]["body"] = body.model_dump(exclude_none=True)
        try:
            return await self.service.aside(read, body, *others)
        except TrueplexError as error:
            raise of_error(error, _fields(body)) from error

    async def _answered(self, request: Request, body: Any, work: Awaitable[Any]) -> Any:
        """What the work comes to. Raises Refusal naming the field, where the model's thread refuses it."""
        try:
            return await until_gone(request, work)
        except TrueplexError as error:
            raise of_error(error, _fields(body)) from error

    async def _streamed(
        self,
        request: Request,
        body: Any,
        asked: Asked,
        events: Callable[[Any], AsyncIterator[dict[str, Any]]],
        every: int = 1,
    ) -> Response:
        """A stream of events, which are told of running paths as `Job.every`. What is refused before the first one is refused by status."""

        async def stream() -> AsyncGenerator[dict[str, Any], None]:
            async with self.service.running(asked, every) as job:
                await job.accepted()
                async for event in events(job):
                    yield event

        source = stream()
        try:
            first = await until_gone(request, anext(source))
        except BaseException as error:
            await source.aclose()
            raise (of_error(error, _fields(body)) if isinstance(error, TrueplexError) else error) from error

        async def rest() -> AsyncGenerator[dict[str, Any], None]:
            try:
                yield first
                async for event in source:
                    yield event
            finally:
                await source.aclose()

        return EventStream(rest())

    def _note(self, request: Request, solution: Any) -> None:
        """What the access log tells of an answer."""
        usage = solution.usage
        found = {"paths": len(solution.traces), "prompt_tokens": usage.prompt_tokens,
                 "completion_tokens": usage.thinking_tokens + usage.answer_tokens, "state": solution.state}  # fmt: skip
        request.scope["trueplex"].update(found | ({"answer": solution.answer} if self.service.options.log_text else {}))
