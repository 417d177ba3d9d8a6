"""Dataclasses as groups of options, and the help that is made of them."""

from __future__ import annotations

import inspect
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
import typer

from trueplex.cli import main as cli
from trueplex.cli.groups import LimitOptions, ModelOptions, RunOptions, ThinkingOptions, ThinkingOrGreedy
from trueplex.cli.options import Within, command, listed, spread
from trueplex.errors import OptionError


@dataclass(frozen=True)
class Fruit:
    PANEL: ClassVar[str] = "Fruit"

    name: Annotated[str, typer.Option(help="Which.")]
    count: Annotated[int, typer.Option(help="How many."), Within(1, 9)] = 2
    ripe: Annotated[bool, typer.Option("--ripe", help="Now.")] = False


def answer(*arguments: str) -> Any:
    """What a command of one group and one option of its own gets from these arguments."""
    app = typer.Typer(add_completion=False)

    @command(app, "eat --name pear [2]")
    def eat(fruit: Fruit, place: Annotated[str, typer.Option(help="Where.")] = "here") -> Any:
        """Eat."""
        return fruit, place

    return app(arguments, standalone_mode=False)


def commands(group: Any = None, path: str = "trueplex") -> Iterator[tuple[str, Any]]:
    """Every command of the program by its whole name."""
    group = group or typer.main.get_command(cli.app)
    for name, one in group.commands.items():
        yield from commands(one, f"{path} {name}") if hasattr(one, "commands") else [(f"{path} {name}", one)]


COMMANDS = dict(commands())


def test_a_command_gets_the_instances_that_its_options_fill() -> None:
    assert answer("--name", "pear") == (Fruit("pear"), "here")
    assert answer("--place", "there", "--ripe", "--count", "3", "--name", "fig") == (Fruit("fig", 3, True), "there")


def test_a_list_of_names_has_no_empty_one_and_none_twice() -> None:
    assert listed("--x", None) == () and listed("--x", " a, b") == ("a", "b")
    for text in ("", ",", "a,,b", "a, a"):
        with pytest.raises(OptionError, match=r"x is .*Try: names separated by commas, each once"):
            listed("--x", text)


def test_numbers_are_held_to_the_bounds_of_their_field() -> None:
    with pytest.raises(OptionError, match=r"count is 10\. Try: a whole number from 1 to 9"):
        answer("--name", "pear", "--count", "10")


def test_two_options_of_one_name_are_a_mistake_of_the_program() -> None:
    def twice(fruit: Fruit, count: Annotated[int, typer.Option()] = 1) -> None: ...

    with pytest.raises(AssertionError, match="one name"):
        spread(twice)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_and_every_command_has_an_example_that_parses(name: str) -> None:
    one = COMMANDS[name]
    assert len(inspect.signature(inspect.unwrap(one.callback)).parameters) <= 8
    assert one.help and one.help.rstrip().endswith(".")
    silent = [p.name for p in one.params if p.name != "help" and not (p.help or "").strip().endswith((".", "}", ")"))]
    assert not silent
    example = one.epilog.removeprefix("Example:  [bold]").removesuffix("[/bold]").replace("\\[", "[")
    words = shlex.split(example.partition(" > ")[0])
    assert example.startswith(f"{name} ") and one.make_context(name, words[len(name.split()) :]) is not None


def test_no_option_is_named_as_one_that_was_renamed() -> None:
    from trueplex.cli.mistakes import RENAMED

    assert not {o for one in COMMANDS.values() for p in one.params for o in p.opts} & set(RENAMED)


def test_help_needs_no_torch() -> None:
    asked = [[*name.split()[1:], "--help"] for name in ("", *COMMANDS)]
    code = f"""
import sys
from trueplex.cli.main import main
for arguments in {asked!r}:
    sys.argv = ['trueplex', *arguments]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
    assert not {{'torch', 'transformers', 'peft'}} & set(sys.modules), arguments
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("Usage") == len(asked), done.stderr


def test_greedy_is_discrete_thinking_at_temperature_0() -> None:
    limits = LimitOptions(max_tokens=9)
    written = ThinkingOptions(thinking="discrete", temperature=0.0).build(limits)
    assert ThinkingOrGreedy(greedy=True).build(limits) == written
    assert ThinkingOrGreedy(greedy=True, thinking="discrete").build(limits) == written
    assert ThinkingOrGreedy().build(limits) == ThinkingOptions().build(limits) != written


def test_greedy_takes_one_path_unless_more_are_asked_for(trueplex) -> None:
    import json

    problem = "Ann has 3 apples. Ann buys 4 more. How many apples are there now?"
    common = ("solve", problem, "--json", "--quiet", "--verifier", "none")
    one, four, written = (
        [path["text"] for path in json.loads(trueplex(*common, *more)[1])["paths"]]
        for more in (
            ("--greedy",),
            ("--greedy", "--paths", "4"),
            ("--thinking", "discrete", "--temperature", "0", "--paths", "1"),
        )
    )
    assert one == written and four == written * 4


def test_the_batch_size_and_the_threads_reach_the_engine(trueplex, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from trueplex.solving import loop

    seen: list[Any] = []
    whole = loop.stream

    def watched(backbone: Any, problems: Any, settings: Any, *others: Any, **named: Any) -> Any:
        seen.append(settings)
        return whole(backbone, problems, settings, *others, **named)

    monkeypatch.setattr(loop, "stream", watched)
    before = torch.get_num_threads()
    try:
        code, _, _ = trueplex(
            "solve", "1+1?", "--paths", "2", "--max-batch-size", "1", "--max-tokens", "4", "--threads", "2", "--quiet"
        )
        assert code == 1 and seen[0].rows == 1 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_group_works_without_a_command_line() -> None:
    assert ModelOptions().model == "reference" and RunOptions().paths is None
    with pytest.raises(OptionError, match="paths"):
        RunOptions(paths="9" * 30)
