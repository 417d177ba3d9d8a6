"""The forward pass of a decode step as one compiled graph: what a layer does between two attentions becomes a few kernels.

Attention is an operator of ours to the compiler (`models.attention`): it reads the lanes where they lie, as the plain step
does, whatever their lengths are. So a graph depends on how many query columns a step has, and on nothing else, and one
graph serves all numbers of rows. Prompts are read plainly. On CUDA the whole step may be recorded besides (`models.captured`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from trueplex.errors import reason
from trueplex.models import attention
from trueplex.models.backbone import Backbone
from trueplex.models.captured import CapturedStep, Numbers
from trueplex.models.check import differs
from trueplex.models.lanes import Pass

log = logging.getLogger(__name__)

MOST = (
    4  # kinds of passes that are compiled, those with each probe apart: further ones are plain, as compiling takes long
)
CHECKED = 4  # first passes of a kind that are computed plainly, too
LEAST = 2  # rows: one row would be a graph of its own


class Through(Cache):
    """What the model is given in place of the cache: attention stores keys and values by itself."""

    def __init__(self) -> None:
        super().__init__(layers=[])

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, *args: Any) -> int:
        return 0


class CompiledStep:
    """A model's decode step, compiled when it is first taken, or plain where the model does not compile.

    Args:
        backend: of torch.compile.

    Attributes:
        passes: how many were computed by a graph.
        off: why none is any more; empty while they are.
    """

    def __init__(self, backbone: Backbone, backend: str = "inductor") -> None:
        self._backbone, self.passes = backbone, 0
        self._number = Numbers()
        self._checked: Counter[tuple[int, ...]] = Counter()
        self._cache, self._first = Through(), torch.zeros(1, dtype=torch.long, device=backbone.device)
        self.off = _unfit(backbone)
        options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
        if "isolate_recompiles" in signature(torch.compile).parameters:  # graphs of other models are none of this one's
            options |= {"isolate_recompiles": True, "recompile_limit": 4 * MOST}
        self._graph = torch.compile(self._forward, **options)
        if self.off:
            self._say(self.off)

    def __call__(self, inputs: Tensor, passing: Pass, beside: object) -> tuple[Tensor, Tensor] | None:
        """What the plain pass gives for inputs [B, q, input size]; None where it has to be made.

        ``beside``: the probe whose columns stand behind the tokens, or True for none. What is given is to be used before the next
        call, which may write over it.
        """
        kind = self._number(beside)
        if self.off or kind >= MOST:
            return None
        name = (kind, inputs.shape[1])
        begun, first = time.perf_counter(), name not in self._checked
        if first:
            log.info(
                f"compiling the decode step of {self._backbone.name}, which may take some minutes; --compile off does without"
            )
        try:
            logits, hidden = self._padded(inputs, passing, kind)
        except torch.OutOfMemoryError:
            raise  # the batch goes on with fewer rows
        except Exception as error:  # the compiler, its own compiler and modelling code raise what they like
            self._say(reason(error, 100))
            return None
        if first:
            log.info(f"compiled it in {time.perf_counter() - begun:.0f} s")
        self.passes += 1
        return (
            self._compared(logits, hidden, inputs, passing, name) if self._checked[name] < CHECKED else (logits, hidden)
        )

    def settled(self, beside: object, columns: int) -> bool:
        """Whether it is known that such passes are compiled, and right, or that they are not compiled."""
        kind = self._number(beside)
        return bool(self.off) or kind >= MOST or self._checked[kind, columns] >= CHECKED

    def unseen(self, inputs: Tensor, passing: Pass, beside: object) -> tuple[Tensor, Tensor] | None:
        """The same of settled passes, without a look at what it gives, as one that records it needs it."""
        kind = self._number(beside)
        return None if self.off or kind >= MOST else self._padded(inputs, passing, kind)

    def _padded(self, inputs: Tensor, passing: Pass, kind: int) -> tuple[Tensor, Tensor]:
        count, columns = inputs.shape[:2]
        rows = max(count, LEAST)
        positions = passing.positions.expand(count, columns)
        if rows > count:
            inputs = torch.cat([inputs, inputs.new_zeros(rows - count, *inputs.shape[1:])])
            positions = torch.cat([positions, positions.new_zeros(rows - count, columns)])
        inputs, positions = inputs.contiguous(), positions.contiguous()
        for tensor in (inputs, positions):
            torch._dynamo.mark_dynamic(tensor, 0)
        with self._backbone.lock, attention.without_cudnn(inputs.device), attention.reading(passing):
            logits, hidden = self._graph(inputs, positions, self._backbone.no_mask(columns), kind)
        return self._backbone.tokens_only(logits[:count]), hidden[:count]

    def _forward(self, inputs: Tensor, positions: Tensor, mask: Any, kind: int) -> tuple[Tensor, Tensor]:
        """The graph. It is one for each ``kind``: the compiler does not see which hooks of probes are on the layers."""
        output = self._backbone.model(
            inputs_embeds=inputs, position_ids=positions, attention_mask=mask, past_key_values=self._cache, use_cache=True,
            logits_to_keep=self._first, outside=True,
        )  # fmt: skip
        return output.logits[:, 0], self._backbone.last_hidden()

    def _compared(self, logits: Tensor, hidden: Tensor, inputs: Tensor, passing: Pass, name: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:  # fmt: skip
        """The plain pass, after it was compared with the compiled one; None, and no more of these, where they differ."""
        self._checked[name] += 1
        plain = self._backbone.plain_pass(inputs, passing)
        if why := differs(self._backbone, plain, (logits, hidden)):
            self._say(why)
        return plain

    def _say(self, why: str) -> None:
        self.off = why
        log.warning(f"the decode step of {self._backbone.name} is not compiled ({why}): it is computed plainly")


def quicken(backbone: Backbone, wanted: str) -> None:
    """Let decode steps be compiled where that is ``on``, and on CUDA be recorded unless it is ``off``."""
    backbone.compiled = CompiledStep(backbone) if wanted == "on" else None
    backbone.captured = CapturedStep(backbone) if wanted != "off" and backbone.device.type == "cuda" else None


def _unfit(backbone: Backbone) -> str:
    """What keeps the decode step of a model from being compiled, as far as it is known before it is tried; else nothing."""
    if backbone.kinds.recurrent:
        return "recurrent layers write their states while they are read"
    if backbone.kinds.owners:
        return "some layers read the keys and values of others"
    names = {
        name
        for module in backbone.model.modules()
        for name in ("expand_kv", "attn_temperature_tuning")
        if hasattr(module, name)
    }
    return f"its attention is of a kind of its own ({', '.join(sorted(names))})" if names else ""
