"""Law: a policy simulated on stored traces leaves the survivors that it leaves in the decode loop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from conftest import slow
from trueplex.data.embedded import tasks
from trueplex.decide.pruning import parse
from trueplex.decide.simulate import simulate
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.solving.loop import Solved, stream
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings
from trueplex.types import Trace

SETTINGS = Settings(paths=12, probe_every=8, seed=3)


@pytest.fixture(scope="module")
def reference() -> Backbone:
    return load("reference", device="cpu")


def grow(backbone: Backbone, settings: Settings) -> dict[int, list[Trace]]:
    scorer, settings = choose_scorer(backbone, settings)
    problems = [tasks.problems(suite, "validation", 1)[0] for suite in ("chain-easy", "countdown-easy")]
    events = stream(backbone, problems, settings, scorer)
    return {e.solution.problem.key: e.solution.traces for e in events if isinstance(e, Solved)}


@pytest.fixture(scope="module")
def grown(reference: Backbone) -> dict[int, list[Trace]]:
    return grow(reference, SETTINGS)


@pytest.mark.parametrize(
    "options",
    [{"prune": "keep:0.75@8/3+stop:48"}, {"prune": "deepconf:low@16/4"}, {"prune": "drop:1@24+auto"},
     *slow(({"prune": "half:16"}, {"prune": "keep-top:5@24"}, {"prune": "floor:0.55"}, {"prune": "floor:0.55", "rows": 1}, {"prune": "consensus:0.5"},
       {"paths": "auto:12"}, {"paths": "auto:12", "prune": "drop:1@24"}, {}))],
    ids=str,
)  # fmt: skip
def test_simulated_and_live_leave_the_same(reference: Backbone, grown: dict, options: dict) -> None:
    settings = replace(SETTINGS, **options)
    rule = parse(settings.prune)
    acted = 0
    for key, live in grow(reference, settings).items():
        stored = simulate(grown[key], rule, settings.schedule, math.gcd(rule.stride, 8))
        assert [_seen(t) for t in stored] == [_seen(t) for t in live]
        for a, b in zip(stored, live, strict=True):  # scores differ in the last bits: the batch has another shape
            assert [at for at, _ in a.scores] == [at for at, _ in b.scores]
            assert [s for _, s in a.scores] == pytest.approx([s for _, s in b.scores], abs=1e-4)
        acted += sum(t.tokens for t in live) < sum(t.tokens for t in grown[key])
    assert acted or not options, "an option that changed nothing tests nothing"


def _seen(trace: Trace) -> tuple:
    return trace.index, trace.status, trace.tokens, trace.answer, trace.probe_tokens


def test_what_was_not_scored_or_grown_cannot_be_simulated(grown: dict) -> None:
    traces = next(iter(grown.values()))
    with pytest.raises(OptionError, match="no score at 4 tokens"):
        simulate(traces, parse("half:4"), SETTINGS.schedule, 4)
    with pytest.raises(OptionError, match="may need 20"):
        simulate(traces, parse("none"), replace(SETTINGS, paths=20).schedule, 8)
