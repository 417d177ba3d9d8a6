r"""One process of the grader: tells whether two mathematical answers have the same value.

`pool` starts it, sends JSON lines ``{"answer", "others", "timeout", "library"}`` of normalised answers, and gets
``{"verdict": true|false|null, "why", "match"}``. sympy may hang, crash or eat memory on hostile input, and only a
process can be killed then.

`reading` makes a tree of an answer, `formula` and `values` know elementary mathematics and compare it exactly, and
`symbolic` asks math-verify's parser and sympy for the rest. Left out of math-verify: finding answers in prose, stripping
units (it reads ``6m`` as 6), lower-casing variables, equality to six decimals, ``verify`` (it depends on which answer is
called the gold one), and its timeouts (signals, main thread only).
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

from math_verify import parse as parse_text
from math_verify import verify

from trueplex.grading.compare import equal
from trueplex.grading.reading import Node, read


def settle(node: Node) -> None:
    """Meet what is slow in an answer now, so that no answer held against it later is blamed for it."""
    for item in node.items:
        settle(item)
    if node.kind == "formula":
        equal(node, read(r"\sqrt{2}+\pi"))


def judge(answer: str, others: Sequence[str]) -> dict[str, Any]:
    """Compare the answer with each of the others until one is equal. No others: only read and settle it."""
    node = read(answer)
    if not others:
        settle(node)
    unsure = f"could not parse {answer[:60]!r}" if node.kind == "unread" else ""
    for index, other in enumerate(others):
        there = read(other)
        verdict = equal(node, there)
        if verdict:
            return {"verdict": True, "why": "equal", "match": index}
        if verdict is None and not unsure:
            unsure = f"could not parse {other[:60]!r}" if there.kind == "unread" else "could not compare"
    return {"verdict": None if unsure else False, "why": unsure or "different"}


def by_library(answer: str, others: Sequence[str]) -> dict[str, Any]:
    """What math-verify says by itself, as others use it: for audits, never for grades."""
    told = parse_text(rf"\boxed{{{answer}}}", parsing_timeout=None)
    if not told:
        return {"verdict": None, "why": f"could not parse {answer[:60]!r}"}
    for index, other in enumerate(others):
        if verify(parse_text(rf"\boxed{{{other}}}", parsing_timeout=None), told, timeout_seconds=None):
            return {"verdict": True, "why": "equal", "match": index}
    return {"verdict": False, "why": "different"}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this process
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints must not break the protocol
    read(r"\int_0^1 x dx")  # sympy loads much at its first use; no answer shall be late for that
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        faulthandler.dump_traceback_later(request["timeout"] + 10, exit=True)  # in case the parent was killed
        reply = {"verdict": None, "why": "could not compare"}
        with contextlib.suppress(Exception):  # RecursionError and MemoryError too
            reply = (by_library if request["library"] else judge)(request["answer"], request["others"])
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
