"""Which traces make a batch, and where they are probed: pure functions of (seed, epoch), so that training resumes exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from trueplex.models.backbone import Backbone
from trueplex.train.common.labels import Worth, labels
from trueplex.types import Steps
from trueplex.verify.probe import pad_inputs


@dataclass(frozen=True)
class Labelled:
    """A stored trace with its label: prompt ids, steps, right or wrong, and its problem's key and text.

    ``values`` are its Monte-Carlo values where it was valued: numbers of tokens [V], rising, and values [V]. ``weight``
    is what it counts in the loss.
    """

    prompt: tuple[int, ...]
    steps: Steps
    correct: bool
    problem: int
    text: str = ""
    values: tuple[np.ndarray, np.ndarray] | None = None
    answer: str | None = None
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.steps)


@dataclass(frozen=True)
class Probed:
    """A trace and where it is probed this time: token positions [M]."""

    trace: Labelled
    positions: np.ndarray


class Examples(Dataset):
    """What an `Order` orders: traces, or texts that show them, with the seed and the epoch of the order.

    ``together`` keeps those of one problem together.
    """

    def __init__(self, traces: Sequence[Any], seed: int, together: bool = False) -> None:
        self.traces, self.seed, self.together, self.epoch = traces, seed, together, 0

    def __len__(self) -> int:
        return len(self.traces)

    def __getitem__(self, number: int) -> Any:
        return self.traces[number]


class Probes(Examples):
    """Labelled traces, each with positions drawn from (seed, epoch, its number); the last token always.

    ``positions`` None probes every token. With ``together``, traces of one problem are probed at the same
    shares of their length, so that they can be compared. With ``spread``, one is drawn in each of as many equal parts.
    """

    def __init__(self, traces: Sequence[Labelled], positions: int | None, seed: int, together: bool = False,
                 spread: bool = False) -> None:  # fmt: skip
        super().__init__(traces, seed, together)
        self.positions, self.spread = positions, spread

    def __getitem__(self, number: int) -> Probed:
        trace = self.traces[number]
        length = len(trace.steps)
        if self.positions is None:
            return Probed(trace, np.arange(length))
        name = trace.problem & 0xFFFFFFFF if self.together else number
        rng = np.random.default_rng((self.seed, self.epoch, name))
        shares = np.sort(rng.random(self.positions - 1))
        if self.spread:
            shares = (np.arange(len(shares)) + rng.permutation(shares)) / max(1, len(shares))
        return Probed(trace, np.append((shares * length).astype(np.int64), length - 1))


class Order(Sampler[int]):
    """The order of an epoch: traces of like length together, or of one problem; see `Recipe`."""

    def __init__(self, data: Examples, batch_size: int, balanced: bool) -> None:
        self.data, self.batch_size = data, batch_size
        self._sides: dict[int, tuple[list[int], list[int]]] = {}
        for number, trace in enumerate(data.traces):
            self._sides.setdefault(trace.problem, ([], []))[0 if trace.correct else 1].append(number)
        self.balanced = balanced

    def set_epoch(self, epoch: int) -> None:
        self.data.epoch = epoch

    def __len__(self) -> int:
        if self.balanced:
            return sum(2 * min(len(right), len(wrong)) for right, wrong in self._sides.values())
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.data.seed, self.data.epoch))
        problems = [self._of_problem(sides, rng) for sides in self._sides.values()]
        if self.data.together:  # a batch holds whole problems, as far as it reaches
            return iter([number for i in rng.permutation(len(problems)) for number in problems[i]])
        numbers = [number for problem in problems for number in problem]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        lengths = [len(self.data.traces[number]) for number in numbers]
        return iter([numbers[i] for i in get_length_grouped_indices(lengths, self.batch_size, generator=generator)])

    def _of_problem(self, sides: tuple[list[int], list[int]], rng: np.random.Generator) -> list[int]:
        """The problem's traces in random order; balanced, as many right as wrong ones."""
        most = min(map(len, sides)) if self.balanced else max(map(len, sides))
        chosen = [number for side in sides for number in rng.permutation(side)[:most]]
        return [int(number) for number in rng.permutation(chosen)]


def collate(backbone: Backbone, kind: str, worth: Worth | None = None) -> Any:
    """Probed traces → inputs [B, N, H], probed columns, labels and weights [B, M], right or wrong [B], problems [B].

    Rows with fewer probes repeat their last, which then weighs nothing. ``final`` weighs the last probe alone.
    """

    def batch(probed: list[Probed]) -> dict[str, Tensor]:
        inputs, _ = pad_inputs(backbone, [(p.trace.prompt, p.trace.steps) for p in probed])
        most = max(len(p.positions) for p in probed)
        columns, targets, weights = [], [], []
        for p in probed:
            count, length = len(p.positions), len(p.trace.steps)
            at = np.pad(p.positions, (0, most - count), mode="edge")
            weight = (np.arange(most) < count).astype(np.float32)
            columns.append(at + len(p.trace.prompt))
            targets.append(labels(kind, length, at, p.trace.correct, p.trace.values, worth))
            weights.append(p.trace.weight * (weight * (at == length - 1) if kind == "final" else weight))
        return {
            "inputs": inputs,
            "columns": torch.from_numpy(np.stack(columns)),
            "labels": torch.from_numpy(np.stack(targets)),
            "weights": torch.from_numpy(np.stack(weights).astype(np.float32)),
            "correct": torch.tensor([p.trace.correct for p in probed]),
            "problems": torch.tensor([p.trace.problem >> 1 for p in probed]),  # 63 bits: torch has no unsigned ids
        }

    return batch
