"""Options of commands that can run on replicas, and `trueplex solve` on them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from trueplex.cli.endpoint import ModelOrEndpoint
from trueplex.cli.groups import ModelOptions
from trueplex.cli.options import Within
from trueplex.errors import OptionError

if TYPE_CHECKING:
    from trueplex.cli.solve import OutputOptions
    from trueplex.data.traces import Origin
    from trueplex.scale.cluster import Cluster
    from trueplex.scale.replica import Job
    from trueplex.solving.settings import Settings
    from trueplex.types import Problem, Trace

log = logging.getLogger(__name__)

RAY, LOCAL = "--ray", "local"


PANEL = "Replicas, by Ray (needs the extra 'ray')"


@dataclass(frozen=True)
class ReplicatedModelOptions(ModelOptions):
    """Which model, where it runs, and on how many replicas."""

    ray: Annotated[str | None, typer.Option(rich_help_panel=PANEL, metavar="[ADDRESS|auto]", help="Distribute the problems over replicas on a Ray cluster: HOST:PORT, ray://HOST:PORT, or 'auto', the one that this machine belongs to. Without an address Ray is started here.", show_default="this process alone")] = None  # fmt: skip
    replicas: Annotated[int | None, typer.Option(rich_help_panel=PANEL, help="Replicas of the model.", show_default="1"), Within(1)] = None  # fmt: skip
    gpus_per_replica: Annotated[float | None, typer.Option(rich_help_panel=PANEL, help="GPUs of each; 0.5 lets two share one.", show_default="1 where the cluster has any, else 0")] = None  # fmt: skip

    def __post_init__(self) -> None:
        given = [name for name in ("replicas", "gpus_per_replica") if getattr(self, name) is not None]
        if self.ray is None and given:
            raise OptionError(f"--{given[0].replace('_', '-')} has no effect without --ray. Try: add --ray")
        if self.gpus_per_replica is not None and self.gpus_per_replica < 0:
            raise OptionError(f"--gpus-per-replica is {self.gpus_per_replica:g}. Try: 0 or more")

    def cluster(self) -> Cluster:
        """Ray, with room for the replicas. Raises TrueplexError as `Cluster`."""
        from trueplex.scale.cluster import Cluster

        assert self.ray is not None
        return Cluster(self.ray, self.replicas or 1, self.gpus_per_replica)


@dataclass(frozen=True)
class AnyModelOptions(ModelOrEndpoint, ReplicatedModelOptions):
    """A model on this machine, on replicas, or one that a server has."""

    def __post_init__(self) -> None:
        ModelOrEndpoint.__post_init__(self)
        ReplicatedModelOptions.__post_init__(self)
        if self.endpoint is not None and self.ray is not None:
            raise OptionError("--ray has no effect beside --endpoint: the server runs the model. Try: drop one of them")


@dataclass(frozen=True)
class ServedModelOptions(ModelOptions):
    """Which model is served, where it runs, and on how many replicas."""

    replicas: Annotated[int | None, typer.Option(rich_help_panel=PANEL, help="Replicas of the model behind one address, by Ray Serve.", show_default="this process alone"), Within(1)] = None  # fmt: skip
    max_replicas: Annotated[int | None, typer.Option(rich_help_panel=PANEL, help="Start more replicas under load, up to this many.", show_default="--replicas"), Within(1)] = None  # fmt: skip
    ray: Annotated[str | None, typer.Option(rich_help_panel=PANEL, metavar="[ADDRESS|auto]", help="Address of the Ray cluster they run on.", show_default="started here")] = None  # fmt: skip
    gpus_per_replica: Annotated[float | None, typer.Option(rich_help_panel=PANEL, help="GPUs of each; 0.5 lets two share one.", show_default="1 where the cluster has any, else 0")] = None  # fmt: skip

    def __post_init__(self) -> None:
        given = [n for n in ("max_replicas", "ray", "gpus_per_replica") if getattr(self, n) is not None]
        if self.replicas is None and given:
            raise OptionError(f"--{given[0].replace('_', '-')} has no effect without --replicas. Try: add --replicas")
        if self.most < (self.replicas or 1):
            raise OptionError(f"--max-replicas {self.most} is below --replicas {self.replicas}. Try: raise it")

    @property
    def most(self) -> int:
        return self.max_replicas or self.replicas or 1

    def cluster(self) -> Cluster:
        """Ray, with room for the most replicas. Raises TrueplexError as `Cluster`."""
        from trueplex.scale.cluster import Cluster

        return Cluster(self.ray or LOCAL, self.most, self.gpus_per_replica)


def with_address(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line, with the address that a bare ``--ray`` means behind it: to start Ray here."""
    filled: list[str] = []
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*filled, *arguments[place:]]
        filled.append(argument)
        following = arguments[place + 1 : place + 2]
        if argument == RAY and (not following or following[0].startswith("-")):
            filled.append(LOCAL)
    return filled


def solve(
    options: ReplicatedModelOptions, job: Job, problems: Sequence[Problem], output: OutputOptions, complaints: list[str]
) -> tuple[bool, bool]:
    """Solve problems on replicas, and print and save what they say; whether all were answered, and all that was asked saved.

    ``complaints`` gets a line for each problem that does not fit the model.
    """
    from rich.console import Console

    from trueplex.cli.progress import Bar
    from trueplex.cli.solve import Output, remark
    from trueplex.data.about import note
    from trueplex.scale import runs

    settings = job.settings
    runs.check_separate(settings)
    shown, store = Output(problems, output.json, Console()), _Store(output, settings)
    reasons, longest = Counter[str](), 0
    try:
        with options.cluster() as cluster, Bar(len(problems) * settings.schedule.most, output.quiet) as bar:
            for about, number, done in runs.solve(cluster, job, problems, store.begun):
                if done is None:
                    store.check(about.origin)
                    if output.save:
                        note(output.save, options.model, [problem.key for problem in problems])
                    continue
                store.saving.append(done.rows)
                reasons.update(row["reason"] for row in done.rows)
                longest = max([longest, *(row["tokens"] for row in done.rows)])
                bar.step(len(done.rows), sum(row["tokens"] for row in done.rows))
                if done.complaint:
                    complaints.append(done.complaint)
                    log.info(done.complaint)
                shown.add(number, done.solution)
    except BaseException:
        shown.flush()
        raise
    finally:
        store.saving.close()
    remark(settings, reasons, longest)
    return all(s.answer is not None for s in shown.solved.values() if s), not store.saving.failed


class _Store:
    """The --save file of a run on replicas: what it holds of an earlier run, and where new traces go."""

    def __init__(self, output: OutputOptions, settings: Settings) -> None:
        from trueplex.cli.solve import freed
        from trueplex.data.saving import Saving
        from trueplex.data.traces import read_traces

        self.path = output.save
        self.begun: list[Trace] = []
        if output.save and output.resume and output.save.exists():
            stored = (t for t, _ in read_traces(output.save))
            most = settings.schedule.most
            self.begun = [freed(t, settings) for t in stored if t.seed == settings.seed and t.index < most]
        self.saving = Saving(output.save)

    def check(self, origin: Origin) -> None:
        """Raise StoreError where the traces to go on with are of another model, or were made by other options."""
        from trueplex.data.traces import read

        if self.path and self.begun:
            for row in read(self.path, ("model", "tokenizer", "thinking"), complain=False):
                origin.require(row, self.path)
