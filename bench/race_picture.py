"""Draw the README's picture: one real race, as a terminal shows it, to an SVG.

python bench/race_picture.py --out docs/race.svg
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from trueplex.data.embedded.tasks import problems
from trueplex.engine.thinking import Thinking
from trueplex.models.load import load
from trueplex.report.race import table, verdict
from trueplex.solving.loop import Solved, stream
from trueplex.solving.scorers import choose_scorer
from trueplex.solving.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suite", default="chain-hard")
    parser.add_argument("--problem", type=int, default=0, help="which validation problem")
    parser.add_argument("--thinking", default="discrete")
    options = parser.parse_args()
    backbone = load("reference", device="cpu")
    settings = Settings(paths=16, prune="half:64", probe_every=8, thinking=Thinking(options.thinking))
    scorer, settings = choose_scorer(backbone, settings)
    problem = problems(options.suite, "validation", options.problem + 1)[-1]
    for event in stream(backbone, [problem], settings, scorer):
        if isinstance(event, Solved):
            console = Console(record=True, width=92, file=io.StringIO())
            console.print(
                Text(f"$ trueplex solve … --thinking {options.thinking} --prune half:64\n", style="bright_black")
            )
            console.print(Text(problem.text + "\n", style="cyan"))
            console.print(table(event.solution.traces), "")
            console.print(verdict(event.solution))
            picture = console.export_svg(title="trueplex")
            # No font is fetched from anywhere; whoever looks has a monospaced one.
            options.out.write_text(re.sub(r"@font-face \{.*?\n    \}", "", picture, flags=re.DOTALL))


if __name__ == "__main__":
    main()
