"""What a rollout is worth. Reward functions have TRL's signature, so that they can be exchanged with it.

    def reward(prompts: list[str], completions: list[str], **columns) -> list[float | None]

All are given by name, as TRL does. Columns are lists as long as `prompts`: ``answers`` (those that count as right, or None),
``solution`` (the first of them, as TRL's data have it), ``answer`` (the one that was extracted, or None), ``correct`` (the grader's verdict), ``status``, ``tokens``, ``id``, and ``completion_ids`` (the
emitted tokens). None means that this function cannot tell; a trace that no function can judge takes no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from trueplex.errors import InputError, OptionError
from trueplex.grading.calls import named
from trueplex.grading.kinds import BOXED, AnswerKind, answer_kind
from trueplex.solving.answering import label
from trueplex.types import Problem, Trace

Reward = Callable[..., Sequence["float | None"]]
"""A reward of one's own: called by name with the columns above, it gives a number, or None where it cannot tell, for each trace."""


def correct(prompts: Sequence[str], completions: Sequence[str], *, correct: Sequence[bool | None],
            **columns: Any) -> list[float | None]:  # fmt: skip
    """1 for a right answer, 0 for a wrong or missing one, None where the grader cannot tell."""
    return [None if verdict is None else float(verdict) for verdict in correct]


BUILT_IN: dict[str, Reward] = {"correct": correct}


def load(name: str | Reward) -> Reward:
    """The reward called so: ``correct``, or ``module:function``, looked up in the working folder too; a function is one already.

    Raises:
        OptionError: there is no such module or function.
    """
    if not isinstance(name, str):
        return name
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, function = name.partition(":")
    if not module or not function:
        raise OptionError(f"unknown reward {name!r}. Try: {', '.join(BUILT_IN)}, or module:function")
    return named(module, function, "reward")


def check(problems: Sequence[Problem], names: Sequence[str | Reward]) -> None:
    """Refuse rewards that are not there, and problems that the grader could not judge, when its verdict is the only reward.

    Raises:
        InputError: some have no answers.
        OptionError: there is no such module or function.
    """
    for name in names:
        load(name)
    without = [p for p in problems if not p.answers]
    if without and set(names) == {"correct"}:
        raise InputError(f"{len(without)} of {len(problems)} problems have no answers to grade by, the first "
                         f"{without[0].text[:60]!r}. Try: add them, or give a --reward of your own")  # fmt: skip


def grade(traces: Sequence[Trace], functions: dict[str, Reward], kind: AnswerKind | None = None) -> list[float]:
    """The reward of every stopped trace, which is also graded; NaN where no function could tell.

    Several functions are summed over those that could. ``kind`` says what counts as an answer; None is ``boxed``.

    Raises:
        InputError: a function failed, or gave something else than a number or None for each trace.
    """
    for trace in traces:
        label(trace, kind or answer_kind(BOXED))
    columns: dict[str, list[Any]] = {
        "answers": [list(t.problem.answers) if t.problem.answers else None for t in traces],
        "solution": [t.problem.answers[0] if t.problem.answers else None for t in traces],
        "answer": [t.answer for t in traces],
        "correct": [t.correct for t in traces],
        "status": [t.status.value for t in traces],
        "tokens": [t.tokens for t in traces],
        "id": [t.problem.id for t in traces],
        "completion_ids": [t.steps.ids[:, 0].tolist() for t in traces if t.steps is not None],
    }
    columns |= {"prompts": [t.problem.text for t in traces], "completions": [t.text for t in traces]}
    given = [_checked(name, _asked(name, function, columns), len(traces)) for name, function in functions.items()]
    return [_total(row) for row in zip(*given, strict=True)]


def _asked(name: str, function: Reward, columns: dict[str, list[Any]]) -> Any:
    """What a reward gives; what it raises is reported as its own error."""
    try:
        return function(**columns)
    except (Exception, SystemExit) as error:
        raise InputError(f"the reward {name!r} failed: {error!r}. Try: its code; it is called by the names prompts, completions "
                         "and others, so let it take **columns") from error  # fmt: skip


def _checked(name: str, values: Any, count: int) -> list[float | None]:
    try:
        numbers = [None if value is None else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the reward {name!r} gave no numbers: {error}. Try: return a number or None for each"
        ) from error
    if len(numbers) != count:
        raise InputError(f"the reward {name!r} gave {len(numbers)} values for {count} traces. Try: one for each")
    wrong = [n for n in numbers if n is not None and not math.isfinite(n)]
    if wrong:
        raise InputError(f"the reward {name!r} gave {wrong[0]}. Try: a finite number, or None where it cannot tell")
    return numbers


def _total(row: Sequence[float | None]) -> float:
    known = [value for value in row if value is not None]
    return sum(known) if known else float("nan")
