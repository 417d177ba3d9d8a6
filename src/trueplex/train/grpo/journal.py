"""What a training run leaves for people to read: figures, rollouts, judgements and alarms.

Everything is cut back to the step that a run resumes at, so a killed run that is resumed leaves the same files as an
uninterrupted one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trueplex.data.traces import Origin, open_store, to_row
from trueplex.files import failure, parsed, write_text
from trueplex.train.common.state import NUMBER, as_line, read_lines
from trueplex.train.grpo.batches import Rollout
from trueplex.train.grpo.watch import cheating, signs

log = logging.getLogger(__name__)

METRICS, VALIDATION, ALARMS = "metrics.jsonl", "validation.jsonl", "alarms.jsonl"
SAMPLED = 8  # traces on a page of an alarm


class Lines:
    """A file of JSON lines, each of a step and with some fields; cut back to the step that a run resumes at.

    Raises:
        StoreError: what an earlier run left cannot be read.
    """

    def __init__(self, path: Path, step: int, fields: dict[str, Any]) -> None:
        self.path = path
        self.rows = [row for row in read_lines(path, fields) if row["step"] <= step]
        write_text(path, "".join(map(as_line, self.rows)))

    def append(self, row: dict[str, Any]) -> None:
        line = as_line(row)
        self.rows.append(parsed(line, dict[str, Any], self.path))
        try:
            with self.path.open("a") as file:
                file.write(line)
        except OSError as error:
            raise failure("write", self.path, error) from error


class Journal:
    """The files of a run, from step `step` on; only the first process keeps one."""

    def __init__(self, out: Path, step: int) -> None:
        self.out = out
        self.metrics = Lines(out / METRICS, step, {"reward": (*NUMBER, type(None)), "skipped": int, "silent": int})
        self.validation = Lines(out / VALIDATION, step, {"right": NUMBER, "error": NUMBER})
        self.alarms = Lines(out / ALARMS, step, {"sign": str})
        self._sounding = {row["sign"] for row in self.alarms.rows if row["step"] == step}

    def step(self, figures: dict[str, Any]) -> None:
        """A step's figures; an alarm is sounded when it begins, not at every step that it lasts."""
        self.metrics.append(figures)
        found = signs(figures, self.metrics.rows[0])
        for name in found.keys() - self._sounding:
            self._alarm(figures["step"], name, found[name])
        self._sounding = set(found)

    def judge(self, judgement: dict[str, Any], rollouts: Sequence[Rollout]) -> None:
        """A judgement on validation; `rollouts` are those of the last step, to be read if something looks wrong."""
        since = self.validation.rows[-1]["step"] if self.validation.rows else 0
        rewards = [m["reward"] for m in self.metrics.rows if m["step"] > since and m["reward"] is not None]
        judgement = {**judgement, "reward": sum(rewards) / len(rewards) if rewards else None}
        self.validation.append(judgement)
        if cheating(self.validation.rows):
            page = self.out / "alarms" / f"step-{judgement['step']:06d}.md"
            write_text(page, sample_page(judgement["step"], rollouts))
            self._alarm(judgement["step"], "validation", f"the reward rises while validation falls; read {page}")

    def _alarm(self, step: int, sign: str, what: str) -> None:
        self.alarms.append({"step": step, "sign": sign, "what": what})
        log.warning(f"ALARM at step {step}: {what}")


def keep(out: Path, step: int, rollouts: Sequence[Rollout], origin: Origin, kept: int, process: int) -> None:
    """Store what a process rolled out in a step, and forget its steps long past, but for the last `kept`."""
    folder, own = out / "rollouts", f"-{process}" if process else ""
    path = folder / f"step-{step:06d}{own}.arrow"
    path.unlink(missing_ok=True)
    store = open_store(path)
    store.append([to_row(r.trace, r.prompt, origin) for r in rollouts])
    store.close()
    for old in sorted(folder.glob(f"step-??????{own}.arrow"))[:-kept]:
        old.unlink()


def flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of nested figures with their names, a slash between levels."""
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            found.append((prefix + name, float(value)))
    return found


def sample_page(step: int, rollouts: Sequence[Rollout]) -> str:
    """Traces to read, the best rewarded first, as Markdown."""
    chosen = sorted(rollouts, key=lambda r: (-r.reward, r.number, r.trace.index))[:SAMPLED]
    parts = [
        f"# Step {step}: the reward rises while validation falls\n\nThe best rewarded of {len(rollouts)} rollouts."
    ]
    for r in chosen:
        text = r.trace.text.replace("```", "'''")
        parts.append(
            f"## {r.trace.problem.id or 'problem'}, trace {r.trace.index}: reward {r.reward:g}, correct: {r.trace.correct}\n\n"
            f"{r.trace.problem.text}\n\nAnswer: {r.trace.answer}; accepted: {', '.join(r.trace.problem.answers or ()) or 'unknown'}; "
            f"{r.trace.tokens} tokens, {r.trace.status.value}.\n\n```text\n{text}\n```"
        )
    return "\n\n".join(parts) + "\n"
