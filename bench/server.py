"""A server to measure: in a process of its own, or in this one, where its parts can be looked at."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import httpx
import uvicorn

from trueplex.models.backbone import Backbone
from trueplex.serve.app import create_app
from trueplex.serve.options import ServerOptions
from trueplex.serve.running import listening
from trueplex.serve.service import Service


@contextlib.contextmanager
def started(model: str, *options: str) -> Iterator[tuple[str, int]]:
    """`trueplex serve` in a process of its own: its URL and its process id."""
    with tempfile.TemporaryFile("w+") as told:
        command = [sys.executable, "-m", "trueplex", "serve", "--model", model, "--port", "0", "--quiet", *options]
        server = subprocess.Popen(command, stderr=told, text=True)
        try:
            yield _url(server, told), server.pid
        finally:
            server.terminate()
            server.wait(60)


def _url(server: subprocess.Popen[str], told: object) -> str:
    """What it says that it serves on. Raises RuntimeError with its own words where it ends before."""
    while True:
        told.seek(0)  # type: ignore[attr-defined]
        text = told.read()  # type: ignore[attr-defined]
        if found := [line for line in text.splitlines() if "serving" in line]:
            return found[-1].split()[-1]
        if server.poll() is not None:
            raise RuntimeError(f"the server did not start: {text[-500:]}")
        time.sleep(0.05)


@contextlib.contextmanager
def within(backbone: Backbone, options: ServerOptions) -> Iterator[tuple[str, Service]]:
    """The same in a thread of this process: its URL and its parts."""
    listener = listening("127.0.0.1", 0)
    app = create_app(backbone, options)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    while not server.started:
        time.sleep(0.01)
    httpx.get(f"{url}/health")
    try:
        yield url, app.state.service
    finally:
        server.should_exit = True
        thread.join(30)
