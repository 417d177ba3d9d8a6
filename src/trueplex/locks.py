"""Locks that stop a second run on the same file or folder, and say who holds it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import inspect
import json
import logging
import os
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from trueplex.errors import StoreError, reason
from trueplex.files import failure, is_special, read_json

log = logging.getLogger(__name__)

Work = TypeVar("Work", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    pid: int
    host: str
    since: str


class Lock:
    """An advisory lock on a file or a folder, held from its creation until `release`, or until the process ends.

    It is `flock` on a side file: ``NAME.lock`` for a file, ``side`` inside a folder. With ``folder`` the path is one,
    which is made where it is missing. Releasing removes the side file. After a
    kill it stays behind, unlocked, and the next run takes it over. Where the system or the disk has no such locks
    (Windows, some network disks) that is logged once, and two runs at a time are not noticed. Threads of one process
    exclude each other, too. Devices and pipes are not locked.

    Raises:
        StoreError: another run holds it (which, where and since when is told), or the side file cannot be made.
    """

    def __init__(self, path: str | Path, folder: bool = False, side: str = ".lock") -> None:
        self.path = Path(path)
        self._release: Callable[[], Any] = lambda: None
        try:
            if is_special(path):
                return
            target = Path(os.path.realpath(path))
            beside = target / side if folder or target.is_dir() else target.with_name(target.name + ".lock")
            beside.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(beside, self.path)
        except StoreError:
            raise
        except (OSError, ValueError) as error:
            raise failure("write", path, error) from error
        if handle is not None:
            self._release = weakref.finalize(self, _unlock, handle, beside, os.getpid())

    def release(self) -> None:
        """Give the lock back; a second time does nothing."""
        self._release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def lock(path: str | Path, folder: bool = False, side: str = ".lock") -> Lock:
    """Lock a file, or a folder, for this run: ``with lock(out, folder=True): …``. Raises StoreError as `Lock`."""
    return Lock(path, folder, side)


def locks(folder: str, side: str = ".lock") -> Callable[[Work], Work]:
    """Decorates what writes into a folder, the argument so called: a second run says who is at work there, and stops.

    What calls such a function for the same folder takes another ``side``. Of several processes under torchrun the first holds the lock. Without a folder (None) nothing is locked.
    """

    def decorate(work: Work) -> Work:
        signature = inspect.signature(work)

        @functools.wraps(work)
        def alone(*arguments: Any, **named: Any) -> Any:
            out = signature.bind(*arguments, **named).arguments.get(folder)
            if out is None or os.environ.get("RANK", "0") != "0":
                return work(*arguments, **named)
            with lock(out, True, side):
                return work(*arguments, **named)

        return alone  # type: ignore[return-value]

    return decorate


def _locked(side: Path, path: Path) -> int | None:
    """The handle of the side file, locked, or None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        _without_locks("this system has none")
        return None
    while True:
        handle = os.open(side, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise StoreError(f"{path} is in use by {_holder(side)}. Try: wait until that run ends, or choose another "
                             "--out or --save") from error  # fmt: skip
        except OSError as error:
            os.close(handle)
            _without_locks(reason(error))
            return None
        if _is_at(side, handle):
            break
        os.close(handle)  # its last holder has just removed it: another one is there now, or none
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    with contextlib.suppress(OSError):  # a full disk: the lock holds, only its holder's name is missing
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(dataclasses.asdict(Holder(os.getpid(), socket.gethostname(), now))).encode(), 0)
    return handle


def _is_at(side: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(side))
    except FileNotFoundError:
        return False


def _holder(side: Path) -> str:
    try:
        holder = read_json(side, Holder)
    except StoreError:
        return "another run"
    who = "this process" if holder.pid == os.getpid() else f"process {holder.pid}"
    return f"{who} on {holder.host}, since {holder.since.replace('T', ' ')}"


def _unlock(handle: int, side: Path, pid: int) -> None:
    """Remove the side file while it is still locked, so that nobody locks a file that is about to go."""
    if os.getpid() == pid:  # a forked child shares the lock, and may not give it back
        with contextlib.suppress(OSError):
            side.unlink()
    os.close(handle)


_said: set[str] = set()


def _without_locks(why: str) -> None:
    if why not in _said:
        _said.add(why)
        log.warning(
            f"files cannot be locked here ({why}): a second run that writes to the same place would not be noticed"
        )
