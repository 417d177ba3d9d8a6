"""How many traces STOP would keep: its guideline for the retained share (arXiv 2604.16029, section 5.1, equation 7).

The more compute a problem gets and the longer the prefix that is judged, the fewer traces are worth continuing; the longer
the task, the more. In units of 1,024 tokens, with the compute C, the prefix P and the length L of whole traces:

    1 / share = A · C^B · P^C / L^D

It was fitted to DeepSeek-R1-Distill-Qwen-1.5B on AIME 2024 and GPQA Diamond, for shares from 1/32 to 1/2: it gives no others.
"""

from __future__ import annotations

import math

UNIT = 1024  # tokens
SCALE, COMPUTE, PREFIX, TASK = 1.17e4, 0.46, 0.40, 4.55  # A, B, C, D
LEAST, MOST = 1 / 32, 1 / 2  # of the traces
HALVINGS = 60  # of the interval that the share is searched in


def share_for(compute: float, prefix: float, length: float) -> float:
    """The share of traces to keep, for a compute of so many tokens a problem, a prefix and whole traces of so many."""
    exponents = ((compute, COMPUTE), (prefix, PREFIX), (length, -TASK))
    inverse = SCALE * math.prod((tokens / UNIT) ** power for tokens, power in exponents)
    return min(MOST, max(LEAST, 1 / inverse))


def retained(paths: int, prefix: int, length: int) -> int:
    """How many of so many traces are kept at ``prefix`` tokens, where whole ones have about ``length``.

    The compute is what is then spent: all traces up to the prefix, and those that are kept to their end. As that grows
    with the share, and the share falls with it, there is one share that fits.
    """
    low, high = LEAST, MOST
    for _ in range(HALVINGS):
        share = (low + high) / 2
        fits = share_for(paths * (prefix + share * (length - prefix)), prefix, length)
        low, high = (share, high) if fits > share else (low, share)
    return math.ceil(paths * high - 1e-9)
