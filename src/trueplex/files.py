"""Files that appear whole or not at all, and JSON that is checked when it is read.

Every failure is one `StoreError` line that names the path, the reason and what to do. A kill in the middle of a write
leaves the earlier file as it was, and at most a file ``.tmp-…`` beside it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import logging
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from trueplex.errors import StoreError, reason
from trueplex.stamps import CHECKSUM, as_written, stamped

log = logging.getLogger(__name__)

T = TypeVar("T")

HINTS = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or choose another disk",
    errno.EFBIG: "raise the limit of the size of files, or choose another disk",
    errno.EACCES: "choose a place that you may use, or change its permissions",
    errno.EPERM: "choose a place that you may use, or change its permissions",
    errno.EROFS: "choose a place that is not read-only",
    errno.EEXIST: "choose another name, as a file is where a folder should be",
    errno.ENOTDIR: "choose another name, as a file is where a folder should be",
    errno.EISDIR: "give the name of a file, as this is a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "choose another name, as these links form a loop",
}
# Errors of writers that are not OSErrors, known by name so that nothing is imported for them.
FOREIGN = ("SafetensorError",)
TORCH_WRITER = ("PytorchStreamWriter", "inline_container", "iostream", "open file failed", "Parent directory")


def failure(verb: str, path: str | Path, error: Exception) -> StoreError:
    """What to raise when ``verb`` (read, write, use) failed on a path: one line, with advice for this kind of failure."""
    found = re.search(r"os error (\d+)", str(error))  # how Rust tells it
    number = getattr(error, "errno", None) or (int(found[1]) if found else 0)
    why = getattr(error, "strerror", None) or (os.strerror(number) if number else reason(error))
    hint = HINTS.get(number, "choose another file" if verb == "write" else "check the path")
    if isinstance(error, UnicodeEncodeError):
        hint = "give valid Unicode"
    shown = str(path).encode(errors="backslashreplace").decode() or "''"
    return StoreError(f"cannot {verb} {shown if len(shown) <= 200 else shown[:200] + '…'} ({why}). Try: {hint}")


# -- writing ------------------------------------------------------------------------------------------------------


def write_text(path: str | Path, text: str) -> None:
    """Write a file of UTF-8, whole or not at all. Raises StoreError as `write_with`."""
    write_with(path, lambda temporary: temporary.write_bytes(text.encode()))


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write a value as JSON with a newline at its end, whole or not at all; an object with its checksum.

    Raises StoreError as `write_with`.
    """
    content = stamped(value) if isinstance(value, dict) else value
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all. Raises StoreError as `write_with`."""
    write_with(path, lambda temporary: temporary.write_bytes(content))


def write_with(path: str | Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a temporary file beside ``path``, then move it there; missing folders are made.

    Through a symlink its target is written. A device or a pipe is written into, never replaced. The mode of a file
    that was there is kept.

    Raises:
        StoreError: the path cannot be written, the disk is full, or a text is not valid Unicode; what was there stays.
    """
    try:
        with writing(path):
            if is_special(path):
                _write_into(Path(path), write)
            else:
                _replace(Path(os.path.realpath(path)), write)
    except StoreError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte, or a text that is not valid Unicode
        raise failure("write", path, error) from error


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}{target.suffix[:16]}")
    try:
        write(temporary)
        _sync(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync(target.parent)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Within, what a library cannot write is one StoreError about ``path``: for a full disk each has errors of its own."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        known = isinstance(error, OSError) and error.errno in HINTS
        if known or type(error).__name__ in FOREIGN or any(sign in str(error) for sign in TORCH_WRITER):
            raise failure("write", path, error) from error
        raise


def opened(path: str | Path) -> io.BufferedReader:
    """A file, a pipe or a terminal, open for reading. Raises OSError, also for a device, which may have no end."""
    file = Path(path).open("rb")  # noqa: SIM115  # the caller closes it
    if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
        file.close()
        raise OSError(errno.EINVAL, "it is a device")
    return file


def text_of(path: str | Path) -> str:
    """What a UTF-8 file says, without a byte order mark. Raises OSError as `opened`, and UnicodeDecodeError."""
    with opened(path) as file:
        return file.read().decode("utf-8-sig")


def is_special(path: str | Path) -> bool:
    """Whether a path is written into in place: a device, a pipe, a socket, or an open file of a process.

    ``/dev/stdout`` is one even where it is a file: a new file in its place would lose what was printed before.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if os.path.abspath(path).startswith(("/dev/std", "/dev/fd/", "/proc/")):
        return True
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write_into(path: Path, write: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "content"
        write(temporary)
        with temporary.open("rb") as source, open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as sink:
            shutil.copyfileobj(source, sink)


def _sync(path: Path) -> None:
    """Have the system put a file, or a folder's entries, on the disk; a folder where that is not possible is passed over."""
    is_folder = path.is_dir()
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except OSError:
        if is_folder:  # Windows opens no folders
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_folder and error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks have no fsync
            raise
    finally:
        os.close(handle)


# -- reading ------------------------------------------------------------------------------------------------------


def read_json(path: str | Path, kind: type[T]) -> T:
    """The value in a JSON file, checked against a type and against its checksum if it has one; see `parsed`.

    Raises:
        StoreError: the file cannot be read, is not JSON, was changed, or does not hold what the type says.
    """
    try:
        text = text_of(path)
    except OSError as error:
        raise failure("read", path, error) from error
    except UnicodeDecodeError as error:
        raise damaged(path, f"it is not valid JSON: {reason(error)}") from error
    return parsed(text, kind, path)


def parsed(text: str, kind: type[T], where: str | Path) -> T:
    """The value that a JSON text tells: a dataclass, or a plain type such as ``dict[str, list[float]]``.

    Nothing is converted, but an integer counts as a float. Fields without a default have to be there; fields that the
    dataclass does not have are passed over. Integers have 64 bits, with or without a sign, and floats are finite.

    Raises:
        StoreError: it is not JSON, its checksum is wrong, or it is not of that type; ``where`` is named.
    """
    from pydantic import ValidationError

    try:
        content = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"it is not valid JSON: {reason(error)}") from error
    if isinstance(content, dict) and not as_written(content):
        raise damaged(
            where, f'its checksum does not match its contents; if you edited it on purpose, remove "{CHECKSUM}"'
        )
    try:
        checked: Any = _adapter  # types are hashable, which mypy does not know
        return checked(kind).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:  # also what the dataclass itself refuses
        raise damaged(where, _told(error)) from error


@functools.lru_cache(maxsize=64)
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def damaged(where: str | Path, why: str) -> StoreError:
    """What to raise for a file of an earlier run that cannot be used."""
    return StoreError(f"cannot read {where} ({why}). Try: restore it, or remove it and run again")


def _told(error: Any) -> str:
    """The first thing that pydantic found wrong: where, and what stands there."""
    first = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "missing":
        return f"{place} is missing"
    return f"{place or 'the whole'} is {json.dumps(first['input'])[:60]}: {first['msg']}"


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:  # the names of problems are unsigned
        raise ValueError(f"{text[:30]} has more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:30]} is not a finite number")
    return number
