"""`trueplex eval`: sample every problem once, store the traces, and compute every figure from them."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from trueplex import __version__
from trueplex.data.traces import read_traces
from trueplex.errors import StoreError
from trueplex.evals.methods import choose
from trueplex.evals.summary import summarise
from trueplex.files import read_json, write_json, write_text
from trueplex.locks import locks
from trueplex.models.backbone import Backbone
from trueplex.models.prompt import make_prompt
from trueplex.solving.rollouts import rollout, sampled_on
from trueplex.solving.settings import Settings, configuration
from trueplex.stamps import stamped
from trueplex.types import Problem
from trueplex.verify.scorer import Scorer

log = logging.getLogger(__name__)

RESULTS, TIMING = "results.json", "timing.json"
SECONDS = 5.0  # between writings of the time spent


def machine() -> dict[str, Any]:
    """What results depend on: versions and hardware."""
    return {
        "trueplex": __version__, "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "processor": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip


def prompt_of(backbone: Backbone) -> dict[str, Any]:
    """The whole prompt template, with {problem} in place of the text."""
    return {"template": make_prompt(Problem("{problem}"), backbone).text, "instruction": backbone.instruction}


@locks("out")
def evaluate(
    backbone: Backbone, suites: Mapping[str, Sequence[Problem]], settings: Settings, out: Path, scorer: Scorer | None,
    progress: Callable[[int, int], None], methods: Sequence[str] | None = None,
    read_truncated: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Traces of each suite under `out`/SUITE (resumable), figures in `out`/results.json, which is returned.

    The figures are a function of the traces alone, so a run that was killed and resumed ends in the
    same file. What varies from run to run, the time it took, is kept apart in `out`/timing.json.

    Raises:
        OptionError: a method is unknown or needs scores that the run does not have.
        StoreError: another run is at work in `out`, or what it holds cannot be read.
    """
    longest = settings.thinking.ending.most(backbone.default_max_tokens)
    choose(methods, scorer is not None, settings.probe_every, settings.schedule.most, longest)
    for name, problems in suites.items():
        clock = Clock(out, name, progress)
        rollout(backbone, problems, settings, out / name, scorer, clock.step, exact=True)
        clock.write()
    figures = Figures(settings, out, scorer is not None, methods, read_truncated)
    return figures.write(suites, configuration(settings, backbone), prompt_of(backbone), machine())


@dataclass(frozen=True)
class Figures:
    """What is computed from the traces of an evaluation under ``out``: which methods, and what counts as an answer."""

    settings: Settings
    out: Path
    scored: bool
    methods: Sequence[str] | None
    read_truncated: bool

    def write(
        self, suites: Mapping[str, Sequence[Problem]], config: dict[str, Any], prompt: dict[str, Any], where: dict[str, Any]
    ) -> dict[str, Any]:  # fmt: skip
        """The figures of all suites, in `out`/results.json, with their configuration and ``where``, the machine."""
        figures = {
            name: summarise(
                (trace for trace, _ in read_traces(self.out / name)),
                self.methods,
                [problem.key for problem in problems],
                self.scored,
                self.read_truncated,
                self.settings.probe_every,
                self.settings.kind,
            )
            for name, problems in suites.items()
        }
        devices = sorted(
            {sampled_on(self.out / name) for name in suites}
        )  # of the traces, which may come from elsewhere
        config = config | {"device": ", ".join(devices), "read_truncated": self.read_truncated}
        result = {"config": config, "prompt": prompt, "machine": where, "suites": figures}
        write_results(result, self.out)
        return result


@dataclass(frozen=True)
class Spent:
    """The cost of sampling a suite."""

    seconds: float
    traces: float
    tokens: float


def read_timing(path: Path) -> dict[str, Spent]:
    """The cost of every suite, from a file that `Clock` wrote; empty where there is none.

    It is not a result: a damaged one is reported and replaced.
    """
    try:
        return read_json(path, dict[str, Spent]) if path.exists() else {}
    except StoreError as error:
        log.warning(f"{error}; the time spent so far is not counted")
        return {}


class Clock:
    """Seconds spent sampling a suite, and the traces and tokens that were sampled in them, over all runs of it.

    Written every few seconds, so that a kill loses the same few seconds of all three and the rate stays right.
    """

    def __init__(self, out: Path, suite: str, progress: Callable[[int, int], None]) -> None:
        self.path, self.suite, self.progress = out / TIMING, suite, progress
        self.all = {name: asdict(spent) for name, spent in read_timing(self.path).items()}
        self.before = self.all.get(suite, asdict(Spent(0.0, 0, 0)))
        self.traces = self.tokens = 0
        self.started = self.written = time.monotonic()

    def step(self, traces: int, tokens: int) -> None:
        if tokens:  # without any these are traces of an earlier run; no traces, these are resampled
            self.traces, self.tokens = self.traces + traces, self.tokens + tokens
        self.progress(traces, tokens)
        if time.monotonic() - self.written > SECONDS:
            self.write()

    def write(self) -> None:
        self.written = time.monotonic()
        now = {"seconds": self.written - self.started, "traces": self.traces, "tokens": self.tokens}
        if not self.traces:
            return
        self.all[self.suite] = {name: round(self.before[name] + now[name], 1) for name in now}
        write_json(self.path, self.all, indent=1)


def readable(result: dict[str, Any]) -> str:
    """Results as JSON with a checksum; lists of numbers and small objects on one line, for people."""
    return re.sub(r"\[(?:[\s\d.,-]|null)+\]|\{[^{}\[\]]{,200}\}", lambda m: " ".join(m[0].split()), json.dumps(stamped(result), indent=1))  # fmt: skip


def write_results(result: dict[str, Any], out: Path) -> None:
    """Write `out`/results.json, whole or not at all."""
    write_text(out / RESULTS, readable(result) + "\n")
