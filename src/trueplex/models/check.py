"""Which models trueplex would get wrong: refused by their configuration, or by a comparison when they are loaded.

The comparison has no fixed tolerance: in bfloat16 a right model of 24 layers differs from itself by percents. What is
allowed is a multiple of the model's own noise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trueplex.errors import ModelError, reason
from trueplex.models import attention
from trueplex.models.backbone import Backbone
from trueplex.models.kinds import kinds_of
from trueplex.models.lanes import LaneCache
from trueplex.models.prompt import make_prompt
from trueplex.types import Problem

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 32, 48  # tokens that the self-check reads
DECODED, LAG = 8, 5  # tokens of each row that are decoded one by one, and by how many the second row is shorter
FACTOR = 2.5  # a right model differs by its noise, a wrong one by far more
# What is allowed at least, and at most, by dtype
BOUNDS = {torch.float32: (1e-4, 1e-3), torch.bfloat16: (0.02, 0.12), torch.float16: (0.005, 0.03)}
ROUTED = ("num_experts", "num_local_experts", "n_routed_experts")  # configurations of mixtures of experts


def refuse(config: Any) -> None:
    """Raise ModelError for architectures known to be got wrong, before any weight is read."""
    kinds_of(config)


@contextmanager
def _short_window(config: Any, window: int) -> Iterator[None]:
    """Sliding and chunked layers see `window` columns for the time being, so that a short text shows whether they do alike."""
    own = {name: getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")}
    found = {name: int(size) for name, size in own.items() if size}
    for name, size in found.items():
        setattr(config, name, min(size, window))
    try:
        yield
    finally:
        for name, size in found.items():
            setattr(config, name, size)


@torch.inference_mode()
def self_check(backbone: Backbone) -> None:
    """Compare this model on the engine's path with its own plain forward; refuse it when they differ by more than its noise.

    On the model's own prompt, whose last inputs are merged, with the model's own eager attention as the truth: ids against
    embeddings, and two rows of unlike length decoded in a lane of the cache against full recomputation. The noise is what the same
    inputs give by transformers' other attention implementation and in a batch of another shape. A sliding
    window is shortened to half of the text.

    Raises:
        ModelError: the first comparison that differs too much, or what the model cannot read.
    """
    text = _text(backbone)
    with _short_window(backbone.config, len(text) // 2):
        try:
            measured = measure(backbone, text)
        except Exception as error:  # modelling code raises what it likes
            raise ModelError(f"{backbone.name}, a {backbone.config.model_type}, does not take merged embeddings, the engine's masks "
                             f"or its cache ({reason(error)}). Try: choose another model") from error  # fmt: skip
    bound = allowed(measured.noise, backbone.dtype)
    if backbone.kinds.recurrent:
        backbone.reads_on = measured.behind <= bound
    log.debug("self-check of %s in %s: %s, allowed %.2g", backbone.name, backbone.dtype, measured, bound)
    for difference, most, what in (
        (
            measured.embedded,
            bound / 5,
            "reads embeddings unlike token ids",
        ),  # the same computation: 0.0 on most machines
        (measured.decoded, bound, "decodes from the cache unlike a full recomputation"),
    ):
        if not difference <= most:  # also catches NaN
            raise ModelError(f"the self-check failed: this model {what} (difference {difference:.2g}, allowed {most:.2g}). "
                             "Try: choose another model")  # fmt: skip


def allowed(noise: float, dtype: torch.dtype) -> float:
    """The most that a right model may differ, given its noise: a multiple of it between a floor and a ceiling, by dtype.

    The ceiling keeps a model whose own implementations disagree from passing with anything.
    """
    floor, ceiling = BOUNDS[dtype]
    return min(max(FACTOR * noise, floor), ceiling)


@dataclass(frozen=True, slots=True)
class Measured:
    """Differences from the model's eager attention, relative to the spread of its logits; 0 is equal, about 1.4 unrelated.

    ``behind`` is how far several tokens read at once behind a state are from one by one; 0 where no layer has states.
    """

    noise: float
    embedded: float
    decoded: float
    behind: float


def measure(backbone: Backbone, text: Sequence[int]) -> Measured:
    """Noise and differences of the engine's path on a text's ids, which are more than ``DECODED + LAG``."""
    model, last = backbone.model, DECODED + LAG
    ids = torch.tensor([text], device=backbone.device)
    embeddings = backbone.embed(ids)
    merged = embeddings.clone()
    merged[:, -last:] = (0.75 * embeddings[:, -last:].float() + 0.25 * embeddings[:, -last - 1 : -1].float()).to(
        merged.dtype
    )

    def plain(implementation: str, inputs: dict[str, Tensor], rows: int = 1) -> Tensor:
        """Logits [1, last, V] of the last positions, by transformers alone."""
        model.set_attn_implementation(implementation)
        many = {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in inputs.items()}
        return model(**many, use_cache=False).logits[:1, -last:, : backbone.vocabulary].float()

    named = backbone.named_inputs
    try:
        truth = plain("eager", named(merged))
        try:
            other = plain("sdpa", named(merged), 2)
        except ValueError:  # an architecture that has eager attention alone
            other = plain("eager", named(merged), 2)
        routed = is_routed(backbone)
        noise = difference(truth, other, routed)
        few = last + 3
        read = plain("eager", {"input_ids": ids[:, :few]})
        embedded = difference(read, plain("eager", named(embeddings[:, :few])), routed)
    finally:
        model.set_attn_implementation(attention.NAME)
    decoded = _decode(backbone, merged)
    rows = (truth[:, LAG:], truth[:, :DECODED])
    apart = max(difference(t[0], d, routed) for t, d in zip(rows, decoded, strict=True))
    return Measured(noise, embedded, apart, _reads_on(backbone, merged) if backbone.kinds.recurrent else 0.0)


def _decode(backbone: Backbone, inputs: Tensor) -> Tensor:
    """Logits [2, DECODED, V] by the engine's path: the second row is ``LAG`` positions shorter; inputs [1, L, ...]."""
    cache, length = LaneCache(backbone.kinds), inputs.shape[1] - DECODED
    rows = [(cache.add(2, inputs.shape[1]), 0, 2)]
    if backbone.kinds.recurrent:  # a state counts all that was read, so each row is read by itself
        for row, end in enumerate((length, length - LAG)):
            alone = cache.add(1, end)
            backbone.decode_pass(cache, [(alone, 0, 1)], np.zeros(1, dtype=np.int64), inputs[:, :end])
            rows[0][0].take(row, alone, torch.zeros(1, dtype=torch.long), end)
    else:
        backbone.decode_pass(cache, rows, np.zeros(2, dtype=np.int64), inputs[:, :length].expand(2, -1, -1))
    steps = []
    for at in range(length, length + DECODED):
        starts = np.array([at, at - LAG])
        logits, _ = backbone.decode_pass(cache, rows, starts, inputs[0, torch.from_numpy(starts[:, None])])
        steps.append(logits[:, : backbone.vocabulary])
    return torch.stack(steps, dim=1)


def _reads_on(backbone: Backbone, inputs: Tensor) -> float:
    """How far the hidden states of ``DECODED`` positions, read at once behind a state, lie from those read one by one."""
    found = []
    for backbone.reads_on in (False, True):
        cache = LaneCache(backbone.kinds)
        row, length = [(cache.add(1, inputs.shape[1]), 0, 1)], inputs.shape[1] - DECODED
        backbone.decode_pass(cache, row, np.zeros(1, dtype=np.int64), inputs[:, :length])
        found.append(backbone.decode_pass(cache, row, np.array([length]), inputs[:, length:])[1])
    return difference(found[0], found[1], routed=False)


def _text(backbone: Backbone) -> list[int]:
    """The ids that the self-check reads: the beginning of a rendered prompt, repeated where it is short."""
    ids = make_prompt(Problem("What is 12 + 30?"), backbone).ids
    return list((ids * (SHORTEST // len(ids) + 1))[: max(SHORTEST, min(len(ids), LONGEST))])


def differs(backbone: Backbone, plain: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> str:
    """How a pass that was made another way differs from the plain one, by logits [B, V] and hidden states [B, q, H]; empty where it does not."""
    tokens, routed = backbone.vocabulary, is_routed(backbone)
    pairs = (plain[0][:, :tokens], found[0][:, :tokens]), (plain[1], found[1])
    apart = max(difference(a.float(), b.float(), routed) for a, b in pairs)
    same = apart <= BOUNDS[backbone.dtype][1]  # NaN is not
    return "" if same else f"it differs from the plain one by {apart:.2g}"


def is_routed(backbone: Backbone) -> bool:
    """Whether it is a mixture of experts."""
    return any(getattr(backbone.config, name, None) for name in ROUTED)


def difference(expected: Tensor, actual: Tensor, routed: bool) -> float:
    """How far logits [..., positions, V] lie apart, over their spread: the root mean square of the positions.

    Of a mixture of experts it is the median position: rounding sends a token to another expert now and then, which is noise.
    """
    expected, actual = (t - t.mean(-1, keepdim=True) for t in (expected, actual))
    each = ((expected - actual).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)).flatten()
    return (each.median() if routed else each.square().mean().sqrt()).item()
