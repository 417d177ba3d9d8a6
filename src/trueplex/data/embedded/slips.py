"""How the texts err, notice and repair: rates shared by the three families.

A language model's slips are injected on purpose. A written result is wrong at a chosen rate; a
second look then exposes most slips, and the text repairs them or goes on in doubt (``hm``). The
model learns these rates, so its traces hold the evidence that a verifier can read, the way real
reasoning does (checks that fail, hedging, dead ends).
"""

from __future__ import annotations

from random import Random

BLIND = 0.20  # a failing check is read as passing
REPAIR = 0.55  # a failing check leads to a second try; otherwise the text goes on in doubt
FALSE_ALARM = 0.02  # a right result is doubted
HEDGE = 0.55  # a misread sentence leaves a doubt behind
DOUBT = "hm"


def slip(rng: Random, value: int, rate: float) -> int:
    """The value, or, at `rate`, a near miss of it, negative only if the value is."""
    if rng.random() >= rate:
        return value
    wrong = value
    while wrong == value or wrong < 0 <= value:
        wrong = value + rng.choice((-10, -3, -2, -1, -1, 1, 1, 2, 3, 10))
    return wrong
