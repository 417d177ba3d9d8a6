"""Replicas as a pool of Ray actors, driven by Ray Data: `Dataset.map_batches` with a class that holds one model.

Ray restarts a replica that dies and reassigns its work; results it had already sent arrive once. Left out: Ray's
own progress bars and its dashboard, as the command line shows progress of the whole run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from trueplex.errors import InputError, MissingExtra, OptionError, reason
from trueplex.scale.replica import Failed, Job, Replica, Work
from trueplex.scale.spread import Said

log = logging.getLogger(__name__)

LOCAL, AUTO = "local", "auto"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # Ray reads these when it is imported
SECONDS = 5  # how long a cluster may take to answer
CLIENT_PORT, PORT = 10001, 6379  # Ray's own
RESTARTS = 50  # of replicas in one run, after which it is no accident
AHEAD = 2  # pieces of work that a replica has: with one alone it waits for the next, a tenth of its time where the cores are all busy


class Cluster:
    """Ray, connected to or started, and so many replicas on it; use it in a ``with`` statement.

    Args:
        address: ``local`` starts Ray on this machine, for as long as the run lasts; ``auto`` takes the cluster that this
            machine belongs to; anything else is HOST:PORT or ray://HOST:PORT.
        replicas: models that are held at once.
        gpus: GPUs of each; a share such as 0.5 lets replicas share one. None is one each where the cluster has any.

    Raises:
        MissingExtra: Ray is not installed.
        InputError: no cluster answers at the address.
        OptionError: the cluster has fewer CPUs or GPUs than the replicas need.
    """

    def __init__(self, address: str = LOCAL, replicas: int = 1, gpus: float | None = None) -> None:
        self.ray = _ray()
        self.replicas = replicas
        self._connect(address)
        try:
            there = self.ray.cluster_resources()
            self.gpus = gpus if gpus is not None else float(there.get("GPU", 0) > 0)
            _check_room(there, replicas, self.gpus)
        except BaseException:
            self.close()
            raise
        self.accelerated = self.gpus > 0
        self._starts = self.ray.remote(num_cpus=0)(_Counter).remote()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.ray.shutdown()
        if isinstance(sys.stdout, _WithoutRay):
            sys.stdout = sys.stdout.stream

    def _connect(self, address: str) -> None:
        before = signal.getsignal(signal.SIGTERM)
        if address not in (LOCAL, AUTO):
            _knock(address)
        try:
            with _hushed():
                if address == LOCAL:
                    cores = max(os.cpu_count() or 1, self.replicas)
                    self.ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
                else:
                    self.ray.init(address=address, log_to_driver=False)
        except Exception as error:  # Ray raises a kind of its own for every stage of connecting
            what = "Ray cannot be started here" if address == LOCAL else f"no Ray cluster answers at {address!r}"
            raise InputError(f"{what} ({reason(error, 200)}). Try: 'ray start --head' on one machine, and its address, or "
                             "--ray without one") from error  # fmt: skip
        finally:
            with contextlib.suppress(ValueError):  # not in the main thread, where Ray sets none either
                signal.signal(signal.SIGTERM, before)
        for logger in ("ray", "ray.data"):
            logging.getLogger(logger).setLevel(logging.ERROR)
        sys.stdout = _WithoutRay(sys.stdout)

    def run(self, job: Job, work: Sequence[Work]) -> Iterator[Said]:
        """What the replicas say to the work; see `trueplex.scale.spread.Runner`."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = (
            1  # so that every answer is sent when it is given, and not when its work is done
        )
        context.max_consecutive_actor_init_deaths = RESTARTS
        # Ray would stop a replica at its fifth answer until they are fetched, which took a twentieth of two replicas' time; there
        # is no public name for it. Answers are small.
        context._max_num_blocks_in_streaming_gen_buffer = None
        items = [{"work": pickle.dumps(one)} for one in work]
        replicas = min(self.replicas, len(work))
        most = ray.get(self._starts.value.remote()) + replicas + RESTARTS
        answers = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _Actor, batch_size=1, fn_constructor_args=(job, self._starts, most), num_cpus=1, num_gpus=self.gpus or None,
            compute=ray.data.ActorPoolStrategy(size=replicas, max_tasks_in_flight_per_actor=AHEAD),
        )  # fmt: skip
        for row in answers.iter_rows():
            yield pickle.loads(row["said"])
        if died := ray.get(self._starts.value.remote()) - (most - RESTARTS):
            log.info(f"replicas died and were restarted {died} times; no work was lost")


class _Counter:
    """How many replicas were started, on the whole cluster."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def value(self) -> int:
        return self.count


class _Actor:
    """A replica as Ray Data wants it: a batch of one piece of work in, one column of answers out."""

    def __init__(self, job: Job, starts: Any, most: int) -> None:
        import ray

        self.replica: Callable[[Work], Iterable[Any]]
        if ray.get(starts.add.remote()) <= most:
            self.replica = Replica(job)
        else:  # Ray itself would start it again for ever
            told = f"replicas died more than {RESTARTS} times. Try: check their memory use, then run again (finished work is kept)"
            self.replica = lambda work: [Failed("TrueplexError", told)]

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[bytes]]]:
        work = pickle.loads(batch["work"][0])
        for said in self.replica(work):
            yield {"said": [pickle.dumps((work.number, said))]}


def _ray() -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra("Ray", "ray") from error
    return ray


class _WithoutRay:
    """Standard output, where results go, without what Ray tells about its workers from a thread of its own."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.current_thread().name.startswith("ray_") else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Nothing on standard error: Ray tells there how it starts; where it cannot, it raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _knock(address: str) -> None:
    """Raise InputError where nothing listens, as Ray itself would go on asking for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    default = CLIENT_PORT if address.startswith("ray://") else PORT
    if not host:
        host, port = port, str(default)
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS).close()
    except (OSError, ValueError) as error:
        raise InputError(f"no Ray cluster answers at {address!r} ({reason(error, 100)}). Try: HOST:PORT of 'ray start --head', "
                         "'auto', or --ray without an address to start one here") from error  # fmt: skip


def _check_room(there: dict[str, float], replicas: int, gpus: float) -> None:
    for name, each in (("GPU", gpus), ("CPU", 1.0)):
        needed, has = replicas * each, there.get(name, 0)
        if needed > has:
            raise OptionError(f"{replicas} replicas of {each:g} {name}s need {needed:g}, and the cluster has {has:g}. Try: fewer "
                              f"--replicas{', or a smaller --gpus-per-replica' if name == 'GPU' else ''}")  # fmt: skip
