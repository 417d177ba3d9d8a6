"""Figures for Prometheus, by vLLM's names where they mean the same."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trueplex.serve.worker import Began, Done, Grown, Job, Told, Worker
from trueplex.types import Solution, Status

SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One application's figures; what the worker holds is asked when somebody reads them."""

    def __init__(self, worker: Worker) -> None:
        self.registry = CollectorRegistry()
        self._gauge("num_requests_running", "Requests being decoded.", lambda: len(worker.jobs) - len(worker.waiting))
        self._gauge("num_requests_waiting", "Requests waiting for rows.", lambda: len(worker.waiting))
        self._gauge("num_paths_running", "Paths being decoded.", lambda: worker.load.rows)
        self._gauge("kv_cache_usage_perc", "Share of the KV cache's memory in use, 0 to 1.", lambda: worker.load.share)
        self._gauge("kv_cache_bytes", "Size of the KV cache.", lambda: worker.load.cache_bytes)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens processed.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens of all paths, thinking and answer.")
        self.reasoning_tokens = self._counter("reasoning_tokens", "Thinking tokens of all paths.")
        self.probe_tokens = self._counter("probe_tokens", "Tokens processed by verifiers.")
        self.paths = self._counter("paths", "Paths that stopped, by status.", "status")
        self.success = self._counter("request_success", "Requests answered, by how they ended.", "finished_reason")
        self.refused = self._counter("request_refused", "Responses that were errors, by status.", "status")
        self.gone = self._counter("request_cancelled", "Requests whose client disconnected.")
        self.first = self._histogram("time_to_first_token_seconds", "Time to the first token of a request.", SHORT)
        self.between = self._histogram("inter_token_latency_seconds", "Time between tokens of a streamed path.", SHORT)
        self.whole = self._histogram("e2e_request_latency_seconds", "Time until a request was answered.", LONG)
        self.queued = self._histogram("request_queue_time_seconds", "Time until a request got rows.", SHORT)

    def _gauge(self, name: str, told: str, ask: Callable[[], float]) -> None:
        Gauge(f"trueplex_{name}", told, registry=self.registry).set_function(ask)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"trueplex_{name}", told, labels, registry=self.registry)

    def _histogram(self, name: str, told: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"trueplex_{name}", told, buckets=buckets, registry=self.registry)

    def heard(self, job: Job, event: Told) -> None:
        """Count the events of a request."""
        now = time.monotonic()
        if isinstance(event, Began):  # a request has rows from the step of its first token on
            self.queued.observe(now - job.created)
            self.first.observe(now - job.created)
        elif isinstance(event, Grown):
            if event.path in job.times:
                self.between.observe((now - job.times[event.path]) / len(event.steps))
            job.times[event.path] = now
        elif isinstance(event, Done):
            self._solved(event.solution, now - job.created)

    def _solved(self, solution: Solution, seconds: float) -> None:
        usage = solution.usage
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.generation_tokens.inc(usage.thinking_tokens + usage.answer_tokens)
        self.reasoning_tokens.inc(usage.thinking_tokens)
        self.probe_tokens.inc(usage.probe_tokens)
        for trace in solution.traces:
            self.paths.labels(trace.status.value).inc()
        cut = all(t.status is not Status.FINISHED for t in solution.traces)
        self.success.labels("abstained" if solution.abstained else "length" if cut else "stop").inc()
        self.whole.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
