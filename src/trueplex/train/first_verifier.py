"""A verifier from nothing but problems with known answers: estimate, roll out, train, calibrate, judge.

Everything is kept in one folder and resumed there: ``OUT/pilot`` and ``OUT/rollouts`` (traces), OUT itself (the verifier,
its card, its calibration and checkpoints). A fifth of the problems is held back from training, to calibrate and judge by.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trueplex.data.traces import read, read_traces
from trueplex.decide.calibration import way_of_thinking
from trueplex.errors import InputError
from trueplex.evals.quality import judge, scored_by
from trueplex.models.backbone import Backbone
from trueplex.solving.answering import stored_kind
from trueplex.solving.rollouts import rollout, summary
from trueplex.solving.scorers import belongs
from trueplex.solving.scoring import score_as_live
from trueplex.solving.settings import DEFAULT_STRIDE, Settings, origin
from trueplex.train.calibrate import fit, votes_of
from trueplex.train.common.batches import Labelled
from trueplex.train.verifier import Recipe, train_verifier
from trueplex.types import Problem, Trace
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.open import open_scorer
from trueplex.verify.probe import OneTokenScorer, score_shares
from trueplex.verify.stored import Stored

log = logging.getLogger(__name__)

PILOT = 4  # problems that are rolled out for the estimate
PASSES = (
    4  # what a training step costs, in readings of its traces: forward, backward through the probes, and what is judged
)
LEAST = 4  # problems with right and wrong traces, below which nothing is trained
FEW = 20  # held-out problems, below which a figure is too uncertain to tell
HELD = 5  # one problem in so many is held back

Step = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, by a pilot: seconds of sampling and of training, and of how many pilot problems how many teach."""

    sampling: float
    training: float
    teaching: int
    asked: int

    def told(self, problems: int) -> str:
        minutes = (self.sampling + self.training) / 60
        share = f"about {round(problems * self.teaching / self.asked)} of {problems} problems will have right and wrong traces"
        return (f"about {minutes:.0f} minutes on this machine ({self.sampling / 60:.0f} of sampling, {self.training / 60:.0f} of training); "
                f"{share} ({self.teaching} of {self.asked} in the pilot)")  # fmt: skip


def estimate(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, recipe: Recipe, out: Path
) -> Estimate:
    """Roll out a few problems, read them once as training does, and scale that up.

    Raises:
        InputError: a problem has no answers. StoreError: `out` holds a pilot of other options.
    """
    some = problems[:PILOT]
    started, sampled = time.perf_counter(), [0]

    def step(traces: int, tokens: int) -> None:
        sampled[0] += tokens > 0

    path = rollout(backbone, some, settings, out / "pilot", None, step)
    seconds = time.perf_counter() - started
    stored = list(read_traces(path, origin(None, backbone)))
    if sampled[0] < len(stored):  # resumed: what was sampled before cannot be timed
        seconds *= len(stored) / max(1, sampled[0])
    started = time.perf_counter()
    read_once = [
        (prompt, trace.steps) for trace, prompt in stored[:: max(1, len(stored) // 8)] if trace.steps is not None
    ]
    score_shares(OneTokenVerifier(backbone, recipe.rank, targets=recipe.target_modules), read_once, (0.5, 1.0))
    reading = (time.perf_counter() - started) / max(1, len(read_once))
    outcomes = _outcomes(stored)
    whole, teaching = len(problems) / len(some), sum(len(seen) == 2 for seen in outcomes.values())
    trained = whole * len(stored) * teaching / max(1, len(outcomes))
    return Estimate(seconds * whole, reading * PASSES * recipe.epochs * trained, teaching, len(some))


def first_verifier(
    backbone: Backbone, problems: Sequence[Problem], settings: Settings, recipe: Recipe, out: Path, step: Step
) -> dict[str, Any] | None:  # fmt: skip
    """Roll out, train, calibrate and judge; returns the figures of the verifier beside those of entropy, on held-out problems.

    None where these are too few to tell.

    Raises:
        InputError: too few problems have right and wrong traces to learn from.
        StoreError: `out` holds a run of other options.
    """
    path = rollout(backbone, problems, settings, out / "rollouts", None, step)
    log.info(f"{path}: {summary(path)}")
    stored = _graded(path, backbone)
    learned, held = _shared(stored)
    held_problems = len({trace.problem.key for trace, _ in held})
    log.info(f"training on {len(learned)} traces; {held_problems} problems are held back to calibrate and judge by")
    train_verifier(backbone, _labelled(learned), _labelled(_teaching(held)), recipe, out, str(out / "rollouts"))
    scorer = open_scorer(backbone, str(out), DEFAULT_STRIDE)
    assert isinstance(scorer, OneTokenScorer)
    score_as_live(scorer, held)
    _calibrate(backbone, held, path, replace(settings, verifier=str(out), select="weighted"), scorer, out)
    if held_problems < FEW:
        log.info(
            f"{held_problems} held-out problems are too few to tell how good the verifier is. Try: {FEW * HELD} problems or more"
        )
        return None
    told = _teaching(held)
    scorers = {name: open_scorer(backbone, name) for name in (str(out), "entropy")}
    return judge(told, scored_by(backbone, scorers, told), stored_kind(path))


def _graded(path: Path, backbone: Backbone) -> list[Stored]:
    """The graded traces, in an order of their own: after a kill they are stored in another, and would be learned from in it."""
    graded = [one for one in read_traces(path, origin(None, backbone)) if one[0].correct is not None]
    return sorted(graded, key=lambda one: (one[0].problem.key, one[0].index))


def _outcomes(stored: Sequence[Stored]) -> dict[int, set[bool]]:
    outcomes: dict[int, set[bool]] = {}
    for trace, _ in stored:
        if trace.correct is not None:
            outcomes.setdefault(trace.problem.key, set()).add(trace.correct)
    return outcomes


def _teaching(stored: Sequence[Stored]) -> list[Stored]:
    """The traces of problems that have right and wrong ones: others say nothing of which path to trust."""
    outcomes = _outcomes(stored)
    return [one for one in stored if len(outcomes[one[0].problem.key]) == 2]


def _shared(stored: Sequence[Stored]) -> tuple[list[Stored], list[Stored]]:
    """The traces to learn from, and those of the problems that are held back, by high bits of their keys."""
    outcomes = _outcomes(stored)
    teach = sorted((key for key, seen in outcomes.items() if len(seen) == 2), key=lambda key: key >> 32)
    rest = sorted((key for key, seen in outcomes.items() if len(seen) < 2), key=lambda key: key >> 32)
    if len(teach) < LEAST:
        right = sum(trace.correct is True for trace, _ in stored)
        what = "easier problems, a higher --max-tokens" if 2 * right < len(stored) else "harder problems"
        raise InputError(f"{len(teach)} of {len(outcomes)} problems have right and wrong traces, and a verifier learns from at least {LEAST} "
                         f"({right} of {len(stored)} traces are right). Try: {what}, more --samples or more problems")  # fmt: skip
    held = {*teach[: max(1, len(teach) // HELD)], *rest[: len(rest) // HELD]}
    learned = [one for one in stored if one[0].problem.key in set(teach) - held]
    return learned, [one for one in stored if one[0].problem.key in held]


def _labelled(stored: Sequence[Stored]) -> list[Labelled]:
    return [Labelled(prompt, trace.steps, bool(trace.correct), trace.problem.key, trace.problem.text, answer=trace.answer)
            for trace, prompt in stored if trace.steps is not None and trace.tokens]  # fmt: skip


def _calibrate(
    backbone: Backbone, held: Sequence[Stored], path: Path, settings: Settings, scorer: OneTokenScorer, out: Path
) -> None:
    """Keep what a confidence means beside the verifier; where the held-out problems cannot tell, say so."""
    thinking = next(iter(read(path, ("thinking",))))["thinking"]
    groups: dict[int, list[Trace]] = {}
    for trace, _ in held:
        if trace.scores:
            groups.setdefault(trace.problem.key, []).append(trace)
    most = settings.schedule.most
    whole = [sorted(own, key=lambda t: t.index) for own in groups.values() if len(own) >= most]
    try:
        if len(whole) < FEW:
            raise InputError(f"{len(whole)} held-out problems, and {FEW} are needed")
        seen = votes_of(whole, thinking, settings, scorer.every, stored_kind(path))
        way = way_of_thinking(json.loads(thinking))
        made = fit(seen, {way: [t for own in whole for t in own]}, 0.1, belongs(backbone, scorer, str(out)))
    except InputError as error:
        log.info(f"not calibrated, so answers come with an agreement and no confidence ({error})")
        return
    made.save(out)
    log.info(
        f"{out}: calibrated for {most} paths on {len(whole)} held-out problems; `trueplex calibrate` adds other ways to run"
    )
