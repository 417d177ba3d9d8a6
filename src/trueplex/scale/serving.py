"""The server on replicas, by Ray Serve: the same application in each, behind one address.

A request is solved by one replica: its paths share their prompt's KV there and are pruned against each
other, and draws belong to (seed, problem, path), so it does not matter which replica that is. Ray Serve asks each replica
for its health, starts a new one where it dies, and, between bounds, as many as there are requests for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from trueplex.errors import MissingExtra, ModelError, TrueplexError, reason
from trueplex.models.backbone import Backbone
from trueplex.scale.cluster import Cluster
from trueplex.serve.app import create_app
from trueplex.serve.options import ServerOptions
from trueplex.serve.running import aside, log_requests

NAME = "trueplex"
BUSY = 8  # requests that a replica is thinking about, above which another one is started
PENDING = 256  # requests that a replica holds at once; its own queue refuses what is more than it is set to
HEALTH_SECONDS = 5.0


@dataclass(frozen=True)
class Served:
    """What every replica serves, where the one address is, and between which bounds their number lies."""

    load: Callable[[], Backbone]
    options: ServerOptions
    host: str
    port: int
    least: int
    most: int
    drain_seconds: float
    quiet: bool = False


@contextlib.contextmanager
def serving(cluster: Cluster, what: Served) -> Iterator[None]:
    """Replicas that answer at the address, for as long as the block lasts.

    Raises:
        MissingExtra: Ray Serve is not installed.
        TrueplexError: no replica can be started, or two hold different models.
    """
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtra("Ray Serve", "ray") from error
    deployment = serve.deployment(
        serve.ingress()(_Replica), name=NAME, max_ongoing_requests=PENDING, health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=what.drain_seconds, ray_actor_options={"num_cpus": 1, "num_gpus": cluster.gpus},
        autoscaling_config={"min_replicas": what.least, "max_replicas": what.most, "initial_replicas": what.least,
                            "target_ongoing_requests": BUSY},
    )  # fmt: skip
    same = cluster.ray.remote(num_cpus=0)(_First).remote()
    try:
        serve.start(http_options={"host": what.host, "port": what.port})
        serve.run(deployment.bind(what.load, what.options, same, what.quiet), name=NAME, route_prefix="/")
    except (RuntimeError, cluster.ray.exceptions.RayError) as error:
        serve.shutdown()
        told = cluster.ray.get(same.refusal.remote())
        raise TrueplexError(told or f"the replicas cannot be started ({reason(error, 200)}). Try: run trueplex serve without --replicas "
                            "to see why") from error  # fmt: skip
    try:
        yield
    finally:
        serve.shutdown()


class _First:
    """The fingerprint of the first replica's model, which all others must have; and why a replica was not started."""

    def __init__(self) -> None:
        self.fingerprint: str | None = None
        self.why = ""

    def claim(self, fingerprint: str) -> str:
        self.fingerprint = self.fingerprint or fingerprint
        return self.fingerprint

    def refuse(self, why: str) -> None:
        self.why = why

    def refusal(self) -> str:
        return self.why


class _Replica:
    """One model behind the application; Ray Serve gives it the requests and asks for its health."""

    def __init__(self, load: Callable[[], Backbone], options: ServerOptions, same: Any, quiet: bool) -> None:
        import ray

        log_requests(quiet)
        try:
            backbone = aside(load)
            first = ray.get(same.claim.remote(backbone.fingerprint))
            if first != backbone.fingerprint:
                raise ModelError(f"two replicas hold different weights ({first} and {backbone.fingerprint}). Try: give all machines "
                                 "the same model")  # fmt: skip
            self.application = create_app(backbone, options)
        except TrueplexError as error:
            ray.get(same.refuse.remote(str(error)))
            raise

    def __serve_build_asgi_app__(self) -> Any:
        return self.application

    def check_health(self) -> None:
        """Raises where the model's thread has ended: Ray Serve then starts the replica again."""
        if not self.application.state.service.worker.alive:
            raise RuntimeError("the model's thread has ended")
