"""The engine by itself: traces grown to their end, with nobody who scores or stops them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from trueplex.engine.batch import Batch, Probes
from trueplex.engine.slots import Entry
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.types import Prompt, Status, Trace

STRIDE = 64


def check(backbone: Backbone, thinking: Thinking) -> None:
    """Raise OptionError when these options cannot act with this model."""
    thinking.fit(backbone.vocabulary)
    if backbone.markers is None and (thinking.ending.closes or thinking.answer_sampling):
        raise OptionError(f"{backbone.name!r} has nothing that closes its thinking, so it cannot be cut short and has no answer apart. Try: "
                          "drop think-tokens, cold-entropy and answer sampling, or choose a reasoning model")  # fmt: skip
    if thinking.ending.think_tokens is not None:
        thinking.ending.limits(np.zeros(0, dtype=np.int64), backbone.default_max_tokens)


def check_resumed(trace: Trace, thinking: Thinking, seed: int, paths: int) -> None:
    """Raise OptionError when a suspended trace is not one of a run with this seed, width and number of paths."""
    width = trace.steps.ids.shape[1] if trace.steps is not None else thinking.k
    if (trace.seed, width) != (seed, thinking.k) or trace.index >= paths:
        raise OptionError(
            f"resumed trace {trace.index} has seed {trace.seed} and width {width}, and this run seed {seed}, width "
            f"{thinking.k} and {paths} paths. Try: resume with the options that it was started with"
        )


def start(backbone: Backbone, prompts: Sequence[Prompt], paths: int, thinking: Thinking, seed: int = 0,
          rows: int | None = None, resumed: Sequence[Trace] = (), memory: int | None = None) -> Batch:  # fmt: skip
    """A batch in which `paths` traces of every prompt wait; the number of a prompt is its request's id.

    Raises:
        OptionError: paths or rows is below 1, the options cannot act with this model, or a resumed trace belongs to others.
    """
    if paths < 1 or (rows is not None and rows < 1):
        raise OptionError(f"paths is {paths} and rows {rows}. Try: at least 1 of each")
    check(backbone, thinking)
    for trace in resumed:
        check_resumed(trace, thinking, seed, paths)
    known = {(t.problem.key, t.index): t for t in resumed}
    batch = Batch(backbone, rows, memory)
    for number, prompt in enumerate(prompts):
        traces = [known.get((prompt.problem.key, i)) or Trace(prompt.problem, i, seed) for i in range(paths)]
        running = [replace(t, request=number) for t in traces if t.status is Status.RUNNING]
        if running:
            batch.submit(Entry(number, prompt, thinking, running))
    return batch


def grow(batch: Batch, stride: int = STRIDE, probes: Probes | None = None) -> Iterator[list[Trace]]:
    """Grow what a batch holds, stride by stride; gives the traces that stopped in each."""
    while batch:
        batch.admit()
        batch.make_room(stride)
        yield batch.advance(stride, probes)
