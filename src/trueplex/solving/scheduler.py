"""The scheduler: requests of many kinds in one batch. `step` is the whole product on one screen:

    admit → advance → score → stop → vote

Every other entry (one problem, a file of them, rollouts, evaluation, training, a server) is requests to it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence

from trueplex.decide import alarms
from trueplex.engine.batch import Batch, Wants
from trueplex.engine.look import Look
from trueplex.engine.probing import ProbeColumn
from trueplex.engine.slots import Entry
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.solving.events import Advanced, AlarmRaised, Event, Solved, Stopped
from trueplex.solving.request import Account, Request
from trueplex.solving.run import Run
from trueplex.types import Alarmed, Status, Stop, Trace
from trueplex.verify.scorer import Scorer


class Scheduler:
    """Requests that share every forward pass; `submit` at any time, `step` while it is true.

    Args:
        rows: traces decoded together, at most; None is the device's own number, and more where a request's traces
            must begin together and are more.
        stride: most tokens of a step; None goes to the next look of any request. It changes no trace and no look, only
            how soon requests can come and go. Where one is given, somebody waits for every token, and long prompts are read in
            chunks between them.

    Attributes:
        runs: the requests that are not solved yet, by id.
    """

    def __init__(self, backbone: Backbone, rows: int | None = None, stride: int | None = None) -> None:
        self.backbone, self._fixed, self._most_stride = backbone, rows is not None, stride
        self.batch = Batch(backbone, rows, chunked=stride is not None)
        self.runs: dict[int, Run] = {}
        self._new: list[Run] = []
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self.runs)

    def submit(self, request: Request) -> int:
        """Take a request and return its id: 0 for the first one, and so on.

        Raises:
            InputError: the prompt does not fit the model, or a single path of it not the memory.
            OptionError: an option has no effect, needs what is not there, or a resumed trace belongs to other options.
        """
        if request.settings.rows is not None:
            raise OptionError("rows is a scheduler's, as its requests share them. Try: Scheduler(model, rows=…)")
        run = Run(self._next, request, self.backbone)
        self.batch.check(Entry(run.id, run.prompt, run.settings.thinking, []))
        self._next += 1
        self.runs[run.id] = run
        if run.together:  # with room for two, one problem enters while another thins out
            most = run.schedule.most
            self.batch.rows = max(self.batch.rows, most if self._fixed else 2 * most)
        self._new.append(run)
        return run.id

    def cancel(self, request: int) -> list[Trace]:
        """Stop a request at once and forget it; its rows are free from the next step on. Returns its traces."""
        run = self.runs.pop(request, None)
        if run is None:
            return []
        self._new = [new for new in self._new if new is not run]
        self.batch.prompt_tokens.pop(request, None)
        stops = [Stop(t, Status.TRUNCATED, "cancelled") for t in self._running(request)]
        for trace in (*self.batch.withdraw({request}, "cancelled"), *self.batch.stop(stops)):
            run.stop(trace)
        if not self.batch.traces:
            self.batch.release()
        return run.traces

    def step(self) -> list[Event]:
        """One turn of the loop, and what happened in it."""
        return list(self._step())

    def events(self) -> Iterator[Event]:
        """Everything that happens until all requests are solved, each event at once: an interrupt loses none before it."""
        while self:
            yield from self._step()

    def _step(self) -> Iterator[Event]:
        yield from self._begin()
        yield from self._admit()
        if not self.batch.traces:
            return
        stride, due = self._room()
        stopped = self._advance(stride, due)
        broke = self._score(due)
        yield from self._record(stopped)
        for account in broke:
            yield from self._halt(account, "token budget")
        stopped = yield from self._raise_alarms(due)
        stopped += self.batch.stop(self._prune(due))
        yield from self._record(stopped)
        if self.batch.traces:
            yield Advanced(list(self.batch.traces))
        else:  # there may be no next turn that would give their memory away
            self.batch.release()

    def suspend(self) -> list[Trace]:
        """The running traces as they stood after the last step: store them, and give them as ``resumed`` later.

        May be called at any moment, also when an interrupt broke a step.
        """
        return self.batch.snapshot()

    # -- admit ------------------------------------------------------------------------------------

    def _begin(self) -> Iterator[Event]:
        """Let new requests wait for rows; one that was finished by an earlier run is voted on at once."""
        new, self._new = self._new, []
        for run in new:
            self._wait(run, run.first())
            yield from self._settle(run)

    def _wait(self, run: Run, traces: list[Trace], first: bool = False) -> None:
        if traces:
            deadline = run.account.begin()
            thinking = run.settings.thinking
            self.batch.submit(
                Entry(run.id, run.prompt, thinking, traces, run.together, deadline, constraint=run.constraint), first
            )

    def _admit(self) -> Iterator[Event]:
        """Give free rows to requests between two of their own looks, so that no other request changes where those fall.

        What then cannot pay for another token ends, and its rows are given away as well.
        """
        while True:
            for request in self.batch.admit(lambda request: self.runs[request].between_looks):
                self.runs[request].begin()
            over = [account for account in self._accounts() if account.late or not self._affordable(account, 1)]
            if not over:
                return
            for account in over:
                broke = not self._affordable(account, 1)
                yield from self._halt(account, "token budget" if broke else "time budget")

    # -- advance ----------------------------------------------------------------------------------

    def _stride(self) -> tuple[int, set[int]]:
        """Tokens to the next look that some request wants, as far as its account goes, and the requests that are due then."""
        running = self.batch.running
        wanted = min(self.runs[request].to_next_look for request in running)
        affordable = {id(account): self._affordable(account, wanted) for account in self._accounts()}
        stride = min(affordable.values())
        if self._most_stride is not None and self._most_stride < stride:
            return self._most_stride, set()
        spent = {account for account, most in affordable.items() if most == stride < wanted}
        return stride, {r for r in running if self.runs[r].to_next_look == stride or id(self.runs[r].account) in spent}

    def _room(self) -> tuple[int, set[int]]:
        """A stride for which the memory suffices, as `_stride` gives it; the youngest traces are suspended for it."""
        while True:
            stride, due = self._stride()
            running = len(self.batch.traces)
            self.batch.make_room(stride)
            if len(self.batch.traces) == running:
                return stride, due

    def _advance(self, stride: int, due: set[int]) -> list[Trace]:
        """Grow all traces by a stride, read what is due, and count the steps of every request that runs."""
        running = self.batch.running
        probes: dict[ProbeColumn, Wants] = {}
        for scorer, wants in self._scorers(due):
            if scorer.probe is not None:  # scorers of different cadence may read by one probe
                probes[scorer.probe] = _either(wants, probes.get(scorer.probe))
        stopped = self.batch.advance(stride, probes)
        for request in running:  # one without running traces starts from scratch
            self.runs[request].clock = self.runs[request].clock + stride if request in self.batch.running else 0
        return stopped

    def _scorers(self, due: set[int]) -> list[tuple[Scorer, Wants]]:
        """Each scorer with the traces that it is to score: those of due requests, and whatever has just stopped."""
        requests: dict[int, set[int]] = {}
        scorers: dict[int, Scorer] = {}
        for request in self._present():
            if scorer := self.runs[request].scorer:
                scorers[id(scorer)] = scorer
                requests.setdefault(id(scorer), set()).add(request)

        def wants(scored: set[int]) -> Wants:
            return lambda t: t.request in scored and (t.request in due or t.status is not Status.RUNNING)

        return [(scorer, wants(requests[name])) for name, scorer in scorers.items()]

    # -- score ------------------------------------------------------------------------------------

    def _score(self, due: set[int]) -> list[Account]:
        """Score what is due, by each scorer at once; returns the accounts that could not pay for it."""
        broke: list[Account] = []
        for scorer, wants in self._scorers(due):
            broke += [account for account in self._accounts() if not self._affords(account, scorer, wants)]
            look = self._look(wants, broke)
            scores = scorer(look) if look.traces else None
            if scores is not None:
                for trace, score in zip(look.traces, scores, strict=True):
                    trace.scores.append((trace.tokens, float(score)))
        return broke

    def _look(self, wants: Wants, broke: Sequence[Account]) -> Look:
        return (
            self.batch.look(wants)
            if not broke
            else self.batch.look(lambda t: wants(t) and self.runs[t.request].account not in broke)
        )

    def _affords(self, account: Account, scorer: Scorer, wants: Wants) -> bool:
        """Whether an account has enough for a look; where it has not, what was never scored cannot weigh in a vote."""
        if account.budget.tokens is None:
            return True
        look = self.batch.look(lambda t: wants(t) and self.runs[t.request].account is account)
        if not look.traces or self._spent(account) + scorer.cost(look) <= account.budget.tokens:
            return True
        for trace in look.traces:
            if trace.status is not Status.RUNNING and not trace.scores:
                trace.status, trace.reason = Status.TRUNCATED, "never scored"
        return False

    # -- stop -------------------------------------------------------------------------------------

    def _prune(self, due: set[int]) -> Iterator[Stop]:
        """What the policies stop of the due requests."""
        for request, traces in self.batch.running.items():
            if request in due:
                yield from self.runs[request].prune(traces)

    def _raise_alarms(self, due: set[int]) -> Generator[Event, None, list[Trace]]:
        """Let alarms stop what they must; returns the traces that they stopped."""
        gone: list[Trace] = []
        for request, traces in self.batch.running.items():
            if request not in due or request not in self.runs:
                continue
            for raised in alarms.raised(self.runs[request].rules, traces):
                if raised.trace.status is not Status.RUNNING:
                    continue  # an alarm before has stopped it
                run, scope = self.runs[request], raised.alarm.scope
                told = Alarmed(raised.trace.index, raised.trace.tokens, scope, raised.reason)
                for other in self._sharing(run.account) if scope == "run" else [run]:
                    other.alarms.append(told)
                yield AlarmRaised(run.prompt.problem, told)
                if scope == "run":
                    yield from self._record(gone)
                    gone = []
                    yield from self._halt(run.account, f"alarm: {raised.reason}")
                    break
                run.closed |= scope == "problem"
                stopping = [raised.trace] if scope == "trace" else self._running(request)
                gone += self.batch.stop(Stop(t, Status.PRUNED, f"alarm: {raised.reason}") for t in stopping)
        return gone

    def _halt(self, account: Account, reason: str) -> Iterator[Event]:
        """Truncate all that runs on an account and begin nothing more: its requests are voted on as they stand."""
        runs = self._sharing(account)
        for run in runs:
            run.closed = True
        requests = {run.id for run in runs}
        suspended = self.batch.withdraw(requests, reason)
        running = [trace for request in requests for trace in self._running(request)]
        yield from self._record([*suspended, *self.batch.stop(Stop(t, Status.TRUNCATED, reason) for t in running)])
        for run in runs:
            run.started = len(run.traces)
            if run.id in self.runs:
                yield from self._settle(run)

    # -- vote -------------------------------------------------------------------------------------

    def _record(self, stopped: Sequence[Trace]) -> Iterator[Event]:
        """Tell what has stopped; then more traces for its request, or the vote."""
        for trace in stopped:
            self.runs[trace.request].stop(trace)
            yield Stopped(trace)
        for request in dict.fromkeys(trace.request for trace in stopped):
            yield from self._settle(self.runs[request])

    def _settle(self, run: Run) -> Iterator[Event]:
        """When all started traces of a request have stopped: start more, or count the vote."""
        if len(run.traces) < run.started:
            return
        if more := run.more():
            self._wait(run, more, first=True)
            return
        del self.runs[run.id]
        yield Solved(run.solution(self.batch.prompt_tokens.pop(run.id, 0)), run.id)

    # -- who is who -------------------------------------------------------------------------------

    def _running(self, request: int) -> list[Trace]:
        return list(self.batch.running.get(request, ()))

    def _present(self) -> Iterable[int]:
        """The requests whose traces run or have just stopped."""
        return dict.fromkeys([*self.batch.running, *(trace.request for trace in self.batch.stopped)])

    def _sharing(self, account: Account) -> list[Run]:
        return [run for run in self.runs.values() if run.account is account]

    def _accounts(self) -> Iterable[Account]:
        """The accounts of requests whose traces run or have just stopped."""
        return {id(a): a for a in (self.runs[r].account for r in self._present() if r in self.runs)}.values()

    def _spent(self, account: Account) -> int:
        """Tokens and probes of all its traces so far."""
        alive = [*self.batch.traces, *self.batch.suspended, *(t for t in self.batch.stopped if t.request in self.runs)]
        return account.spent + sum(t.tokens + t.probe_tokens for t in alive if self.runs[t.request].account is account)

    def _affordable(self, account: Account, stride: int) -> int:
        """The most tokens up to `stride` that each running trace of the account can pay for, with a probe behind."""
        if account.budget.tokens is None:  # as of most requests of a server: nothing need be counted, in every step
            return stride
        runs = self._sharing(account)
        rows = sum(len(self._running(run.id)) for run in runs)
        probes = [run.scorer.probe for run in runs if run.scorer is not None and run.scorer.probe is not None]
        probed = max((len(probe.embeddings) for probe in probes), default=0)
        return account.budget.stride(stride, self._spent(account), rows, probed)


def _either(wants: Wants, others: Wants | None) -> Wants:
    return wants if others is None else lambda trace: wants(trace) or others(trace)
