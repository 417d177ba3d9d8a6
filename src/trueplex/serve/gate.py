"""Middleware for every request: an id, the API key, the access log. Plain ASGI, so that streams and disconnects go through."""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trueplex.serve.options import ServerOptions
from trueplex.serve.refusals import Refusal, of_error
from trueplex.serve.transport import Gone, encoded

log = logging.getLogger("trueplex.access")
ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
OPEN = ("/", "/health")  # what needs no key: the page itself holds nothing
CLOSED_BY_CLIENT = 499


class Gate:
    """Wraps the application. What the log may hold of a request is put into ``scope["trueplex"]`` by the endpoints."""

    def __init__(
        self, app: ASGIApp, options: ServerOptions, refused: Callable[[int], None], draining: Callable[[], bool]
    ) -> None:
        self.app, self.options, self._refused, self._draining = app, options, refused, draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        name = given if ID.fullmatch(given) else uuid.uuid4().hex
        scope["trueplex"] = told = {"id": name}
        began, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode())]
            await send(message)

        try:
            self._check(scope, headers)
            await self.app(scope, receive, sending)
        except Gone:
            status = CLOSED_BY_CLIENT
        except Exception as error:
            refusal = of_error(error)
            if not isinstance(error, Refusal):
                log.error(json.dumps({"id": name, "error": type(error).__name__}))
            if not status:
                await _refuse(refusal, sending)
        finally:
            if status >= 400:
                self._refused(status)
            self._note(scope, status, time.monotonic() - began, told)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        path = scope["path"]
        if self._draining() and scope["method"] == "POST":
            raise Refusal(503, "the server is stopping. Try: again later", None, "stopping", {"retry-after": "10"})
        if (
            not self.options.keys
            or path in OPEN
            or scope["method"] == "OPTIONS"
            or (path == "/metrics" and self.options.metrics_open)
        ):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # Every key is compared, each in constant time, so that nothing is learned from how long it takes.
        fits = [hmac.compare_digest(key.strip().encode("latin-1"), known.encode()) for known in self.options.keys]
        if scheme.lower() != "bearer" or not any(fits):
            raise Refusal(401, "the API key is missing or wrong. Try: the header 'Authorization: Bearer KEY'", None, "invalid_api_key",
                          {"www-authenticate": "Bearer"})  # fmt: skip

    def _note(self, scope: Scope, status: int, seconds: float, told: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "unknown")  # the path itself may hold what a user wrote
        client = (scope.get("client") or ("",))[0]
        log.info(json.dumps({"time": round(time.time(), 3), "method": scope["method"], "path": route, "status": status,
                             "seconds": round(seconds, 4), "client": client, **told}))  # fmt: skip


async def _refuse(refusal: Refusal, send: Send) -> None:
    body = encoded(refusal.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
