"""The command line. Each command imports what it needs when it runs, so `--help` is quick.

Exit codes: 0 answered, 1 abstained or no answer, 2 bad usage or input, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from trueplex import __version__
from trueplex.cli import evals as cli_evals
from trueplex.cli import train as cli_train
from trueplex.cli.messages import listen
from trueplex.cli.options import Device, Model, thinks
from trueplex.errors import StoreError, TrueplexError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DECIDE, SPEND = "What is retired, chosen and said", "What the whole run may spend"

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Reason along many paths at once, and know which to trust.\n\nTry: trueplex problems reference --n 1 | trueplex solve @/dev/stdin",
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        print(f"trueplex {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")] = False,
) -> None:  # fmt: skip
    """Options of no command."""


app.add_typer(cli_evals.app)
app.add_typer(cli_train.app, name="train")


@app.command()
@thinks
def solve(
    problems: Annotated[list[str], typer.Argument(metavar="PROBLEM...", help="Text, '-' for standard input, or @FILE.jsonl.", show_default=False)],
    thinking: Any,
    model: Model = "reference",
    paths: Annotated[str, typer.Option(help="Traces per problem: a number, or 'auto' ('auto:LIMIT'): 8, and more while the vote is open.")] = "16",
    verifier: Annotated[str, typer.Option(help="'auto' (the model's own), a verifier's folder or hub id, 'deepconf[:mean|tail|bottom|lowest[@WINDOW]]', 'logprob', 'entropy', an outcome model 'orm:[acemath:]MODEL', a process model 'prm:FORM:MODEL[@last|min|mean|product]' (FORM: math-shepherd, versaprm, qwen, skywork), a generative verifier 'genrm:MODEL[@VOTES]', or 'none'.")] = "auto",
    prune: Annotated[str, typer.Option(rich_help_panel=DECIDE, help="When to retire weak paths, joined by '+': 'half:32', 'half:32/4' (leave 4), 'keep:0.5@64', 'drop:2@16', 'stop:128', 'floor:0.2', 'deepconf:low@64/8' (after 64 tokens, 8 warm-up paths), 'consensus:0.6'; 'none' keeps all.")] = "none",
    select: Annotated[str | None, typer.Option(rich_help_panel=DECIDE, help="How to choose the answer: majority, weighted, weighted:POWER, weighted:odds, best, or top:SHARE.", show_default="weighted; majority without a verifier")] = None,
    abstain_below: Annotated[float | None, typer.Option(rich_help_panel=DECIDE, help="Give no answer at a lower confidence.", show_default="always answer")] = None,
    max_error: Annotated[float | None, typer.Option(rich_help_panel=DECIDE, help="Answer only as far as at most this share of the answers is wrong, by the verifier's calibration.", show_default="always answer")] = None,
    alarm: Annotated[list[str] | None, typer.Option(rich_help_panel=DECIDE, help="Stop at once: 'fall:0.4@64' (score fell by 0.4 in 64 tokens), 'under:0.1@96' (stayed under 0.1), 'call:MODULE:FUNCTION' (yours), each with '=trace', '=problem' or '=run'; may be given again.", show_default="none")] = None,
    budget_tokens: Annotated[int | None, typer.Option(rich_help_panel=SPEND, help="Most tokens of the whole run, probes included.", show_default="no limit")] = None,
    budget_seconds: Annotated[float | None, typer.Option(rich_help_panel=SPEND, help="Most seconds of the whole run.", show_default="no limit")] = None,
    budget_paths: Annotated[int | None, typer.Option(rich_help_panel=SPEND, help="Most paths of the whole run.", show_default="no limit")] = None,
    probe_every: Annotated[int, typer.Option(help="Tokens between scores.")] = 32,
    seed: Annotated[int, typer.Option(help="Same seed, same traces.")] = 0,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per problem on standard output, nothing else there.")] = False,
    save: Annotated[Path | None, typer.Option(help="Append every trace to this file: *.jsonl, or *.arrow for columns.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the traces that the --save file holds, finished or not.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No race, no progress.")] = False,
) -> None:  # fmt: skip
    """Solve problems: many paths, scored while they think, weak ones retired, then a vote."""
    from trueplex.cli.solve import run
    from trueplex.decide.budget import Budget
    from trueplex.solving.settings import Settings

    settings = Settings(
        paths=paths,
        verifier=verifier,
        prune=prune,
        select=select,
        seed=seed,
        probe_every=probe_every,
        thinking=thinking,
        alarms=tuple(alarm or ()),
        budget=Budget(budget_tokens, budget_seconds, budget_paths),
        abstain_below=abstain_below,
        max_error=max_error,
    )
    raise typer.Exit(run(problems, model, device, settings, as_json=json, save=save, resume=resume, quiet=quiet))


@app.command()
def problems(
    suite: Annotated[str, typer.Argument(help="'reference' (all mixed) or one suite, e.g. chain-easy.")],
    split: Annotated[
        str,
        typer.Option(
            help="train, validation or test, which never overlap; practice: training problems, shorter ones too."
        ),
    ] = "test",
    n: Annotated[int, typer.Option(help="How many.")] = 5,
    seed: Annotated[int, typer.Option(help="Which ones, and in which order.")] = 0,
) -> None:
    """Print problems of the embedded model's suites as JSON lines: id, problem, answers."""
    import json

    from trueplex.data.embedded import tasks

    for problem in tasks.problems(suite, split, n, seed):
        print(json.dumps({"id": problem.id, "problem": problem.text, "answers": list(problem.answers or ())}))


@app.command()
def grade(
    file: Annotated[Path, typer.Argument(help='JSON lines {"prediction": …, "answers": […]}.')],
    audit: Annotated[bool, typer.Option("--audit", help="List the lines where strict string, numeric or math-verify grading tells otherwise, instead.")] = False,
) -> None:  # fmt: skip
    """Grade predictions against accepted answers, one JSON line each, in order."""
    from trueplex.cli.grade import grade_file

    grade_file(file, audit)


@app.command()
def show(
    traces: Annotated[Path, typer.Argument(help="A file that --save wrote, or a folder of rollouts.", show_default=False)],
    problem: Annotated[int, typer.Option(help="Which problem of the file, from 1.")] = 1,
    trace: Annotated[int | None, typer.Option(help="Which of its traces, by index.", show_default="its first")] = None,
    candidates: Annotated[bool, typer.Option("--candidates", help="Also list the words that every exploring step weighed.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with all traces of the problem and their scores.")] = None,
    model: Model = "reference",
) -> None:  # fmt: skip
    """Read a stored trace: what it wrote, where it explored, how sure the model and the verifier were."""
    from trueplex.cli.show import look

    look(traces, problem, trace, candidates, html, model)


def _ended(number: int, frame: FrameType | None) -> None:
    """A job that its scheduler ends keeps what it has, as after Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """The console entry: errors become one line and exit code 2; an interrupt becomes 130."""
    signal.signal(signal.SIGTERM, _ended)
    listen()
    try:
        if sys.stdout is None:
            raise StoreError("standard output is closed. Try: leave it open, or send it to /dev/null")
        code: Any = app(prog_name="trueplex", standalone_mode=False)
        sys.stdout.flush()
    except TrueplexError as error:
        code = _complain(str(error))
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (BrokenPipeError, SystemExit) as stop:
        # The framework turns a broken pipe into a bare exit; anything else that exits is not ours to change.
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, BrokenPipeError):
            raise
        # The reader has gone; give Python a sink, or it would complain again on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _complain("standard output was closed before all was written. Try: read it to the end, or use --save")
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _complain(
            f"cannot write: {error.strerror}. Try: make room and run again (what --save or --out holds is kept)"
        )
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("click", "typer"):
            raise
        told = error.format_message() if hasattr(error, "format_message") else str(error)
        command = getattr(getattr(error, "ctx", None), "command_path", "trueplex")
        # Without any word, the help was shown.
        code = _complain(f"{told.rstrip('.')}. Try: see '{command} --help'") if told else 2
    if code == 130:  # typer itself may have turned the interrupt into this code
        print("trueplex: interrupted; what was finished is kept", file=sys.stderr)
    sys.exit(code or 0)


def _complain(message: str) -> int:
    print(f"trueplex: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
