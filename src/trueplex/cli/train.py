"""`trueplex train …`: what learns from traces. Each command imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trueplex.cli.options import Device, Model, Rows, thinks

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
    labels: Annotated[str, typer.Option(help="Pseudo-labels: ramp (the paper's), constant, final, power, or monte-carlo (after `trueplex train values`), or measured: that where there is one, else the ramp.")] = "ramp",
    loss: Annotated[str, typer.Option(help="'mse' (the paper's) or 'bce'.")] = "mse",
    ranking: Annotated[float, typer.Option(help="Weight of a ranking loss between right and wrong traces of a problem.")] = 0.0,
    balanced: Annotated[bool, typer.Option("--balanced", help="As many right as wrong traces of every problem.")] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the traces.")] = 1.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Traces per step, over all processes.")] = 32,
    every: Annotated[int, typer.Option(help="Steps between checkpoints, where validation is judged.")] = 250,
    patience: Annotated[int, typer.Option(help="Stop after so many checkpoints that are no better, and keep the best; 0 never.")] = 0,
    bf16: Annotated[bool | None, typer.Option("--bf16/--no-bf16", help="The base model in bfloat16; what is learned stays in float32.", show_default="on accelerators that have it")] = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Recompute activations: slower, in less memory.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = None,
) -> None:  # fmt: skip
    """Train a One-Token verifier for a model from its graded traces. Also under torchrun."""
    from trueplex.cli.training import teach
    from trueplex.errors import OptionError
    from trueplex.train.verifier import Recipe

    if positions != "all" and not positions.isdigit():
        raise OptionError(f"positions is {positions!r}. Try: a number, or 'all'")
    names = tuple(name.strip() for name in targets.split(",")) if targets else ()
    recipe = Recipe(rank, names, None if positions == "all" else int(positions), batch, epochs, lr, seed, labels, loss,
                    ranking, balanced, patience, every, checkpointing)  # fmt: skip
    teach(data, validation or [], model, device, bf16, recipe, out)


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
    from trueplex.cli.training import appreciate
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
    bf16: Annotated[bool | None, typer.Option("--bf16/--no-bf16", help="The base model in bfloat16; what is learned stays in float32.", show_default="on accelerators that have it")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = None,
) -> None:  # fmt: skip
    """Train a reward model of the base model's size on graded traces: a verifier's rivals. Also under torchrun."""
    from trueplex.cli.training import teach_reward
    from trueplex.train.reward import RewardRecipe

    recipe = RewardRecipe(kind, rank, batch, epochs, lr, seed, steps, balanced, patience, every)
    teach_reward(data, validation or [], model, device, bf16, recipe, out)


@app.command()
@thinks
def policy(
    data: Annotated[str, typer.Option(help="What to learn from: 'reference' (all suites), suites by commas, or FILE.jsonl with answers.")],
    out: Annotated[Path, typer.Option(help="Folder for the run; an interrupted one is taken up there.")],
    thinking: Any,
    model: Model = "reference",
    validation: Annotated[str | None, typer.Option(help="What to judge by, as data.", show_default="the suites' validation split, or a tenth of the file")] = None,
    problems: Annotated[int, typer.Option(help="Most problems to learn from.")] = 4000,
    held: Annotated[int, typer.Option(help="Most problems to judge by.")] = 120,
    steps: Annotated[int, typer.Option(help="Batches of rollouts.")] = 300,
    prompts: Annotated[int, typer.Option(help="Problems a step, over all processes.")] = 128,
    samples: Annotated[int, typer.Option(help="Rollouts a problem: the group that is compared.")] = 8,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-6,
    warmup: Annotated[int, typer.Option(help="Steps over which the rate rises.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the rollouts of a step.")] = 1,
    minibatches: Annotated[int, typer.Option(help="Updates a pass.")] = 1,
    norm: Annotated[str, typer.Option(help="Advantages over the group's deviation: 'std', or 'none' (Dr. GRPO).")] = "std",
    aggregation: Annotated[str, typer.Option(help="What counts alike in the loss: every 'token' (the paper's), every 'trace', or 'constant' (length-unbiased).")] = "token",
    clip: Annotated[float, typer.Option(help="Lower clip of the ratio, 1 − this.")] = 0.2,
    clip_high: Annotated[float, typer.Option(help="Upper clip of the ratio, 1 + this.")] = 0.2,
    dual_clip: Annotated[float, typer.Option(help="Ratio held where the advantage is negative; 0 never.")] = 3.0,
    kl: Annotated[float, typer.Option(help="Weight of the divergence from the first model.")] = 0.0,
    rank: Annotated[int, typer.Option(help="LoRA rank; 0 trains all weights.")] = 0,
    targets: Annotated[str | None, typer.Option(help="Layers that get LoRA, by commas.", show_default="all linear layers")] = None,
    reward: Annotated[list[str] | None, typer.Option(help="'correct' (the grader's verdict), or 'module:function' with TRL's signature; several are summed.", show_default="correct")] = None,
    max_norm: Annotated[float, typer.Option(help="Gradients are scaled down to this norm.")] = 1.0,
    most_skipped: Annotated[int, typer.Option(help="Updates in a row without a finite gradient that end the run.")] = 5,
    every: Annotated[int, typer.Option(help="Steps between checkpoints, where validation is judged.")] = 25,
    validated: Annotated[int, typer.Option(help="Traces of each validation problem.")] = 4,
    kept: Annotated[int, typer.Option(help="Steps whose rollouts stay on the disk.")] = 20,
    micro_tokens: Annotated[int, typer.Option(help="Most tokens of one forward pass of training; on CPU about 1024 is fastest.")] = 4096,
    rows: Rows = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Forward passes in bfloat16, weights in float32.")] = False,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="Recompute activations: slower, in less memory.")] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same problems, rollouts and weights.")] = 0,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:  # fmt: skip
    """Train the model itself on its own rollouts, by GRPO. Also under torchrun."""
    from trueplex.cli.policy import practise
    from trueplex.train.grpo.loss import Clip
    from trueplex.train.grpo.recipe import PolicyRecipe

    names = tuple(name.strip() for name in targets.split(",")) if targets else ()
    recipe = PolicyRecipe(
        thinking, steps, prompts, samples, lr, warmup, epochs, minibatches, norm, aggregation,
        Clip(clip, clip_high, dual_clip or None), kl, rank, names, tuple(reward or ("correct",)), max_norm, most_skipped,
        every, validated, kept, micro_tokens, rows, bf16, checkpointing, seed,
    )  # fmt: skip
    practise(data, validation, problems, held, model, device, recipe, out, quiet)
