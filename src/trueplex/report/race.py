"""The race, live on a terminal: a row per trace with its score over time, then the vote."""

from __future__ import annotations

from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trueplex.solving.loop import Advanced, Event, Solved, Stopped
from trueplex.types import Solution, Status, Trace

BARS = "▁▂▃▄▅▆▇█"
SPARK = 16  # scores shown, the latest ones
MARKS = {Status.RUNNING: "…", Status.FINISHED: "✓", Status.PRUNED: "✗", Status.TRUNCATED: "…"}
STYLES = {Status.RUNNING: "", Status.FINISHED: "bold", Status.PRUNED: "bright_black", Status.TRUNCATED: "yellow"}


def sparkline(scores: list[float]) -> str:
    """Bars up to 1, or up to the highest score where scores are not bounded."""
    most = max([1.0, *scores])
    scores = [score / most for score in scores]
    return "".join(BARS[min(7, max(0, int(s * 8)))] for s in scores[-SPARK:])


class Race:
    """Draws events as they come; a context manager, so the terminal is always given back."""

    def __init__(self, console: Console, problems: int) -> None:
        self.console, self.problems = console, problems
        self.solved = 0
        self.traces: dict[int, dict[int, Trace]] = {}
        self._live = Live(console=console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Race:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(*error)  # type: ignore[arg-type]

    def show(self, event: Event) -> None:
        if isinstance(event, Solved):
            self.solved += 1
            self.traces.pop(event.solution.problem.key, None)
            if self.traces:
                self._live.update(self._picture())
        elif isinstance(event, Stopped):
            self.traces.setdefault(event.trace.problem.key, {})[event.trace.index] = event.trace
        elif isinstance(event, Advanced):
            for trace in event.traces:
                self.traces.setdefault(trace.problem.key, {})[trace.index] = trace
            self._live.update(self._picture())

    def _picture(self) -> Group:
        """The problem in front: the earliest one that is not solved."""
        key = next(iter(self.traces))
        rows = sorted(self.traces[key].values(), key=lambda t: t.index)
        head = Text(
            f"{self.solved} of {self.problems} solved · {rows[0].problem.text}",
            style="cyan",
            overflow="ellipsis",
            no_wrap=True,
        )
        room = max(4, self.console.height - 5)
        shown = Group(head, table(rows[:room]))
        if len(rows) > room:
            shown.renderables.append(Text(f"… and {len(rows) - room} more paths", style="bright_black"))
        return shown


def table(traces: list[Trace]) -> Table:
    """A row per trace: mark, index, tokens, score over time, answer; pruned traces greyed."""
    grid = Table(box=None, padding=(0, 1))
    for name, side in (
        ("", "left"),
        ("path", "right"),
        ("tokens", "right"),
        ("score", "left"),
        ("", "right"),
        ("answer", "left"),
    ):
        grid.add_column(name, justify=side)  # type: ignore[arg-type]
    for t in traces:
        score = "" if t.score is None else f"{t.score:.2f}"
        what = t.answer or (t.reason if t.status in (Status.PRUNED, Status.TRUNCATED) else "")
        if t.answer is not None and t.correct is not None:
            what += " (right)" if t.correct else " (wrong)"
        line = sparkline([s for _, s in t.scores])
        grid.add_row(MARKS[t.status], str(t.index), str(t.tokens), line, score, what, style=STYLES[t.status])
    return grid


def certainty(solution: Solution) -> str:
    """What is known of how sure the answer is: a calibrated confidence where there is one, and how many paths agree."""
    paths, finished = len(solution.traces), [t for t in solution.traces if t.status is Status.FINISHED]
    cut = [t for t in solution.traces if t.status is Status.TRUNCATED]
    without = [f"{n} {what}" for what, n in (
        ("gave no answer", sum(t.answer is None for t in finished)),
        (f"cut off at {max((t.tokens for t in cut), default=0)} tokens", len(cut)),
        ("pruned", sum(t.status is Status.PRUNED for t in solution.traces)),
    ) if n]  # fmt: skip
    if not solution.votes:
        return ", ".join([f"{paths} paths: 0 with an answer", *without])
    if solution.config.get("answer") == "text":
        texts = sum(vote.paths for vote in solution.votes)
        return ", ".join([f"the best of {texts} texts by score", *without]) + " (not calibrated)"
    told = ", ".join([f"{solution.votes[0].paths} of {paths} paths agree", *without])
    return (
        f"{told} (not calibrated)" if solution.confidence is None else f"confidence {solution.confidence:.2f}, {told}"
    )


def finding(solution: Solution) -> str:
    """How the leading answer was found, where no box says it; empty where the paths boxed it, or there is none."""
    leading = solution.votes[0].answer if solution.votes else None
    ways = Counter(t.found for t in solution.traces if t.answer is not None and t.answer == leading and t.found)
    if solution.config.get("answer") not in ("auto", "number", "choice") or not ways or set(ways) == {"boxed"}:
        return ""
    told = ", ".join(f"{way} ({n})" if len(ways) > 1 else way for way, n in ways.most_common())
    guessed = set(ways) <= {"last number", "last line", "last choice"}
    return f"read from: {told}" + ("; no path marked an answer (--answer says how to find it)" if guessed else "")


def _outcome(solution: Solution, answer: str | None) -> Text:
    """Whether an answer of the vote is right, where that is known."""
    graded = {t.correct for t in solution.traces if t.answer == answer and answer is not None and t.correct is not None}
    return (
        Text("")
        if len(graded) != 1
        else Text(" ✓ right", style="green")
        if True in graded
        else Text(" ✗ wrong", style="red")
    )


def why_none(solution: Solution) -> str:
    """What to do where no path has an answer; empty where one has."""
    if solution.votes or not solution.traces:
        return ""
    cut = sum(t.status is Status.TRUNCATED for t in solution.traces)
    if 2 * cut >= len(solution.traces):
        return ("Try: a higher --max-tokens; with a model whose thinking has tags, also --think-tokens, which leaves room for the answer "
                "(--save FILE and `trueplex show FILE` show the paths)")  # fmt: skip
    kind = solution.config.get("answer", "")
    return f"no text had an answer of the kind {kind!r}. Try: another --answer, or --save FILE and `trueplex show FILE`"


def _line(answer: str, most: int = 60) -> str:
    """An answer as a part of a line; whole texts may be answers."""
    plain = " ".join(answer.split())
    return plain if len(plain) <= most else f"{plain[:most]}…"


def _paths(count: int) -> str:
    return f"{count} path{'s' * (count != 1)}"


def verdict(solution: Solution) -> Group:
    """The answer, the vote and what it cost, for people."""
    usage = solution.usage
    said = {"none": "no answer", "uncertain": "I do not know"}.get(solution.state, solution.answer or "")
    answer = Text(said, style="bold green" if solution.state == "answered" else "bold red")
    leading = f"leading: {solution.votes[0].answer}, " if solution.state == "uncertain" else ""
    lines = [
        Text.assemble(
            Text("answer      "), answer, _outcome(solution, solution.answer), f"   {leading}{certainty(solution)}"
        )
    ]
    lines += [Text(f"  {told}", style="bright_black") for told in (finding(solution), why_none(solution)) if told]
    for alarm in solution.alarms[:5]:
        lines.append(Text(f"  alarm: path {alarm.index} at {alarm.tokens} tokens: {alarm.why}", style="red"))
    for vote in solution.votes[:5]:
        lines.append(
            Text.assemble(
                f"  {_line(vote.answer):<12} weight {vote.weight:7.2f}   {_paths(vote.paths)}",
                _outcome(solution, vote.answer),
            )
        )
    if trusts := Counter(t.trust for t in solution.traces if t.trust):
        counts = ", ".join(f"{trusts[state]} {state}" for state in ("trusted", "uncertain", "doubted"))
        lines.append(Text(f"  finished paths, by their scores: {counts}", style="bright_black"))
    spent = usage.thinking_tokens + usage.answer_tokens
    saved = f"about {usage.saved_tokens} tokens saved, " if usage.saved_tokens else ""
    lines.append(
        Text(
            f"  {_paths(len(solution.traces))}, {spent} tokens, {usage.probe_tokens} probe tokens, {saved}"
            f"{solution.seconds:.1f} s",
            style="bright_black",
        )
    )
    return Group(*lines)
