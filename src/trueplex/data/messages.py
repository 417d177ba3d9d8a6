"""Arrow messages as bytes in a file: where each begins and ends, a checksum in each, and the next one behind damage.

pyarrow reads a stream from its beginning and stops at the first message that it cannot read. Here every message is
found by its own marker and length, so damage costs only the batches that it lies in.

A message is ``FF FF FF FF``, the length of its header (uint32, little-endian, a multiple of 8), the header (a
flatbuffer of the table Message), and a body as long as the header says. Source: Arrow columnar format, "Encapsulated
message format", and format/Message.fbs.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

MARKER = b"\xff\xff\xff\xff"
END_OF_STREAM = MARKER + b"\x00\x00\x00\x00"
SCHEMA, BATCH = 1, 3  # header types
LARGEST_HEADER = 1 << 20
_BEGINNING = re.compile(rb"(?=\xff{4}..[\x00-\x10]\x00)", re.DOTALL)  # a marker and a length that a header may have
CHUNK = 1 << 20

STAMP = "trueplex"  # the key in a batch's custom metadata; its value is a checksum and the number of records before
UNSTAMPED = "blake2b:" + "0" * 32 + ":{first:015d}"
_STAMPED = re.compile(rb"blake2b:([0-9a-f]{32}):(\d{15})")
# Part of every checksum. It changes with the schema, so that a batch with other columns never passes for one of these.
FORMAT = b"trueplex.1"


class Header(NamedTuple):
    """What a message's header declares: its kind, its number of records, and its length in bytes, marker and body included.

    ``first`` is the number of records before this batch, None where the batch has no checksum.
    ``custom``: the message has custom metadata. Batches of version 0.2 have neither.
    """

    kind: int
    rows: int
    length: int
    first: int | None
    custom: bool


class Message(NamedTuple):
    """A whole message: the bytes that it begins and ends at, its header, and all of its content."""

    at: int
    end: int
    header: Header
    content: bytes


class Damage(NamedTuple):
    """Bytes that are not a whole message.

    ``cut``: the file ends in the middle of this message. ``rows``: the number of records that its header declares,
    None where that cannot be read.
    """

    at: int
    end: int
    cut: bool
    rows: int | None


def stamped(message: bytes) -> bytes:
    """The message of a batch with its checksum in place of the zeros of `UNSTAMPED`."""
    found = _STAMPED.search(message)
    assert found, "the batch was written without a stamp"
    return message[: found.start(1)] + _digest(message, found) + message[found.end(1) :]


def is_intact(message: bytes) -> bool:
    """Whether a message with a checksum is what was written, in every bit."""
    found = _STAMPED.search(message)
    return found is not None and _digest(message, found) == found[1]


def _digest(message: bytes, found: re.Match[bytes]) -> bytes:
    digest = hashlib.blake2b(message[: found.start(1)], digest_size=16, person=FORMAT)
    digest.update(b"0" * 32)
    digest.update(memoryview(message)[found.end(1) :])
    return digest.hexdigest().encode()


def messages(file: io.BufferedIOBase, size: int, is_whole: Callable[[Message], bool]) -> Iterator[Message | Damage]:
    """The first ``size`` bytes of a file in order: messages that ``is_whole`` accepts, and the damage between them."""
    at = 0
    while at < size:
        found = _message(file, at, size)
        if isinstance(found, Message) and is_whole(found):
            yield found
            at = found.end
        elif _bytes(file, at, len(END_OF_STREAM)) == END_OF_STREAM:
            at += len(END_OF_STREAM)
        else:
            behind = _next(file, at + 1, size, is_whole)
            header = found.header if isinstance(found, Message) else found
            rows = header.rows if isinstance(header, Header) and header.kind == BATCH else None
            rows = rows if rows is not None and rows <= behind - at else None  # more than bytes: the number is damaged
            cut = behind == size and header is not None and not isinstance(found, Message)
            yield Damage(at, behind, cut, rows)
            at = behind


def _next(file: io.BufferedIOBase, at: int, size: int, is_whole: Callable[[Message], bool]) -> int:
    """Where the next whole message begins, at or after ``at``; ``size`` where there is none.

    Messages are aligned to 8 bytes, yet every byte is tried: missing or extra bytes then cost no batch after them.
    """
    while at < size:
        chunk = _bytes(file, at, min(CHUNK, size - at))
        for place in _BEGINNING.finditer(chunk):
            found = _message(file, at + place.start(), size)
            if isinstance(found, Message) and is_whole(found):
                return at + place.start()
        at += max(1, len(chunk) - len(END_OF_STREAM) + 1)
    return size


def _message(file: io.BufferedIOBase, at: int, size: int) -> Message | Header | bool | None:
    """The message at a byte; its header where the file ends before it does, True where it ends in the header, None where
    there is no message."""
    start = _bytes(file, at, 8)
    if not MARKER.startswith(start[:4]):
        return None
    if len(start) < 8:
        return True
    (length,) = struct.unpack_from("<I", start, 4)
    if not 0 < length <= LARGEST_HEADER or length % 8:
        return None
    if at + 8 + length > size:
        return True
    header = header_of(_bytes(file, at + 8, length))
    if header is None:
        return None
    if at + header.length > size:
        return header
    return Message(at, at + header.length, header, _bytes(file, at, header.length))


def header_of(flat: bytes) -> Header | None:
    """What the flatbuffer of a header declares; None where it is damaged, or belongs to neither a schema nor a batch."""
    try:
        (root,) = struct.unpack_from("<I", flat)
        kind = flat[_field(flat, root, 1) or len(flat)]
        place = _field(flat, root, 3)
        body = struct.unpack_from("<q", flat, place)[0] if place else 0
        table = _field(flat, root, 2) or len(flat)
        inner = table + struct.unpack_from("<I", flat, table)[0]
        count = _field(flat, inner, 0) if kind == BATCH else None
        rows = struct.unpack_from("<q", flat, count)[0] if count else 0
        if kind not in (SCHEMA, BATCH) or body < 0 or body % 8 or rows < 0:
            return None
        found = _STAMPED.search(flat)
        return Header(kind, rows, 8 + len(flat) + body, int(found[2]) if found else None, bool(_field(flat, root, 4)))
    except (struct.error, IndexError):
        return None


def _field(flat: bytes, table: int, slot: int) -> int | None:
    """The offset of a field of a table; None where the table leaves it out. Raises struct.error outside of the bytes."""
    places = table - struct.unpack_from("<i", flat, table)[0]
    if places < 0:
        raise struct.error("a table outside of the message")
    (size,) = struct.unpack_from("<H", flat, places)
    offset = struct.unpack_from("<H", flat, places + 4 + 2 * slot)[0] if 6 + 2 * slot <= size else 0
    return table + offset if offset else None


def _bytes(file: io.BufferedIOBase, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
