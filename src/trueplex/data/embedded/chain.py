"""Dense family: a chain of integer steps told in words, each derived and checked backwards.

Half of the problems hold one sentence that changes nothing ("promises 7 more but brings
none"). The texts misread it at a rate that depends on the sentence, so on some problems most
paths go wrong in the same way: there a plain majority fails and a verifier can help.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from trueplex.data.embedded import slips

NAMES = ("Ann", "Ben", "Carla", "Dev", "Ella", "Finn", "Gita", "Hugo")
THINGS = ("apples", "coins", "books", "cards", "shells", "stamps")
MORE = ("{} buys {} more.", "{} finds {}.", "{} gets {} as a gift.")
FEWER = ("{} loses {}.", "{} sells {}.", "{} gives away {}.")
TIMES = {2: "The number doubles.", 3: "The number triples.", 4: "There are 4 times as many."}
HALF = "Half of them are lost."
# sentence, the operation it seems to tell, how often the texts fall for it
TRAPS = (
    ("{} is promised {} more, but none come.", "+", 0.35),
    ("{} nearly loses {}, but keeps them.", "-", 0.60),
)
LARGEST = 199
SLIP = 0.09


@dataclass(frozen=True)
class Step:
    op: str
    n: int
    trap: float = 0.0  # how often the sentence is misread; 0 for a plain one


@dataclass(frozen=True)
class Chain:
    text: str
    start: int
    steps: tuple[Step, ...]
    answer: str


def apply(value: int, op: str, n: int) -> int:
    return {"+": value + n, "-": value - n, "*": value * n, "/": value // n if n else 0}[op]


def make(rng: Random, steps: tuple[int, int]) -> Chain:
    """A chain of this many steps, least and most."""
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    value = start = rng.randint(5, 60)
    length = rng.randint(*steps)
    trap_at = rng.randrange(length) if rng.random() < 0.5 else -1
    sentences, told = [f"{name} has {start} {things}."], []
    for i in range(length):
        if i == trap_at:
            sentence, op, rate = rng.choice(TRAPS)
            n = rng.randint(2, max(2, min(40, value)))
            sentences.append(sentence.format(name, n))
            told.append(Step(op, n, rate))
            continue
        ops = ["+"] * (value + 2 <= LARGEST) + ["-"] * (value > 2)
        ops += ["*"] * (2 * value <= LARGEST) + ["/"] * (value % 2 == 0 and value > 2)
        op = rng.choice(ops)
        if op == "+":
            n = rng.randint(2, min(60, LARGEST - value))
            sentences.append(rng.choice(MORE).format(name, n))
        elif op == "-":
            n = rng.randint(2, min(60, value))
            sentences.append(rng.choice(FEWER).format(name, n))
        elif op == "*":
            n = rng.choice([k for k in TIMES if k * value <= LARGEST])
            sentences.append(TIMES[n])
        else:
            n = 2
            sentences.append(HALF)
        value = apply(value, op, n)
        told.append(Step(op, n))
    sentences.append(f"How many {things} are there now?")
    return Chain(" ".join(sentences), start, tuple(told), str(value))


def _derive(rng: Random, lines: list[str], a: int, op: str, n: int) -> int:
    """Write one step until its backward check passes, is believed, or is given up; its result."""
    inverse = {"+": "-", "-": "+", "*": "/", "/": "*"}[op]
    right = apply(a, op, n)
    while True:
        result = slips.slip(rng, right, SLIP)
        lines.append(f"{a}{op}{n}={result}")
        if result == right:
            if rng.random() >= slips.FALSE_ALARM:
                lines.append(f"{result}{inverse}{n}={a} ok")
                return result
            lines.append(f"{result}{inverse}{n}={slips.slip(rng, a, 1.0)} no")
            continue
        if rng.random() < slips.BLIND:
            lines.append(f"{result}{inverse}{n}={a} ok")
            return result
        divisible = inverse != "/" or result % n == 0
        back = f"={apply(result, inverse, n)}" if divisible else ""
        lines.append(f"{result}{inverse}{n}{back} no")
        if rng.random() >= slips.REPAIR:
            lines.append(slips.DOUBT)
            return result


def think(rng: Random, chain: Chain) -> tuple[str, str]:
    """One text of reasoning about the chain, with its slips, and its answer."""
    value = chain.start
    lines: list[str] = []
    for step in chain.steps:
        if not step.trap:
            value = _derive(rng, lines, value, step.op, step.n)
        elif rng.random() < step.trap:
            n = step.n if step.op == "+" else min(step.n, value)
            value = _derive(rng, lines, value, step.op, n)
            if rng.random() < slips.HEDGE:
                lines.append(slips.DOUBT)
        else:
            value = _derive(rng, lines, value, "+", 0)
    return "\n".join(lines), str(value)
