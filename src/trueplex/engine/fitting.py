"""Running out of memory: how it is known, and work in batches that shrink until they fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from trueplex.errors import ModelError

log = logging.getLogger(__name__)

T = TypeVar("T")
AREA = 2**27  # rows times columns squared of a batch: what a mask or the scores of attention take

TOGETHER = {"cpu": 2048}  # tokens of a batch: more than a processor's caches hold of is read a quarter slower


def ran_out(error: BaseException) -> bool:
    """Whether this error says that memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


class Fitting:
    """Work in batches of rows of like length; a batch that does not fit into memory is halved, and that is said.

    At most so many ``rows`` make a batch, and no more tokens than are read well together on the device of that kind.
    """

    def __init__(self, rows: int, device: str = "") -> None:
        self.rows, self.tokens = rows, TOGETHER.get(device, math.inf)

    def __call__(self, lengths: Sequence[int], work: Callable[[list[int]], Sequence[T]]) -> list[T]:
        """`work` takes the numbers of some rows and gives their results; all results, in order.

        Raises:
            ModelError: a single row does not fit.
        """
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        found: dict[int, T] = {}
        while len(found) < len(order):
            chosen = order[len(found) : len(found) + self.rows]
            while len(chosen) > 1 and self._much(len(chosen), lengths[chosen[-1]]):
                chosen = chosen[: len(chosen) // 2]
            try:
                found.update(zip(chosen, work(chosen), strict=True))
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                longest = max(lengths[i] for i in chosen)
                if len(chosen) == 1:
                    raise ModelError(
                        f"a text of {longest} tokens does not fit into memory. Try: a smaller model, or --device cpu"
                    ) from error
                self.rows = len(chosen) // 2
                log.warning(
                    f"{len(chosen)} texts of {longest} tokens do not fit into memory: continuing with {self.rows} at a time"
                )
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
        return [found[i] for i in range(len(order))]

    def _much(self, rows: int, longest: int) -> bool:
        return rows * longest**2 > AREA or rows * longest > self.tokens
