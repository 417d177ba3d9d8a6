"""`trueplex models`: which families of models work here, and what on each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "trueplex models qwen3_5_text nemotron_h --markdown models.md"
ABOUT = """# Which models work

Written by `trueplex models --markdown docs/models.md`: of each family a tiny random model is built and held to the laws in
float32. It must pass the self-check; "merged thoughts" is greedy decoding as `generate` does it and merged decoding as a replay reads
it, "probe" live scores as stored ones, "GRPO" the training pass as the engine, with a gradient. Reading that a family works says
nothing of how good its models are. The thinking tags are those of published templates. What a probe reads of a recurrent
state is measured in [results](results.md#can-a-probe-read-a-recurrent-state).

"""


def families(
    names: Annotated[list[str] | None, typer.Argument(help="Families by transformers' model_type.", show_default="those that are known")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table to this file.")] = None,
) -> None:  # fmt: skip
    """Build a tiny random model of each family and tell what works on it, and why not."""
    import transformers

    from trueplex.files import write_text
    from trueplex.report.families import table
    from trueplex.report.tiny import OPTIONS

    lines = []
    for line in table(names or sorted(OPTIONS)):
        print(line, flush=True)
        lines.append(line)
    if markdown is not None:
        version = f"\n\nWith transformers {transformers.__version__}, on a CPU, with transformers' own slow path where kernels are missing.\n"
        write_text(markdown, ABOUT + "\n".join(lines) + version)
