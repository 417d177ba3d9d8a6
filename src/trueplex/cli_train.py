"""`trueplex train …`: what learns from traces. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trueplex.cli_options import Device, Model, Rows

app = typer.Typer(no_args_is_help=True, help="Train what scores traces, and the model itself.")


@app.command()
def verifier(
    data: Annotated[list[Path], typer.Option(help="Rollout folders to learn from; may be given again.")],
    out: Annotated[Path, typer.Option(help="Folder for the verifier; an interrupted run is taken up there.")],
    validation: Annotated[list[Path] | None, typer.Option(help="Rollout folders to judge by.", show_default="a tenth of the problems")] = None,
    model: Model = "reference",
    rank: Annotated[int, typer.Option(help="LoRA rank; 0 trains the probe token and head only.")] = 16,
    targets: Annotated[str | None, typer.Option(help="Layers that get LoRA, by commas, e.g. 'q_proj,v_proj'.", show_default="all linear layers")] = None,
    positions: Annotated[str, typer.Option(help="Positions probed per trace and step, or 'all'.")] = "32",
    labels: Annotated[str, typer.Option(help="Pseudo-labels: ramp (the paper's), constant, final, power, or monte-carlo (after `trueplex train values`).")] = "ramp",
    loss: Annotated[str, typer.Option(help="'mse' (the paper's) or 'bce'.")] = "mse",
    ranking: Annotated[float, typer.Option(help="Weight of a ranking loss between right and wrong traces of a problem.")] = 0.0,
    balanced: Annotated[bool, typer.Option("--balanced", help="As many right as wrong traces of every problem.")] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the traces.")] = 1.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Traces per step, over all processes.")] = 32,
    every: Annotated[int, typer.Option(help="Steps between checkpoints, where validation is judged.")] = 250,
    patience: Annotated[int, typer.Option(help="Stop after so many checkpoints that are no better, and keep the best; 0 never.")] = 0,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Recompute activations: slower, in less memory.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = None,
) -> None:  # fmt: skip
    """Train a One-Token verifier for a model from its graded traces. Also under torchrun."""
    from trueplex.errors import OptionError
    from trueplex.jobs.training import teach
    from trueplex.train.verifier import Recipe

    if positions != "all" and not positions.isdigit():
        raise OptionError(f"positions is {positions!r}; mend: a number, or 'all'")
    names = tuple(name.strip() for name in targets.split(",")) if targets else ()
    recipe = Recipe(rank, names, None if positions == "all" else int(positions), batch, epochs, lr, seed, labels, loss,
                    ranking, balanced, patience, every, checkpointing)  # fmt: skip
    teach(data, validation or [], model, device, recipe, out)


@app.command()
def values(
    data: Annotated[list[Path], typer.Option(help="Rollout folders; the values are stored in them. May be given again.")],
    model: Model = "reference",
    traces: Annotated[int, typer.Option(help="Most traces valued per problem that has right and wrong ones, of both in turn.")] = 6,
    prefixes: Annotated[int, typer.Option(help="Most prefixes valued per trace, spread over the ends of its steps.")] = 4,
    samples: Annotated[int, typer.Option(help="Continuations per prefix.")] = 4,
    steps: Annotated[str, typer.Option(help="Where steps end: 'lines' or 'paragraphs'.")] = "lines",
    n: Annotated[int | None, typer.Option(help="Most problems valued per folder, in its order; more can be valued later.", show_default="all")] = None,
    rows: Rows = None,
    seed: Annotated[int, typer.Option(help="Same seed, same values.")] = 0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:  # fmt: skip
    """Monte-Carlo values of prefixes of stored traces: how often the model goes on to the right answer. Resumable."""
    from trueplex.jobs.training import appreciate
    from trueplex.train.values import Valuing

    appreciate(data, model, device, Valuing(traces, prefixes, samples, steps, seed), n, rows, quiet)


@app.command()
def reward(
    kind: Annotated[str, typer.Option(help="'outcome', 'process' (Math-Shepherd's form, after `trueplex train values`) or 'generative' (GenRM).")],
    data: Annotated[list[Path], typer.Option(help="Rollout folders to learn from; may be given again.")],
    out: Annotated[Path, typer.Option(help="Folder for the model; an interrupted run is taken up there.")],
    validation: Annotated[list[Path] | None, typer.Option(help="Rollout folders to judge by.", show_default="a tenth of the problems")] = None,
    model: Model = "reference",
    rank: Annotated[int, typer.Option(help="LoRA rank, merged in at the end; 0 trains all weights.")] = 16,
    steps: Annotated[str | None, typer.Option(help="Where steps end for a process model: 'lines' or 'paragraphs'.", show_default="lines")] = None,
    balanced: Annotated[bool, typer.Option("--balanced", help="As many right as wrong traces of every problem.")] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the traces.")] = 1.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Traces per step, over all processes.")] = 32,
    every: Annotated[int, typer.Option(help="Steps between checkpoints, where validation is judged.")] = 250,
    patience: Annotated[int, typer.Option(help="Stop after so many checkpoints that are no better, and keep the best; 0 never.")] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = None,
) -> None:  # fmt: skip
    """Train a reward model of the base model's size on graded traces: a verifier's rivals. Also under torchrun."""
    from trueplex.jobs.training import teach_reward
    from trueplex.train.reward import RewardRecipe

    recipe = RewardRecipe(kind, rank, batch, epochs, lr, seed, steps, balanced, patience, every)
    teach_reward(data, validation or [], model, device, recipe, out)
