"""A checksum of a JSON object that stands in the object: spaces and the order of its fields may change, its values may not."""

from __future__ import annotations

import hashlib
import json
from typing import Any

CHECKSUM = "checksum"


def stamped(value: dict[str, Any]) -> dict[str, Any]:
    """The same object with a checksum of all that it holds, which `parsed` checks; spaces and order may change."""
    return value | {CHECKSUM: _checksum(value)}


def as_written(content: dict[str, Any]) -> bool:
    """Whether an object is what its checksum says, which is taken out of it; one without a checksum is.

    Where the checksum's own name is damaged, its value tells: it is that of everything else.
    """
    name = CHECKSUM if CHECKSUM in content else next(reversed(content), None)
    if name is None:
        return True
    told = content.pop(name)
    if told == _checksum(content):
        return True
    content[name] = told
    return name != CHECKSUM


def _checksum(value: dict[str, Any]) -> str:
    whole = json.dumps(json.loads(json.dumps(value)), sort_keys=True)  # as it will be read: keys are text, tuples lists
    return hashlib.blake2b(whole.encode(), digest_size=8).hexdigest()
