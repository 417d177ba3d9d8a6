"""The options that every sampling command shares: how traces think, and when they end.

They are written once, as the parameters of `thinking_of`; `thinks` adds them to a command, which gets
the `Thinking` that they make.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

Model = Annotated[
    str,
    typer.Option(
        help="'reference', 'reference-multiplex' (it learned to think in multiplex tokens), a local folder, or a hub id."
    ),
]
Device = Annotated[str | None, typer.Option(help="cuda, mps or cpu.", show_default="the best there is")]
Rows = Annotated[int | None, typer.Option(help="Traces decoded together.", show_default="64 on CPU, 256 on CUDA")]

HOW, ANSWER, END = "How traces think", "How they answer, after </think>", "When they end"
AS_THINKING = "as while thinking"


def _option(panel: str, *names: str, **shown: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **shown)


def thinking_of(
    thinking: Annotated[str, _option(HOW, help="'discrete' (one token a step), 'multiplex' (K samples merged), 'soft' (the K likeliest merged) or 'stochastic-soft' (the same under noise).")] = "multiplex",
    width: Annotated[int | None, _option(HOW, help="Samples K of a multiplex step, or words of a soft step.", show_default="3; 10 for soft")] = None,
    merge: Annotated[str | None, _option(HOW, help="How K samples merge: 'weighted' (by probability) or 'mean'.", show_default="weighted")] = None,
    without_replacement: Annotated[bool, _option(HOW, "--without-replacement", help="K different samples in every multiplex step.")] = False,
    noise: Annotated[str | None, _option(HOW, help="Of stochastic-soft: 'gumbel' or 'dirichlet'.", show_default="gumbel")] = None,
    strength: Annotated[float | None, _option(HOW, help="Of the noise: tau of gumbel, alpha of dirichlet.", show_default="1.0")] = None,
    temperature: Annotated[float, _option(HOW, help="Sampling temperature; 0 is greedy.")] = 1.0,
    top_k: Annotated[int, _option(HOW, help="Keep so many of the likeliest words; 0 keeps all.")] = 0,
    top_p: Annotated[float, _option(HOW, help="Then keep the likeliest words up to this mass.")] = 1.0,
    min_p: Annotated[float, _option(HOW, help="Then keep words at least this likely, relative to the likeliest.")] = 0.0,
    answer_temperature: Annotated[float | None, _option(ANSWER, show_default=AS_THINKING)] = None,
    answer_top_k: Annotated[int | None, _option(ANSWER, show_default=AS_THINKING)] = None,
    answer_top_p: Annotated[float | None, _option(ANSWER, show_default=AS_THINKING)] = None,
    answer_min_p: Annotated[float | None, _option(ANSWER, show_default=AS_THINKING)] = None,
    max_tokens: Annotated[int | None, _option(END, help="Most tokens per path, thinking and answer.", show_default="the model's own")] = None,
    think_tokens: Annotated[int | None, _option(END, help="Write </think> after so many tokens of thinking; the rest of max-tokens is kept for the answer.", show_default="no limit")] = None,
    cold_entropy: Annotated[float | None, _option(END, help="Cold stop: write </think> when entropy (nats) stays below this. 0.01 as published.", show_default="never")] = None,
    cold_steps: Annotated[int | None, _option(END, help="Steps that the entropy must stay below.", show_default="256")] = None,
    stop: Annotated[list[str] | None, _option(END, help="End a path when its text ends so; may be given again.", show_default="none")] = None,
    max_seconds: Annotated[float | None, _option(END, help="Most seconds per path.", show_default="no limit")] = None,
) -> Any:  # fmt: skip
    """The options as the `Thinking` that they come to; each is refused where it could not act."""
    from trueplex.engine.limits import Ending
    from trueplex.engine.sampling import Sampling
    from trueplex.engine.thinking import Thinking

    sampling = Sampling(temperature, top_p, top_k, min_p)
    given = (answer_temperature, answer_top_p, answer_top_k, answer_min_p)
    answering = None
    if any(value is not None for value in given):
        own = (temperature, top_p, top_k, min_p)
        answering = Sampling(*(a if b is None else b for a, b in zip(own, given, strict=True)))  # type: ignore[arg-type]
    ending = Ending(max_tokens, think_tokens, cold_entropy, cold_steps, tuple(stop or ()), max_seconds)
    return Thinking(thinking, width, merge, sampling, answering, ending, not without_replacement, noise, strength)


def thinks(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a command that has a parameter ``thinking``, a `Thinking`."""
    shared = inspect.signature(thinking_of, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        options = {name: values.pop(name) for name in shared}
        command(**values, thinking=thinking_of(**options))

    # Keyword-only, so that options with and without defaults may stand in any order.
    merged = [*(p for name, p in own.items() if name != "thinking"), *shared.values()]
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in merged]
    with_options.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in keyword}
    return with_options
