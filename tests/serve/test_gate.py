"""Keys, ids, limits, the log, figures, origins, and a server that is told to stop."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from served import PROBLEM, Served, serving
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.serve.options import ServerOptions
from trueplex.serve.running import listening

KEY = {"authorization": "Bearer first"}


def test_only_a_key_opens_the_server(closed: Served) -> None:
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "first"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer first2"},
    ):
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
            refused = closed.http.get(path, headers=headers)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    assert closed.http.get("/health").status_code == 200
    assert closed.http.get("/v1/models", headers=KEY).json()["data"][0]["id"] == "small"
    assert (
        closed.http.get("/v1/models", headers={"authorization": "Bearer s\u00e9cret".encode("utf-8")}).status_code
        == 200
    )


def test_ids_are_kept_and_made(served: Served) -> None:
    assert served.http.get("/health", headers={"x-request-id": "a-b.c:1"}).headers["x-request-id"] == "a-b.c:1"
    made = [
        served.http.get("/health", headers={"x-request-id": bad}).headers["x-request-id"]
        for bad in ("", "a b", "x" * 200)
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in made) and len(set(made)) == 3


def test_bodies_are_bounded_and_must_be_json(served: Served) -> None:
    def post(content: bytes, kind: str = "application/json") -> httpx.Response:
        return served.http.post("/v1/solve", content=content, headers={"content-type": kind})

    assert post(b"x" * (1 << 17)).status_code == 413
    assert post(b"{}", "text/plain").status_code == 415
    for content in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'{"problem": NaN}',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"problem": "\\ud800"}',
        b'{"problem": "x", "system": "\\ud800"}',
        b'{"seed": ' + b"9" * 5000 + b"}",
    ):
        answer = post(content)
        assert answer.status_code == 400 and set(answer.json()["error"]) == {"message", "type", "param", "code"}, (
            content[:40]
        )
    assert (
        served.http.get("/v1/solve").status_code == 405
        and served.http.get("/nowhere").json()["error"]["code"] == "not_found"
    )


def test_the_log_has_no_word_of_a_user(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("trueplex.access").setLevel(logging.INFO)
    with caplog.at_level(logging.DEBUG):
        served.post(
            "/v1/solve",
            {"problem": "Bob has 5 secretfruits.", "paths": 1, "max_tokens": 5},
            headers={"x-request-id": "mine"},
        )
        served.post("/v1/solve?q=secretfruits", {"problem": "secretfruits", "secretfruits": 1})
        served.http.get("/secretfruits")
    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "trueplex.access"]
    assert not [
        r for r in caplog.records if r.name.startswith("trueplex") and "secretfruits" in r.getMessage()
    ]  # clients log, too
    (line,) = [one for one in lines if one["id"] == "mine"]
    assert (line["path"], line["status"], line["paths"], line["completion_tokens"]) == ("/v1/solve", 200, 1, 5)
    assert {one["status"] for one in lines} == {200, 400, 404}


def test_who_leaves_within_the_body_is_no_failure(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with caplog.at_level(logging.INFO):
        with socket.create_connection((host, int(port))) as half:
            half.sendall(
                b"POST /v1/solve HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
            )
            time.sleep(0.1)
        served.until(lambda: [r for r in caplog.records if r.name == "trueplex.access"])
    told = [json.loads(r.getMessage()) for r in caplog.records]
    assert [t.get("status") for t in told] == [499], told


def test_figures(served: Served) -> None:
    def figures() -> dict[str, float]:
        lines = [
            line.rsplit(" ", 1) for line in served.http.get("/metrics").text.splitlines() if not line.startswith("#")
        ]
        return {name: float(value) for name, value in lines}

    before = figures()
    usage = served.post("/v1/solve", {"problem": PROBLEM, "paths": 2, "max_tokens": 20}).json()["usage"]
    after = figures()
    for name, spent in (("prompt_tokens", usage["prompt_tokens"]), ("generation_tokens", usage["thinking_tokens"] + usage["answer_tokens"]),
                        ("probe_tokens", usage["probe_tokens"])):  # fmt: skip
        assert after[f"trueplex_{name}_total"] - before[f"trueplex_{name}_total"] == spent
    assert after["trueplex_num_requests_running"] == after["trueplex_num_requests_waiting"] == 0
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert after[f"trueplex_{name}_count"] == before.get(f"trueplex_{name}_count", 0) + 1


def test_other_origins_are_refused_unless_they_are_named(served: Served, reference: Backbone) -> None:
    asked = {
        "origin": "https://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
    }
    assert "access-control-allow-origin" not in served.http.options("/v1/solve", headers=asked).headers
    with serving(reference, ServerOptions(origins=("https://page.example",), keys=("k",))) as one:
        answer = one.http.options("/v1/solve", headers=asked)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "https://page.example"
        other = one.http.options("/v1/solve", headers=asked | {"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.slow
def test_sigterm_ends_what_has_begun_and_nothing_else() -> None:
    """The process as a user starts it: it drains, and its exit code is 0."""
    command = [
        sys.executable,
        "-m",
        "trueplex",
        "serve",
        "--port",
        "0",
        "--paths",
        "2",
        "--drain-seconds",
        "60",
        "--quiet",
    ]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert server.stderr is not None
    told = ""
    while "serving reference on" not in told:
        told = server.stderr.readline()
        assert told
    url = told.split()[-1]
    body = {"problem": PROBLEM, "max_tokens": 150, "temperature": 5, "thinking": "discrete", "stream": True}
    with httpx.stream("POST", f"{url}/v1/solve", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        assert "started" in next(lines)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        rest = "\n".join(lines)
    assert '"event":"solution"' in rest and rest.rstrip().endswith("[DONE]")
    assert server.wait(60) == 0
    assert '"path"' not in server.stderr.read(), "a quiet server has no access log"
    server.stderr.close()


@pytest.mark.parametrize("host", ["\udcff", "x" * 5000, "a..b", "nul\0"])
def test_a_name_that_no_host_can_have_is_one_line(host: str) -> None:
    with pytest.raises(OptionError, match=r"cannot listen on .{1,60}:0 \(.*\)\. Try: another port or host$"):
        listening(host, 0)


@pytest.mark.parametrize(("arguments", "told"), [(["--port", "1", "--host", "256.1.1.1"], "cannot listen"), (["--api-key-file", "/nowhere"], "cannot read"),
                                                 (["--paths", "100"], "paths is 100"), (["--prune", "quarter:3"], "unknown pruning rule")])  # fmt: skip
def test_what_cannot_be_served_is_said_before_anybody_asks(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trueplex.cli import main

    monkeypatch.setattr(sys, "argv", ["trueplex", "serve", "--port", "0", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and told in said and "Traceback" not in said
