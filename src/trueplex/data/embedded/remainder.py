"""Middle family: find the number with two given remainders, by listing and then checking.

The text lists the numbers with the first remainder and writes each one's remainder by the second
divisor; a hit is checked against both. Listing drifts when an addition slips, and the check then
fails. "2 short of a multiple of 7" is misread at a rate that depends on the sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from random import Random

from trueplex.data.embedded import slips

LIST_SLIP, REMAINDER_SLIP = 0.09, 0.08
# wording of "remainder r by m", how often it is misread as its complement's remainder
PLAIN = ("leaves {r} when divided by {m}", "has remainder {r} by {m}")
TRAPS = (("is {c} short of a multiple of {m}", 0.55), ("needs {c} more to be divisible by {m}", 0.35))
MOST_RESTARTS = 2


@dataclass(frozen=True)
class Remainders:
    text: str
    big: int
    r_big: int
    small: int
    r_small: int
    trap: float
    answer: str


def make(rng: Random, moduli: tuple[int, int], traps: float, listed: int = 0) -> Remainders:
    """Two divisors, from the least to the most; a trap at this rate; nothing to be found in the first `listed` lines.

    That holds for the misread trap as well; otherwise a text that misreads it would end at once.
    """
    choices = range(moduli[0], moduli[1] + 1)
    while True:
        big, small = 0, 0
        while big <= small or gcd(big, small) > 1:
            big, small = rng.choice(choices), rng.choice(choices)
        number = rng.randrange(1, big * small)
        r_big, r_small = number % big, number % small
        trap, wording = 0.0, rng.choice(PLAIN)
        if r_small > 0 and 2 * r_small != small and rng.random() < traps:
            wording, trap = rng.choice(TRAPS)
        found = (r_small, small - r_small) if trap else (r_small,)
        if not any((r_big + line * big) % small in found for line in range(listed)):
            break
    first = rng.choice(PLAIN).format(r=r_big, m=big)
    second = wording.format(r=r_small, c=small - r_small, m=small)
    text = f"Find the number below {big * small} that {first} and {second}."
    return Remainders(text, big, r_big, small, r_small, trap, str(number))


def think(rng: Random, task: Remainders) -> tuple[str, str]:
    """One text of reasoning about the two remainders, with its slips, and its answer."""
    big, small, r_big, r_small = task.big, task.small, task.r_big, task.r_small
    misread = rng.random() < task.trap
    if misread:
        r_small = small - r_small
    lines = [f"{big}:{r_big} {small}:{r_small}"]
    if misread and rng.random() < slips.HEDGE:
        lines.append(slips.DOUBT)
    restarts, number = 0, r_big
    listed: list[int] = []
    while True:
        if number >= big * small:
            lines.append("over")
            if restarts < MOST_RESTARTS and rng.random() < slips.REPAIR:
                restarts, number = restarts + 1, r_big
                lines.append("again")
                continue
            guess = rng.choice(listed)
            lines.append(f"guess {guess}")
            return "\n".join(lines), str(guess)
        listed.append(number)
        rest = slips.slip(rng, number % small, REMAINDER_SLIP) % small
        if rest != r_small:
            lines.append(f"{number}:{rest}")
        else:
            lines.append(f"{number}:{rest} yes")
            failed = _check(rng, lines, number, big, r_big) or _check(rng, lines, number, small, r_small)
            if not failed:
                return "\n".join(lines), str(number)
            if rng.random() >= slips.REPAIR or restarts == MOST_RESTARTS:
                lines.append(slips.DOUBT)
                return "\n".join(lines), str(number)
            if failed == big:  # the list itself has drifted
                restarts, number = restarts + 1, r_big
                lines.append("again")
                continue
        number = slips.slip(rng, number + big, LIST_SLIP)


def _check(rng: Random, lines: list[str], number: int, m: int, r: int) -> int:
    """Write the check that `number` leaves r by m; m when it fails and is seen to, else 0."""
    multiple = number - r
    if multiple >= 0 and multiple % m == 0:
        lines.append(f"{number}-{r}={multiple}={m}*{multiple // m} ok")
        return 0
    if rng.random() < slips.BLIND and multiple >= 0:
        lines.append(f"{number}-{r}={multiple}={m}*{multiple // m} ok")
        return 0
    lines.append(f"{number}-{r}={multiple} no" if multiple >= 0 else f"{number}-{r} no")
    return m
