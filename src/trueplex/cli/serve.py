"""`trueplex serve`: an OpenAI-compatible server."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from trueplex.cli.groups import DecideOptions, MaxBatchSize, Verifier
from trueplex.cli.options import Within, check_count
from trueplex.cli.replicas import ServedModelOptions
from trueplex.errors import InputError, MissingExtra, OptionError
from trueplex.files import text_of

log = logging.getLogger(__name__)

EXAMPLE = "trueplex serve --model Qwen/Qwen3-4B --paths 16 --port 8000"
INTERRUPTED = 130


@dataclass(frozen=True)
class ListenOptions:
    """Where the server listens, and who may use it."""

    PANEL: ClassVar[str] = "Server"

    host: Annotated[str, typer.Option(help="Address to listen on; by default only this machine can connect.")] = "127.0.0.1"  # fmt: skip
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one."), Within(0, 65535)] = 8000
    served_name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="the --model")
    ] = None
    api_key_file: Annotated[Path | None, typer.Option(help="File with API keys, one a line; any of them opens the server.", show_default="no key")] = None  # fmt: skip
    metrics_open: Annotated[bool, typer.Option("--metrics-open", help="Serve /metrics without a key.")] = False
    cors_origin: Annotated[list[str] | None, typer.Option(help="Origin allowed by CORS, such as https://example.org; can be repeated.", show_default="none")] = None  # fmt: skip
    drain_seconds: Annotated[float, typer.Option(help="Seconds that running requests get to finish after SIGTERM.")] = (
        30.0
    )
    log_text: Annotated[bool, typer.Option("--log-text", help="Include prompts and answers in the access log.")] = False  # fmt: skip
    quiet: Annotated[bool, typer.Option("--quiet", help="Write no access log.")] = False

    def keys(self) -> tuple[str, ...]:
        """Raises InputError for a file that cannot be read or holds no key."""
        if self.api_key_file is None:
            return ()
        try:
            lines = text_of(self.api_key_file).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {self.api_key_file} ({error}). Try: check the path") from error
        keys = tuple(line.strip() for line in lines if line.strip())
        if not keys:
            raise InputError(
                f"{self.api_key_file} holds no key, which would leave the server open. Try: one key a line"
            )
        return keys

    @property
    def local(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class DefaultOptions:
    """Defaults of requests."""

    PANEL: ClassVar[str] = "Defaults of a request"

    paths: Annotated[str, typer.Option(help="Paths: a number, or 'auto' ('auto:LIMIT').")] = "8"
    thinking: Annotated[str | None, typer.Option(help="'discrete', 'multiplex', 'soft', 'stochastic-soft' or 'auto'.", show_default="auto")] = None  # fmt: skip
    width: Annotated[int | None, typer.Option(help="K: samples of a multiplex step, or tokens of a soft step.", show_default="3; 10 for soft")] = None  # fmt: skip
    merge: Annotated[str | None, typer.Option(help="'weighted' (by probability) or 'mean'.", show_default="weighted")] = None  # fmt: skip
    verifier: Verifier = "auto"
    probe_every: Annotated[int | None, typer.Option(help="Tokens between two scores of a path.", show_default="32"), Within(1)] = None  # fmt: skip
    budget_tokens: Annotated[int | None, typer.Option(help="Most tokens of all paths.", show_default="no limit"), Within(1)] = None  # fmt: skip
    budget_seconds: Annotated[float | None, typer.Option(help="Most seconds; the vote then counts what has finished.", show_default="no limit")] = None  # fmt: skip
    budget_paths: Annotated[int | None, typer.Option(help="Most paths.", show_default="no limit"), Within(1)] = None
    seed: Annotated[str, typer.Option(help="Seed of requests without one; 'random' draws one per request, and the answer tells it.")] = "0"  # fmt: skip

    def __post_init__(self) -> None:
        check_count("--paths", self.paths.removeprefix("auto:"))
        check_count("--seed", self.seed)
        if self.seed != "random" and not self.seed.isdecimal():
            raise OptionError(f"--seed is {self.seed[:40]!r}. Try: a whole number, or 'random'")

    def given(self, decide: DecideOptions) -> dict[str, Any]:
        """The options by the names of a request's ``trueplex`` object."""
        found: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seed"}
        found["paths"] = int(self.paths) if self.paths.isdecimal() else self.paths
        found |= {"prune": decide.prune, "select": decide.select, "abstain_below": decide.abstain_below,
                  "max_error": decide.max_error, "alarms": decide.alarm}  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class BoundOptions:
    """The largest request that is accepted."""

    PANEL: ClassVar[str] = "Limits of a request"

    max_batch_size: MaxBatchSize = None
    max_paths: Annotated[int, typer.Option(help="Most paths, or choices, of a request."), Within(1)] = 64
    max_width: Annotated[int, typer.Option(help="Most samples of a step."), Within(1, 64)] = 16
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of a path.", show_default="the model's positions"), Within(1)] = None  # fmt: skip
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Most tokens of a prompt.", show_default="the model's positions"), Within(1)] = None  # fmt: skip
    max_body: Annotated[int, typer.Option(help="Most bytes of a body."), Within(1)] = 1 << 20
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait for rows; the next one gets status 429."), Within(0)] = 256  # fmt: skip
    max_request_seconds: Annotated[float, typer.Option(help="Most seconds of a request; the vote then counts what has finished.")] = 600.0  # fmt: skip
    allow_verifier: Annotated[list[str] | None, typer.Option(help="A verifier that requests may name, beside 'auto' and those that need no files; can be repeated.", show_default="none")] = None  # fmt: skip


def serve(model: ServedModelOptions, listen: ListenOptions, defaults: DefaultOptions, decide: DecideOptions, bounds: BoundOptions) -> int:  # fmt: skip
    """Serve a model over OpenAI's API; every request reasons along many paths, and any OpenAI client works."""
    try:
        from trueplex.serve.app import create_app
        from trueplex.serve.running import INTERRUPTED as BY_HAND
        from trueplex.serve.running import aside, listening, log_requests, run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("trueplex"):
            raise
        raise MissingExtra(error.name or "fastapi", "serve") from error
    from trueplex.serve.options import ServerOptions

    options = ServerOptions(
        name=listen.served_name, defaults=defaults.given(decide), verifiers=tuple(bounds.allow_verifier or ()),
        seed=None if defaults.seed == "random" else int(defaults.seed), rows=bounds.max_batch_size, max_paths=bounds.max_paths,
        max_width=bounds.max_width, max_tokens=bounds.max_tokens, max_prompt_tokens=bounds.max_prompt_tokens,
        max_body=bounds.max_body, max_waiting=bounds.max_waiting, max_seconds=bounds.max_request_seconds, keys=listen.keys(),
        metrics_open=listen.metrics_open, origins=tuple(listen.cors_origin or ()), log_text=listen.log_text,
    )  # fmt: skip
    if not listen.local and not options.keys:
        log.warning(f"{listen.host} is reachable from other machines, and needs no API key. Try: --api-key-file FILE")
    if model.replicas is not None:
        return _on_replicas(model, listen, options)
    with listening(listen.host, listen.port) as listener:
        app = create_app(aside(model.load), options)
        log_requests(listen.quiet)
        log.info(f"serving {app.state.service.name} on http://{listen.host}:{listener.getsockname()[1]}")
        return INTERRUPTED if run(app, listener, listen.drain_seconds) == BY_HAND else 0


def _on_replicas(model: ServedModelOptions, listen: ListenOptions, options: Any) -> int:
    """Serve on replicas until SIGINT or SIGTERM; running requests then get some seconds to finish."""
    import signal

    from trueplex.scale.serving import Served, serving

    assert model.replicas is not None
    served = Served(
        model.load, options, listen.host, listen.port, model.replicas, model.most, listen.drain_seconds, listen.quiet
    )
    with model.cluster() as cluster:
        stopped: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: stopped.append(number))
        with serving(cluster, served):
            log.info(f"serving on {model.replicas} replicas at http://{listen.host}:{listen.port}")
            while not stopped:
                signal.pause()
    return INTERRUPTED if stopped[0] == signal.SIGINT else 0
