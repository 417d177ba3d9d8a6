"""Sparse family: countdown, a search backwards from the target with dead ends.

Reach the target from three numbers (all three, or three of four), left to right. The question is
the value before the last step, so that a path cannot be checked from its answer alone, and each
problem is made to have one such value. The texts try likely last steps first (undoing a plus),
so problems that end in a minus are found late or never, and who gives up guesses what was tried
first: on such problems many paths agree on a wrong answer, and only some find the right one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from random import Random

from trueplex.data.embedded import slips

UNDO_SLIP, PAIR_SLIP = 0.03, 0.015
GIVE_UP = {False: 0.22, True: 0.16}  # chance after each dead end, for three and for four numbers
LIKELY = {"-": 1.0, "/": 0.7, "+": 0.05}  # how early a way to undo the last step is tried
UNDONE = {"-": "+", "+": "-", "/": "*"}


@dataclass(frozen=True)
class Countdown:
    text: str
    numbers: tuple[int, ...]
    target: int
    answer: str

    @property
    def hard(self) -> bool:
        return len(self.numbers) > 3


def pair_values(p: int, q: int) -> dict[int, str]:
    """What two numbers make: value → how it is written, in the order the texts list them."""
    high, low = max(p, q), min(p, q)
    ways: dict[int, str] = {}
    for value, way in ((p + q, f"{p}+{q}"), (p * q, f"{p}*{q}"), (high - low, f"{high}-{low}")):
        ways.setdefault(value, way)
    return ways


def befores(numbers: tuple[int, ...], target: int) -> Iterator[tuple[str, int, int | None, list[tuple[int, int]]]]:
    """Every way to undo the last step: (undoing op, number, value before or None, pairs left)."""
    for i, x in enumerate(numbers):
        rest = numbers[:i] + numbers[i + 1 :]
        pairs = list(combinations(rest, 2))
        yield "-", x, target - x if target > x else None, pairs
        yield "+", x, target + x, pairs
        yield "/", x, target // x if target % x == 0 else None, pairs


def make(rng: Random, count: int, last: str) -> Countdown:
    """A search among this many numbers, 3 or 4; its last step is one of these signs, drawn as often as it stands there."""
    while True:
        numbers = tuple(rng.sample(range(2, 13), count))
        a, b, c = rng.sample(numbers, 3)
        before = rng.choice(list(pair_values(a, b)))
        target = rng.choice([{"+": before + c, "-": before - c, "*": before * c}[sign] for sign in last])
        if not 2 <= target <= 150 or target in numbers:
            continue
        answers = {v for _, _, v, pairs in befores(numbers, target) for p, q in pairs if v in pair_values(p, q)}
        if len(answers) == 1:
            listed = ", ".join(map(str, numbers))
            use = "three of the numbers" if count > 3 else "each of the numbers"
            text = (
                f"Reach {target} with {use} {listed} once, using +, - and *, from left to right. "
                "What is the value before the last step?"
            )
            return Countdown(text, numbers, target, str(answers.pop()))


def think(rng: Random, task: Countdown) -> tuple[str, str]:
    """One text of reasoning, a search with its slips, and its answer."""
    largest = max(task.numbers)
    ways = sorted(
        befores(task.numbers, task.target),
        key=lambda way: rng.random() ** (1 / (LIKELY[way[0]] * (3 if way[1] == largest else 1))),
        reverse=True,
    )
    lines, tried = [f"{task.target}: {' '.join(map(str, task.numbers))}"], []
    for op, x, true_before, pairs in ways:
        if true_before is None:
            if op == "/" and rng.random() < 0.5:
                lines.append(f"/{x} no")
            continue
        before = max(1, slips.slip(rng, true_before, UNDO_SLIP))
        tried.append(before)
        hit = _search(rng, lines, f"{op}{x}={before}", before, pairs)
        if hit is not None:
            lines.append(f"{hit}={before}")
            again = {"-": before + x, "+": before - x, "/": before * x}[op]
            verdict = "ok" if again == task.target or rng.random() < slips.BLIND else "no"
            shown = task.target if verdict == "ok" else again
            lines.append(f"{before}{UNDONE[op]}{x}={shown} {verdict}")
            if verdict == "ok":
                return "\n".join(lines), str(before)
        if rng.random() < GIVE_UP[task.hard]:
            break
    guess = tried[0] if rng.random() < 0.7 else rng.choice(tried)
    lines.append(f"guess {guess}")
    return "\n".join(lines), str(guess)


def _search(rng: Random, lines: list[str], head: str, before: int, pairs: list[tuple[int, int]]) -> str | None:
    """List what each pair makes until `before` appears; how it is made, or None at a dead end.

    A slip hides a hit or shows a false one; a false one is looked at again and mostly seen.
    """
    parts = []
    for p, q in pairs:
        shown = []
        for value, way in pair_values(p, q).items():
            seen = slips.slip(rng, value, PAIR_SLIP)
            shown.append(str(seen))
            if seen == before:
                parts.append(f"{p},{q}:{' '.join(shown)}")
                lines.append(f"{head} {' '.join(parts)} yes")
                if seen == value or rng.random() < slips.BLIND:
                    return way
                lines.append(f"{way}={value} no")
                return None
        parts.append(f"{p},{q}:{' '.join(shown)}")
    lines.append(f"{head} {' '.join(parts)} no")
    return None
