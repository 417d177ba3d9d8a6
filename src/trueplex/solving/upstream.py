"""Many paths from an endpoint, and the same deciding half: scores of token confidences, pruning, votes.

The paths of a server run at their own pace, each read by a thread; one thread, the caller's, decides. It looks at a path
after every ``probe_every`` tokens of it. So the rules that hold here are those that need no two paths at the same token:
DeepConf, consensus, and ``auto``.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from trueplex.decide import adaptive as schedule
from trueplex.decide import pruning, voting
from trueplex.decide.rules import Consensus, DeepConf, Standing
from trueplex.errors import OptionError, spelled
from trueplex.solving.answering import label
from trueplex.solving.endpoint import TOP, EndpointError, Said, Server, check, deadline
from trueplex.solving.events import Advanced, Event, Solved, Stopped
from trueplex.solving.run import usage_of
from trueplex.solving.settings import Settings, thinking_options, usual_select
from trueplex.types import Problem, Solution, Status, Trace
from trueplex.verify import confidence

log = logging.getLogger(__name__)

SCORERS = ("deepconf", "logprob")
REASONS = {"stop": (Status.FINISHED, "end of sequence"), "length": (Status.TRUNCATED, "token limit")}
LONGEST = 2**31  # tokens that a path may have where nobody said


def chosen(settings: Settings) -> Settings:
    """The settings as they act over an endpoint.

    Raises:
        OptionError: an option has no effect there, or needs scores and there are none.
    """
    check(settings)
    if own := [name for name in ("verifier", "prune", "select") if callable(getattr(settings, name))]:
        raise OptionError(
            f"a function as {own[0]} reads tokens, which an endpoint does not return. Try: a name, or a local --model"
        )
    if settings.verifier == "auto":
        try:
            settings = replace(settings, verifier="none")
        except OptionError as error:
            raise OptionError(f"an endpoint has no verifier of its own: {error}. Try: --verifier deepconf") from error
        log.info(
            spelled(
                "an endpoint has no verifier of its own: using a plain majority vote (--verifier deepconf weighs by token confidence)"
            )
        )
    verifier = settings.names["verifier"]
    score = confidence.parse(verifier)
    if settings.verifier != "none" and (score is None or score.name not in SCORERS):
        raise OptionError(
            f"--verifier {settings.verifier} cannot read an endpoint's paths. Try: deepconf[:KIND[@WINDOW]], logprob or none"
        )
    policy = pruning.parse(settings.prune)
    if wrong := [rule for rule in policy.rules if not isinstance(rule, DeepConf | Consensus)]:
        raise OptionError(f"{wrong[0].spelled!r} compares paths at the same token, and an endpoint's paths run at their own pace. Try: "
                          "deepconf:low@AFTER/WARMUP, consensus:SHARE, or a local --model")  # fmt: skip
    policy.check(settings.schedule.most, settings.thinking.ending.max_tokens or LONGEST, confidence.highest(verifier))
    select = settings.select or usual_select(settings.kind, score is not None)
    return replace(settings, select=select, thinking=replace(settings.thinking, mode="discrete"))


def configuration(settings: Settings, server: Server) -> dict[str, Any]:
    """The effective configuration, as stored beside every result."""
    return {
        "endpoint": server.endpoint.base, "model": server.model, "prompt": asdict(server.endpoint.prompting),
        "paths": settings.paths if schedule.parse(settings.paths).adaptive else settings.schedule.most,
        **thinking_options(settings.thinking), "max_tokens": settings.thinking.ending.max_tokens,
        "verifier": settings.verifier, "prune": settings.prune, "select": settings.select, "answer": settings.kind.spelled,
        "abstain_below": settings.abstain_below, "probe_every": settings.probe_every, "seed": settings.seed, "calibrated": False,
    }  # fmt: skip


@dataclass(slots=True, eq=False)
class _Path:
    """A path that is being read."""

    number: int
    trace: Trace
    said: Said
    gone: threading.Event


class _Asked:
    """One problem: its paths that run, and those that have stopped."""

    def __init__(self, problem: Problem, settings: Settings, resumed: Sequence[Trace]) -> None:
        self.problem, self.settings = problem, settings
        self.policy, self.schedule, self.group = pruning.parse(settings.prune), settings.schedule, settings.kind.group
        self.known = {t.index: t for t in resumed if t.problem.text == problem.text and t.status is not Status.RUNNING}
        self.running: dict[int, _Path] = {}
        self.stopped: list[Trace] = []
        self.started = self.prompt_tokens = 0
        self.began = time.perf_counter()

    def more(self) -> list[Trace]:
        """The next paths to start; stopped ones of an earlier run count as they are."""
        while not self.running:
            if self.started and self.policy.settled(self.stopped, self.group):
                return []
            count = self.schedule.more(self.stopped, self.group) if self.started else self.schedule.first
            indices = range(self.started, self.started + count)
            self.started += count
            self.stopped += [self.known[i] for i in indices if i in self.known]
            new = [Trace(self.problem, i, self.settings.seed) for i in indices if i not in self.known]
            if new or not count:
                return new
        return []

    def solution(self, config: dict[str, Any]) -> Solution:
        votes = voting.selector(config["select"], self.group)(self.policy.voters(self.stopped))
        agreement = votes[0].paths / len(self.stopped) if votes else 0.0
        least = self.settings.abstain_below or 0.0
        state = "none" if not votes else "uncertain" if agreement < least else "answered"
        return Solution(
            problem=self.problem, answer=votes[0].answer if state == "answered" else None, confidence=None, agreement=agreement,
            votes=votes, traces=sorted(self.stopped, key=lambda t: t.index), usage=usage_of(self.stopped, self.prompt_tokens),
            seconds=time.perf_counter() - self.began, config=config, state=state,
        )  # fmt: skip


class Upstream(Iterator[Event]):
    """The events of a run over an endpoint, in order; as `trueplex.solving.loop.Stream` of a local one.

    ``settings`` are those of `chosen`. Log-probabilities of tokens are asked for where a scorer reads them;
    ``logprobs`` asks for those of so many alternatives beside every token, too.

    Raises:
        EndpointError: the server cannot be used; one that fails in the middle of a path costs that path alone.
    """

    def __init__(self, server: Server, problems: Sequence[Problem], settings: Settings, resumed: Sequence[Trace] = (),
                 logprobs: int | None = None) -> None:  # fmt: skip
        self.server, self.settings = server, settings
        self.score = confidence.parse(settings.names["verifier"])
        self.config = configuration(settings, server)
        own = None if self.score is None else TOP if self.score.name == "deepconf" else 0
        self.logprobs = own if logprobs is None else logprobs
        self._asked = [_Asked(problem, settings, resumed) for problem in problems]
        self._heard: queue.SimpleQueue[tuple[_Path, Any]] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(server.endpoint.most, thread_name_prefix="endpoint")
        self._events = self._run()

    def __next__(self) -> Event:
        return next(self._events)

    def unfinished(self) -> list[Trace]:
        """None: what a server has begun cannot be taken up again."""
        return []

    def _run(self) -> Iterator[Event]:
        try:
            for number in range(len(self._asked)):
                yield from self._begin(number)
            while any(asked.running for asked in self._asked):
                path, heard = self._heard.get()
                if path.trace.status is not Status.RUNNING:
                    continue  # it was pruned, and had something more to say
                events = list(self._take(path, heard))
                yield from events
                if events:
                    yield from self._decide(path.number)
        finally:
            for asked in self._asked:
                for path in asked.running.values():
                    path.gone.set()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, number: int) -> Iterator[Event]:
        """Start a problem's next paths; with none to start, count its vote."""
        asked = self._asked[number]
        new = asked.more()
        for trace in new:
            trace.request = number
            asked.running[trace.index] = path = _Path(number, trace, Said(), threading.Event())
            self._pool.submit(self._read, path)
        if not new:
            yield Solved(asked.solution(dict(self.config)), number)

    def _read(self, path: _Path) -> None:
        """On a thread of its own: pass on what the server says."""
        late = deadline(self.settings)
        try:
            if path.gone.is_set():
                return
            for chunk in self.server.read(
                path.trace.problem, path.trace.index, self.settings, self.logprobs, path.gone
            ):
                self._heard.put((path, chunk))
                if time.monotonic() > late:
                    self._heard.put((path, "time limit"))
                    return
            self._heard.put((path, None))
        except Exception as error:  # told by the thread that decides
            self._heard.put((path, error))

    def _take(self, path: _Path, heard: Any) -> Iterator[Event]:
        """What a word of the server comes to: nothing, a look at its path, or its end."""
        if isinstance(heard, EndpointError) and path.said.tokens:
            log.warning(str(heard))
            yield self._end(path, Status.TRUNCATED, "broken off")
        elif isinstance(heard, Exception):  # before any token: the next path would end alike
            raise heard
        elif isinstance(heard, str):
            yield self._end(path, Status.TRUNCATED, heard)
        elif heard is None:
            yield self._end(path, *REASONS.get(path.said.ended, (Status.TRUNCATED, path.said.ended or "broken off")))
        else:
            path.said.hear(heard)
            if self._looked(path):
                yield Advanced([p.trace for p in self._asked[path.number].running.values()])

    def _looked(self, path: _Path) -> bool:
        """Score a path where it has come to its next look; whether it has. Between looks its count of tokens stands still."""
        trace, said, every = path.trace, path.said, self.settings.probe_every
        if self.score and said.untold:
            raise self._without()
        looks = range((trace.tokens // every + 1) * every, said.tokens + 1, every)
        if self.score:
            found = [(at, steps) for at in looks if len(steps := said.weighed(at))]
            trace.scores += [(at, self.score(steps)) for at, steps in found]
            looks = range(found[0][0], said.tokens + 1, every) if found else range(0)
        trace.tokens = looks[-1] if looks else trace.tokens
        return bool(looks)

    def _without(self) -> EndpointError:
        return EndpointError(f"{self.server.endpoint.base} returns no token log-probabilities, which --verifier {self.settings.verifier} needs. Try: "
                             "--verifier none, or a server that returns them")  # fmt: skip

    def _decide(self, number: int) -> Iterator[Event]:
        """Prune, and go on to the problem's next paths, or to its vote, when none is left running."""
        asked = self._asked[number]
        running = [p.trace for p in asked.running.values()]
        for stop in asked.policy(Standing(running, asked.stopped, asked.group)) if running else ():
            asked.running[stop.trace.index].gone.set()
            yield self._end(asked.running[stop.trace.index], stop.status, stop.reason)
        if not asked.running:
            yield from self._begin(number)

    def _end(self, path: _Path, status: Status, reason: str) -> Stopped:
        trace, said, asked = path.trace, path.said, self._asked[path.number]
        trace.status, trace.reason = status, reason
        trace.tokens, trace.thinking_tokens, trace.text = said.tokens, said.thinking_tokens, said.text
        trace.closing = "model" if said.thinking_tokens and said.answer_text else ""
        trace.steps = said.steps()
        if self.score and (not trace.scores or trace.scores[-1][0] < said.tokens):
            known = said.weighed(said.tokens)
            if len(known):
                trace.scores.append((said.tokens, self.score(known)))
            elif status is Status.FINISHED:
                raise self._without()
        kind = self.settings.kind
        if status is Status.FINISHED and said.answer_text and (found := kind(said.answer_text)):
            trace.answer, trace.found = found.answer, found.how
        label(trace, kind)
        del asked.running[trace.index]
        asked.stopped.append(trace)
        asked.prompt_tokens += said.prompt_tokens
        return Stopped(trace)
