"""What a request may not ask of a server: more than its limits, a file of its disk, or code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trueplex.serve.options import MOST_STOP, ServerOptions
from trueplex.serve.refusals import Refusal
from trueplex.verify import confidence

FOREIGN = ("call:", "json:", "regex:")  # answer kinds that run code, read a file, or may search a text without end


def check_options(given: dict[str, Any], defaults: dict[str, Any], limits: ServerOptions) -> None:
    """Raises Refusal for what a client may not set; what the server itself was started with is allowed.

    ``given`` are a request's options with the ``defaults`` of the server; ``paths: auto`` is bounded there.
    """
    for name, most in (("paths", limits.max_paths), ("width", limits.max_width)):
        number = str(given.get(name, 0)).removeprefix("auto:")
        if number.isdecimal() and int(number) > most:
            raise Refusal(
                400,
                f"{name} is {number[:20]}, and this server allows {most}. Try: fewer",
                f"trueplex.{name}",
                "too_many",
            )
    if str(given["paths"]) == "auto" and limits.max_paths < 64:
        given["paths"] = f"auto:{limits.max_paths}"
    called = (given.get("prune", ""), given.get("select", ""), *given.get("alarms", ()))
    own = (defaults.get("prune"), defaults.get("select"), *defaults.get("alarms", ()))
    if wrong := next((one for one in called if "call:" in one and one not in own), None):
        raise Refusal(400, f"{wrong[:60]!r} would run code on the server. Try: another rule, or set it by the server's own options",
                      "trueplex", "not_allowed")  # fmt: skip
    answer = given.get("answer", "auto")
    if answer.startswith(FOREIGN) and answer != defaults.get("answer"):
        raise Refusal(400, f"the answer kind {answer[:60]!r} is not taken from a request, as it could run code, read a file or search "
                      "without end on the server. Try: auto, boxed, number, choice, json, last-line or text", "trueplex.answer", "not_allowed")  # fmt: skip
    name = given.get("verifier", "auto")
    known = ("auto", "none", defaults.get("verifier"), *limits.verifiers)
    if name not in known and not confidence.parse(name):
        raise Refusal(400, f"this server does not load verifiers by request, and has none {name[:60]!r}. Try: auto, none, deepconf, logprob, "
                      "entropy, or start it with --allow-verifier", "trueplex.verifier", "not_allowed")  # fmt: skip


def check_lengths(max_tokens: int | None, stops: Sequence[str], positions: int, limits: ServerOptions) -> None:
    """Raises Refusal for more tokens than a path may have, or too many or too long stop strings."""
    most = min(positions, limits.max_tokens or positions)
    if max_tokens is not None and max_tokens > most:
        raise Refusal(400, f"max_tokens is {max_tokens}, and at most {most} are possible here. Try: fewer", "max_tokens", "too_many")  # fmt: skip
    if len(stops) > limits.max_stops or any(len(stop) > MOST_STOP for stop in stops):
        raise Refusal(400, f"at most {limits.max_stops} stop strings of at most {MOST_STOP} characters are possible. Try: fewer",
                      "stop", "too_many")  # fmt: skip
