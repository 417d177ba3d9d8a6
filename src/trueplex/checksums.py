"""Checksums of files: of whole folders that were written, and digests that are remembered by what identifies a file.

A file that was once read whole is not read again for its digest: that is kept in one small file of the user's cache
folder, by path, size, inode and time of change. Whatever is wrong with the cache costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from trueplex.errors import StoreError
from trueplex.files import damaged, failure, read_json, write_json

log = logging.getLogger(__name__)

SEAL = "checksums.json"
REMEMBERED = 1000  # digests in the cache; the oldest go
RECENT = 2_000_000_000  # ns: a file that has just changed may change again within what its time of change can tell
BLOCK = 1 << 20

_said: set[str] = set()

Known = dict[str, list[str]]  # what is digested → the identity of its files, the digest


def cache_file() -> Path:
    """Where digests are remembered."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trueplex" / "digests.json"


def remembered(kind: str, paths: Sequence[Path], compute: Callable[[], str]) -> str:
    """What ``compute`` gives for these files: from the cache, if it was computed before and none of them has changed.

    Args:
        kind: which digest of the files it is.
    """
    name, identity = f"{kind} {' '.join(os.path.realpath(p) for p in paths)}", _identity(paths)
    found = _known().get(name, [])
    if found[:-1] == [identity]:
        return found[-1]
    value = compute()
    newest = max((os.stat(path).st_mtime_ns for path in paths), default=0)
    if identity == _identity(paths) and newest < time.time_ns() - RECENT:
        known = {key: entry for key, entry in _known().items() if key != name} | {name: [identity, value]}
        with contextlib.suppress(StoreError):  # a full or read-only disk
            write_json(cache_file(), dict(list(known.items())[-REMEMBERED:]))
    return value


def _known() -> Known:
    try:
        return read_json(cache_file(), Known)
    except (StoreError, RuntimeError):  # RuntimeError: a user without a home
        return {}


def _identity(paths: Iterable[Path]) -> str:
    return " ".join(f"{s.st_size}.{s.st_mtime_ns}.{s.st_ino}.{s.st_dev}" for s in map(os.stat, paths))


def digest(path: Path) -> str:
    """A hash of a file's bytes. Raises StoreError when it cannot be read."""
    whole = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                whole.update(block)
    except OSError as error:
        raise failure("read", path, error) from error
    return whole.hexdigest()


def seal(folder: Path, without: Iterable[str] = ()) -> None:
    """Write the checksums of a folder's files beside them, as the last thing that is written there.

    Left out are folders in it, hidden files, pages to read (``*.md``), and those that match a pattern in ``without``.

    Raises:
        StoreError: the disk is full, or a file cannot be read.
    """
    passed = (".*", "*.md", "*.lock", SEAL, *without)
    names = [p.name for p in sorted(folder.iterdir()) if p.is_file() and not any(map(p.match, passed))]
    write_json(folder / SEAL, {name: digest(folder / name) for name in names}, indent=1)


def check_seal(folder: Path) -> None:
    """Compare the files of a folder with the checksums beside them; where there are none, nothing is checked.

    Raises:
        StoreError: a file is missing, was changed, or cannot be read.
    """
    if not (folder / SEAL).is_file():
        return
    for name, told in read_json(folder / SEAL, dict[str, str]).items():
        path = folder / name
        if not path.is_file():
            raise damaged(path, f"it is missing, but listed in {SEAL} beside it")
        if remembered("bytes", [path], lambda path=path: digest(path)) != told:  # type: ignore[misc]
            raise damaged(
                path,
                f"it has changed since it was written, according to {SEAL} beside it; if you edited it on purpose, delete that file",
            )


def is_named(stored: Any, own: str, former: str | None, where: Any) -> bool:
    """Whether weights are those that a file names; a name of version 0.2 counts, which is logged once for each ``where``."""
    if stored == own:
        return True
    if stored != former or former is None:
        return False
    if str(where) not in _said:
        _said.add(str(where))
        log.warning(
            f"{where} names the model as version 0.2 did, by the first values of each weight alone; that is accepted"
        )
    return True
