"""A server in a thread on a free port, with the embedded model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import httpx
import openai
import pytest
import uvicorn

from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.serve.app import create_app
from trueplex.serve.options import ServerOptions
from trueplex.serve.running import listening
from trueplex.serve.service import Service

PROBLEM = "Ann has 3 apples. Ann buys 4 more. How many apples are there now?"


@dataclass
class Served:
    url: str
    service: Service
    key: str = "none"

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=60)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        return self.http.post(path, json=body, **options)  # type: ignore[arg-type]

    def until(self, true: object, seconds: float = 10) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds
        while not true():  # type: ignore[operator]
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.005)


@contextmanager
def serving(backbone: Backbone, options: ServerOptions) -> Iterator[Served]:
    listener = listening("127.0.0.1", 0)
    app = create_app(backbone, options)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service)
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def reference() -> Backbone:
    return load("reference")


@pytest.fixture(scope="session")
def served(reference: Backbone) -> Iterator[Served]:
    with serving(reference, ServerOptions(defaults={"paths": 4}, max_body=1 << 16)) as found:
        yield found


@pytest.fixture(scope="session")
def closed(reference: Backbone) -> Iterator[Served]:
    """One with a key, and hardly any room."""
    options = ServerOptions(keys=("first", "s\u00e9cret"), rows=4, max_waiting=1, max_paths=4, name="small")
    with serving(reference, options) as found:
        yield replace(found, key="first")
