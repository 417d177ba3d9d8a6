"""A batch that does not fit into memory is split into parts, and weights that are not finite are not saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer

from trueplex.engine.fitting import ran_out
from trueplex.errors import TrueplexError
from trueplex.train.common.finite import check_finite

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class Task(Protocol):
    """A module whose loss is a mean over what a batch holds."""

    def counts(self, batch: Batch) -> float:
        """How many things the mean is over."""


class OrderedTrainer(Trainer):
    """A Trainer whose batches come in a given order, and are split into parts when they do not fit into memory.

    The gradients of the parts, each weighed by what it counts, add up to that of the whole batch. ``parts`` says of a batch's
    examples how many parts it takes at least. ``divisible`` says whether the loss allows that; over several processes, which must take their steps together, no batch is split.
    """

    def __init__(self, task: Task, *arguments: Any, order: Sampler[int], collate: Callable[[Sequence[Any]], Batch],
                 divisible: bool = True, parts: Callable[[Sequence[Any]], int] = lambda examples: 1, **named: Any) -> None:  # fmt: skip
        self.task, self.order, self.collate, self.parts = task, order, collate, 1
        self.divisible, self.wanted = divisible, parts
        self._share = 1.0
        super().__init__(task, *arguments, data_collator=lambda examples: {"examples": examples}, **named)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """The gradient of one batch; in twice as many parts as before where memory ran out.

        Raises:
            TrueplexError: a single trace does not fit, or the batch cannot be split.
        """
        examples = inputs["examples"]
        while True:
            parts = max(self.parts, self.wanted(examples))
            try:
                return self._in_parts(model, examples, num_items_in_batch, parts)
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                size = -(-len(examples) // parts)
                if size == 1 or not self.divisible or self.args.world_size > 1:
                    whole = "" if self.divisible else " (a ranking loss keeps a batch whole)"
                    raise TrueplexError(f"out of memory with {size} trace{'s' * (size > 1)} at once{whole} ("
                                        f"{str(error).splitlines()[0][:120]}). Try: {'a smaller --batch, ' * (size > 1)}for a verifier "
                                        "fewer --positions, --gradient-checkpointing or a lower --rank; the same command resumes from the last "
                                        "checkpoint") from error  # fmt: skip
            self.parts = 2 * parts
            log.warning(
                f"{size} traces at once do not fit into memory: continuing with {-(-len(examples) // self.parts)}"
            )
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _in_parts(self, model: Any, examples: Sequence[Any], num_items_in_batch: Any, parts: int) -> Tensor:
        batches = [self.collate(examples[part::parts]) for part in range(min(parts, len(examples)))]
        counts = [self.task.counts(batch) for batch in batches]
        loss = torch.zeros((), device=self.args.device)
        for batch, count in zip(batches, counts, strict=True):
            self._share = count / sum(counts)
            loss += super().training_step(model, batch, num_items_in_batch)
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        check_finite(self.model.named_parameters(), self.state.global_step)
        super()._save_checkpoint(model, trial)

    def compute_loss(self, *arguments: Any, **named: Any) -> Any:
        return super().compute_loss(*arguments, **named) * self._share
