"""Request bodies, server-sent events, and immediate detection of disconnected clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from trueplex.serve.refusals import Refusal, of_error, of_validation

Model = TypeVar("Model", bound=BaseModel)
Result = TypeVar("Result")
DISCARDED = 1 << 24  # bytes of a body too large that are read all the same, as who still sends hears no answer
KEEP_ALIVE = 15.0  # seconds between comment lines while there is nothing to tell


class Gone(Exception):
    """The client has closed its connection."""


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encoded(content)


def refused(error: Refusal) -> Json:
    return Json(error.body(), error.status, error.headers)


async def body_of(request: Request, kind: type[Model], most: int) -> Model:
    """The body, checked. Raises Refusal: 415, 413 before it is read to the end, or 400 naming the field; Gone without its end."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise Refusal(415, f"the content type is {media[:80]!r}. Try: application/json", None, "unsupported_media_type")
    raw, size = bytearray(), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size <= most:
                raw += chunk
            elif size > most + DISCARDED:
                break
    except ClientDisconnect:
        raise Gone from None
    if size > most:
        told = f"the body has more than {most} bytes. Try: a shorter one"
        raise Refusal(413, told, None, "body_too_large", {"connection": "close"})
    try:
        content = json.loads(bytes(raw), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(
            400, f"the body is not valid JSON ({type(error).__name__}). Try: correct it", None, "invalid_json"
        ) from None
    if not isinstance(content, dict):
        raise Refusal(400, "the body is not a JSON object. Try: {…}", None, "invalid_json")
    if (field := _half_a_character(content)) is not None:
        raise Refusal(
            400,
            f"{field[:60]}: a text holds half of a surrogate pair, which is no character. Try: correct it",
            field,
            "invalid_value",
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise of_validation(error) from None


def _half_a_character(content: dict[str, Any]) -> str | None:
    r"""The first field whose texts cannot be encoded; JSON may spell half of a character, such as ``\ud800``."""
    for name, value in content.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return name
    return None


def _no_constant(name: str) -> None:
    raise ValueError(name)


async def until_gone(request: Request, work: Awaitable[Result]) -> Result:
    """What the work comes to; it is cancelled, and Gone raised, where the client leaves before."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for one in (task, gone):
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await one


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Events as they come, one JSON object a ``data:`` line, then ``[DONE]``; an error on the way is the last event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        super().__init__(None, headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(_gone(receive))
        coming = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            while True:
                coming = coming or asyncio.ensure_future(anext(self._events, None))
                await asyncio.wait({coming, gone}, timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise Gone
                if not coming.done():
                    await _line(send, b": keep-alive\n\n")
                    continue
                event, coming = self._next(coming), None
                if event is None:
                    break
                await _line(send, b"data: " + encoded(event) + b"\n\n")
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        finally:
            for task in (coming, gone):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await task
            await self._events.aclose()

    def _next(self, coming: asyncio.Future[dict[str, Any] | None]) -> dict[str, Any] | None:
        """The event that has come. An error is told as one; the events end behind it by themselves."""
        try:
            return coming.result()
        except Exception as error:
            return of_error(error).body()


async def _line(send: Send, line: bytes) -> None:
    await send({"type": "http.response.body", "body": line, "more_body": True})
