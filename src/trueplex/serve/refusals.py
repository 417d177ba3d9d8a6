"""Errors as OpenAI's clients read them: {"error": {message, type, param, code}} and a status."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from trueplex.errors import InputError, OptionError, TrueplexError, VerifierError, in_python

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
SPOKEN = {  # words of messages, and the fields that they are about
    "pruning": "prune",
    "selector": "select",
    "selecting": "select",
    "selection": "select",
    "alarm ": "alarms ",
    "no argument": "chat_template_kwargs template_arguments",
    "system message": "system messages",
}


class Refusal(Exception):
    """What a client gets in place of an answer."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None,
                 headers: dict[str, str] | None = None) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                # What the client sent may stand in the message; half of a surrogate pair cannot be encoded.
                "message": _encodable(self.message),
                "type": KINDS.get(self.status, "server_error"),
                "param": None if self.param is None else _encodable(self.param),
                "code": self.code,
            }
        }


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def of_validation(error: ValidationError) -> Refusal:
    """The first thing that is wrong with a body, with the field that it is in."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = _place(first["loc"])
    if first["type"] == "extra_forbidden":
        return Refusal(
            400, f"there is no field {place!r} here. Try: check the spelling, or leave it out", place, "unknown_field"
        )
    if first["type"] == "missing":
        return Refusal(400, f"the field {place!r} is missing. Try: add it", place, "missing_field")
    told = first["msg"].removeprefix("Value error, ").rstrip(".")
    told = told if "Try: " in told else f"{told[:1].lower()}{told[1:]}. Try: correct it"
    about = re.match(
        r"(trueplex\.)?[a-z]+_[a-z_]+|trueplex\.[a-z]+", told
    )  # where fields contradict each other, the first one is named
    return Refusal(400, f"{place or 'the body'}: {told}", place or (about and about[0]) or None, "invalid_value")


def _place(loc: Sequence[int | str]) -> str:
    """``messages[0].content`` of its parts; the names of union members, which pydantic adds, are no fields."""
    parts = [p for p in loc if isinstance(p, int) or not re.search(r"[\[\]()]|^(str|int|list|Part|function-)", str(p))]
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{str(part)[:60]}" if text else str(part)[:60]
    return text


def of_error(error: Exception, fields: Iterable[str] = ()) -> Refusal:
    """What any error comes to: options and problems that cannot be used are the client's, the rest is ours.

    ``fields`` are the names that the error's own words may hold, to tell which one it is about.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TrueplexError):
        told = in_python(" ".join(str(error).split()))  # fields are spelled as arguments are
        if isinstance(error, OptionError | InputError):
            named = _named(told, fields) or ("messages" if isinstance(error, InputError) else None)
            return Refusal(400, told, named, "invalid_value")
        if isinstance(error, VerifierError):
            return Refusal(400, told, "trueplex.verifier", "invalid_value")
        return Refusal(500, told, None, "failed")
    return Refusal(
        500,
        f"the request failed ({type(error).__name__}). Try: again, and report it with its x-request-id",
        None,
        "failed",
    )


def _named(message: str, fields: Iterable[str]) -> str | None:
    """The field that the message names first; some spell it with a dash."""
    told = message.partition(" Try: ")[0].replace("-", "_")
    for word, name in SPOKEN.items():
        told = told.replace(word, name)
    found = [
        (m.start(), name) for name in fields if (m := re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", told))
    ]
    return min(found)[1] if found else None
