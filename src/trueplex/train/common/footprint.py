"""How much memory a pass of verifier training takes, and into how many parts a batch is split so that each fits a budget.

What is counted is what grows with the batch: the base's keys and values, the probes' masks, and what the backward pass
needs of the probes. Weights, their gradients and the optimizer stand beside it. It is an estimate from the configuration, meant to be
high rather than low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone

GIB = 2**30
FLOAT = 4
SLACK = 1.25  # what is alive for a moment while something else is


@dataclass(frozen=True)
class Footprint:
    """The sizes of a model that a pass's memory follows from; ``size`` is bytes of a number, ``kinds`` how many
    masks there are, and ``states`` the bytes of those that a probe stands behind."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    size: int
    kinds: int
    states: int
    fused: bool
    recomputed: bool

    @classmethod
    def of(cls, backbone: Backbone, recomputed: bool = False) -> Footprint:
        """By the model's configuration; ``recomputed``: activations of one layer at a time are kept."""
        config = backbone.config
        heads = getattr(config, "num_attention_heads", None) or 1
        experts = getattr(config, "num_experts_per_tok", None) or 0
        plain: int = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        inner = max(plain, experts * (getattr(config, "moe_intermediate_size", None) or plain))
        fused = backbone.device.type == "cpu" and not getattr(config, "attn_logit_softcapping", None)
        return cls(
            backbone.layers, config.hidden_size, inner, heads, getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads, backbone.dtype.itemsize,
            len(backbone.kinds.masks), backbone.sizes.states, fused, recomputed,
        )  # fmt: skip

    def row(self, columns: int, probes: int, learning: bool = True) -> int:
        """Bytes that one row takes: a trace of so many columns with so many probes, to learn from or only to be scored."""
        across = self.heads * self.head_size
        stored = 2 * self.layers * self.kv_heads * self.head_size * columns * self.size
        passing = columns * (4 * self.hidden + 3 * self.inner + 3 * across) * self.size  # one layer of the base pass
        copied = 2 * across * columns * self.size  # keys and values repeated over groups, one layer
        mask = self.kinds * probes * columns * (self.size + 2)
        # Of one layer: inputs of LoRA and of the norms in float32, inputs of activations and attention in the base's dtype.
        kept = probes * (FLOAT * (9 * self.hidden + across + self.inner) + self.size * (3 * self.inner + 6 * across))
        if not self.fused:
            kept += 3 * FLOAT * self.heads * probes * columns
        many = self.layers if learning else 1
        if self.recomputed:
            many = -(-many // 4)  # measured: one layer's is freed too late to be one layer's
        between = self.layers * probes * self.hidden * self.size if learning else 0
        return int(SLACK * (stored + mask + 2 * probes * self.states + max(passing, copied + many * kept + between)))

    def parts(self, sizes: Sequence[tuple[int, int]], budget: int) -> int:
        """Into how many parts rows of (columns, probes) are split, every so many-th together, so that each fits the budget.

        As many parts as rows where even single rows do not fit.
        """

        def fits(parts: int) -> bool:
            split = [sizes[part::parts] for part in range(parts)]
            return all(len(p) * self.row(*map(max, zip(*p, strict=True))) <= budget for p in split)

        return next((parts for parts in range(1, len(sizes)) if fits(parts)), len(sizes))

    def check(self, columns: int, probes: int, rows: int, budget: int) -> None:
        """Refuse a budget that so many rows of the longest trace, which cannot be split, do not fit.

        Raises:
            OptionError: both figures.
        """
        needed = rows * self.row(columns, probes)
        if needed > budget:
            what = "the longest trace" if rows == 1 else f"a batch of {rows} traces, which cannot be split,"
            raise OptionError(f"{what} takes {needed / GIB:.2g} GiB in training ({columns} tokens, {probes} probes each) and --memory is "
                              f"{budget / GIB:.2g}. Try: more --memory, fewer --positions, --gradient-checkpointing"
                              f"{', a smaller --batch' * (rows > 1)}")  # fmt: skip
