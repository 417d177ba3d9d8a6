"""`solve` and `stream` for asyncio: the work runs in a thread, and the event loop stays free.

Any number may run at once on one model: its lock lets them take turns, a forward pass at a time, and each gets what it
would get alone. Requests that are to share forward passes belong into one `Scheduler`, or into one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, overload

from typing_extensions import Unpack

from trueplex.models.backbone import Backbone
from trueplex.solving.api import Options, events_of
from trueplex.solving.events import Event
from trueplex.types import Problem, Solution

_END = object()


@overload
async def asolve(model: Backbone | str, problem: Problem | str, **options: Unpack[Options]) -> Solution: ...  # type: ignore[overload-overlap]  # a text is a sequence of texts
@overload
async def asolve(
    model: Backbone | str, problem: Sequence[Problem | str], **options: Unpack[Options]
) -> list[Solution]: ...
async def asolve(model: Backbone | str, problem: Any, **options: Unpack[Options]) -> Any:
    """`solve`, awaited. A cancelled task stops waiting, and its traces end at the next step.

    >>> solution = await trueplex.asolve(model, "What is 2 + 2?", paths=8)  # doctest: +SKIP

    Raises:
        TrueplexError: as `solve`.
    """
    single = isinstance(problem, str | Problem)
    solved: dict[int, Solution] = {}
    async for event in astream(model, [problem] if single else list(problem), **options):
        if (solution := getattr(event, "solution", None)) is not None:
            solved[event.request] = solution  # type: ignore[union-attr]
    solutions = [solved[number] for number in range(len(solved))]
    return solutions[0] if single else solutions


async def astream(
    model: Backbone | str, problems: Problem | str | Sequence[Problem | str], **options: Unpack[Options]
) -> AsyncIterator[Event]:
    """What happens while problems are solved (`Advanced`, `Stopped`, `AlarmRaised`, `Solved`), as it happens; options as of `solve`.

    Leaving the loop early, or cancelling the task, ends the run at the next step.

    >>> async for event in trueplex.astream(model, ["What is 2 + 2?"]):  # doctest: +SKIP
    ...     print(event)

    Raises:
        TrueplexError: as `solve`.
    """
    given = [problems] if isinstance(problems, str | Problem) else list(problems)
    events = await asyncio.to_thread(events_of, model, given, options)
    while (event := await asyncio.to_thread(next, events, _END)) is not _END:
        yield event  # type: ignore[misc]
