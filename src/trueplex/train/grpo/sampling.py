"""Rollouts with the current weights: which problems a step takes, and the engine that solves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.grading.kinds import BOXED
from trueplex.models.backbone import Backbone
from trueplex.solving.loop import Stopped, stream
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Trace

SEEDS_A_RUN = 1_000_003  # steps that a run may have before its seeds are another run's


def problems_of_step(count: int, prompts: int, seed: int, step: int) -> list[int]:
    """The numbers of the problems of a step: a pure function, so that a run resumes exactly.

    Every epoch is a new order of all `count` problems, less what does not fill a step.

    Raises:
        OptionError: there are fewer problems than a step takes.
    """
    if count < prompts:
        raise OptionError(f"{count} problems are fewer than the {prompts} prompts of a step. Try: --prompts at most "
                          f"{count}, or more problems")  # fmt: skip
    epoch, at = divmod(step, count // prompts)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return [int(number) for number in order[at * prompts : (at + 1) * prompts]]


def seed_of_step(seed: int, step: int) -> int:
    """The seed of a step's rollouts, so that a problem met again is sampled anew."""
    return seed * SEEDS_A_RUN + step + 1


def sample(backbone: Backbone, problems: Sequence[Problem], samples: int, thinking: Thinking, seed: int,
           max_batch_size: int | None, answer: str = BOXED) -> list[Trace]:  # fmt: skip
    """`samples` stopped, ungraded traces of every problem, in the order of (problem, index).

    The answers are kept from the engine, so that grading has its own time and happens once.
    """
    numbers = {p.key: number for number, p in enumerate(problems)}
    settings = Settings(
        paths=samples,
        thinking=thinking,
        verifier="none",
        select="majority",
        seed=seed,
        rows=max_batch_size,
        answer=answer,
    )
    blank = [replace(p, answers=None) for p in problems]
    traces = [event.trace for event in stream(backbone, blank, settings) if isinstance(event, Stopped)]
    for trace in traces:
        trace.problem = problems[numbers[trace.problem.key]]
    return sorted(traces, key=lambda t: (numbers[t.problem.key], t.index))
