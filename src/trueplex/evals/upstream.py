"""`trueplex eval --endpoint`: the same figures from paths that another server wrote; traces as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trueplex.data.traces import Origin, open_store, read_traces, to_row
from trueplex.errors import InputError
from trueplex.evals.methods import choose
from trueplex.evals.run import machine, write_results
from trueplex.evals.summary import summarise
from trueplex.locks import locks
from trueplex.solving.endpoint import TOP, Server
from trueplex.solving.events import Stopped
from trueplex.solving.settings import Settings
from trueplex.solving.upstream import Upstream, configuration
from trueplex.types import Problem

TRACES = "traces.jsonl"
OF_TOKENS = ("entropy", "explored", "auroc_within_entropy", "curves")  # figures that need those of the alternatives


@locks("out")
def evaluate(
    server: Server, suites: Mapping[str, Sequence[Problem]], settings: Settings, out: Path,
    progress: Callable[[int, int], None], methods: Sequence[str] | None = None, read_truncated: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Traces of each suite under `out`/SUITE, figures in `out`/results.json, which is returned; what is stored is not asked again.

    Without a verifier the methods are those that read no score, unless ``methods`` names others.

    Raises:
        EndpointError: the server cannot be used, or tells no log-probabilities and a method reads them.
        OptionError: a method is unknown or needs scores that the run does not have.
        StoreError: `out` holds traces of another server or of other options.
    """
    scored = settings.verifier != "none"
    methods = methods or (None if scored else ["majority"])
    read = {c.scorer for c in choose(methods, scored, settings.probe_every)} | {settings.verifier if scored else None}
    logprobs = None if read == {None} else 0 if read <= {None, "logprob"} else TOP
    figures = {}
    for name, problems in suites.items():
        if unlabelled := [p for p in problems if not p.answers]:
            raise InputError(
                f"{len(unlabelled)} problems have no answers; the first is {unlabelled[0].text[:60]!r}. Try: add them"
            )
        path = out / name / TRACES
        _sample(server, problems, settings, path, progress, logprobs)
        order = [problem.key for problem in problems]
        figures[name] = summarise(
            (t for t, _ in read_traces(path)),
            methods,
            order,
            scored,
            read_truncated,
            settings.probe_every,
            settings.kind,
        )
        if not logprobs:
            figures[name] = {key: value for key, value in figures[name].items() if key not in OF_TOKENS}
    result = {
        "config": configuration(settings, server) | {"read_truncated": read_truncated},
        "machine": machine(),
        "suites": figures,
    }
    write_results(result, out)
    return result


def _sample(
    server: Server, problems: Sequence[Problem], settings: Settings, path: Path, progress: Callable[[int, int], None], logprobs: int | None
) -> None:  # fmt: skip
    """Ask for the traces that are not stored yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {name: value for name, value in configuration(settings, server).items() if name not in ("paths", "endpoint")}
    origin = Origin(f"endpoint:{server.model}", "endpoint", json.dumps(told | {"logprobs": logprobs}))
    stored = [t for t, _ in read_traces(path, origin)] if path.exists() else []
    progress(len(stored), 0)
    events = Upstream(server, problems, settings, stored, logprobs)
    store = open_store(path)
    try:
        for event in events:
            if isinstance(event, Stopped):
                store.append([to_row(event.trace, (), origin)])
                progress(1, event.trace.tokens)
    finally:
        store.close()
