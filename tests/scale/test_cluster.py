"""What is checked before Ray is asked, and what it may write: these need no Ray."""

from __future__ import annotations

import io
import socket
import threading

import pytest

from trueplex.errors import InputError, OptionError
from trueplex.scale.cluster import _check_room, _knock, _WithoutRay


def test_more_replicas_than_there_is_room_for_are_refused() -> None:
    _check_room({"CPU": 4.0, "GPU": 2.0}, 4, 0.5)
    with pytest.raises(OptionError, match=r"3 replicas of 1 GPUs need 3, and the cluster has 2.*smaller gpus_per_replica"):  # fmt: skip
        _check_room({"CPU": 4.0, "GPU": 2.0}, 3, 1)
    with pytest.raises(OptionError, match="5 replicas of 1 CPUs need 5, and the cluster has 4"):
        _check_room({"CPU": 4.0}, 5, 0)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no.such.host.invalid", "host:port"])
def test_an_address_that_does_not_answer_is_one_line(address: str) -> None:
    with pytest.raises(InputError, match=r"no Ray cluster answers at .*Try"):
        _knock(address)


def test_an_address_that_answers_is_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _knock(f"127.0.0.1:{server.getsockname()[1]}")


def test_what_ray_tells_from_its_threads_is_kept_from_standard_output() -> None:
    """It writes of a replica's death to standard output, where JSON is expected."""
    written = io.StringIO()
    stream = _WithoutRay(written)
    thread = threading.Thread(target=stream.write, args=("(raylet) A worker died",), name="ray_listen_error_messages")
    thread.start()
    thread.join()
    print("{}", file=stream)
    assert written.getvalue() == "{}\n" and not stream.isatty()
