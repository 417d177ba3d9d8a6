"""What `trueplex bench` measures with: a model, and traces that are decoded with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from trueplex.data.embedded.tasks import problems
from trueplex.engine.grow import start
from trueplex.engine.limits import Ending
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.types import Prompt, Trace
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.open import open_scorer, verifier_folder
from trueplex.verify.probe import OneTokenScorer

STRIDE, EVERY = 32, 32


@dataclass(frozen=True)
class Bench:
    """What is measured.

    Attributes:
        rows: traces decoded together; each number is measured.
        tokens: of every trace.
        against: rivals by name, of `decoding.RIVALS`.
        gguf: the file that llama.cpp reads.
        rival: the model that rivals decode with, where that is another one: the same in another precision.
        vocabulary: tokens that the sampler alone is measured on; None is the model's own.
    """

    backbone: Backbone
    rows: tuple[int, ...] = (64,)
    tokens: int = 128
    repeats: int = 5
    seed: int = 0
    against: tuple[str, ...] = ("generate",)
    gguf: Path | None = None
    rival: Backbone | None = None
    vocabulary: int | None = None
    prompts: list[Prompt] = field(init=False)

    def __post_init__(self) -> None:
        found = problems("reference", "test", 6)
        object.__setattr__(self, "prompts", [make_prompt(p, self.backbone) for p in found])

    def thinking(self, mode: str, **options: Any) -> Thinking:
        return Thinking(mode, ending=Ending(self.tokens), **options)

    @property
    def scorer(self) -> OneTokenScorer:
        """The model's own verifier, or one that has learned nothing: reading it takes the same time."""
        if verifier_folder(self.backbone, "auto").is_dir():
            own = open_scorer(self.backbone, "auto", EVERY)
            if isinstance(own, OneTokenScorer):
                return own
        return OneTokenScorer(OneTokenVerifier(self.backbone).eval(), EVERY)


class Run(NamedTuple):
    """What decoding took: tokens of all traces, seconds of it all, and seconds of the strides alone, without what admits."""

    tokens: int
    seconds: float
    decoding: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


@contextmanager
def endless(backbone: Backbone) -> Iterator[None]:
    """No trace ends or closes its thinking before its limit."""
    ends, markers = backbone.ends, backbone.markers
    backbone.ends, backbone.markers = frozenset(), None
    try:
        yield
    finally:
        backbone.ends, backbone.markers = ends, markers


def everything(trace: Trace) -> bool:
    return True


def run(bench: Bench, prompts: Sequence[Prompt], thinking: Thinking, rows: int, scorer: OneTokenScorer | None = None) -> Run:  # fmt: skip
    """Decode `rows` traces of each prompt, so many together; a scorer reads each as often as it wants to."""
    probes = {scorer.probe: everything} if scorer else None
    begun, tokens, decoding = time.perf_counter(), 0, 0.0
    batch = start(bench.backbone, prompts, rows, thinking, bench.seed, rows)
    while batch:
        batch.admit()
        batch.make_room(scorer.every if scorer else STRIDE)
        at = time.perf_counter()
        tokens += sum(trace.tokens for trace in batch.advance(scorer.every if scorer else STRIDE, probes))
        decoding += time.perf_counter() - at
        if scorer:
            scorer(batch.look(everything))
    return Run(tokens, time.perf_counter() - begun, decoding)


def whole(bench: Bench, mode: str, rows: int, scorer: OneTokenScorer | None = None, **options: Any) -> Run:
    """Traces of one prompt, none of which ends before its limit."""
    with endless(bench.backbone):
        return run(bench, bench.prompts[:1], bench.thinking(mode, **options), rows, scorer)
