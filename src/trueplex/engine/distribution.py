"""Next-token distributions, read in blocks: a vocabulary of 150,000 tokens is gone through as few times as can be.

What is drawn and remembered of a step needs no array as large as the logits besides one of exponentials, which is made a
few rows at a time, so that it stays in the processor's cache. `engine.sampling` is the plain way to the same draws.

Shapes: B rows, V tokens in N blocks, K draws. Logits stay in the model's dtype, and become float32 where they are read: all
arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # tokens
AT_ONCE = 2**18  # logits read at once on a CPU: what stays in its cache
HIDDEN = -1e30  # the logit of what is no token; finite, as zero times infinity is not zero


class Distribution:
    """softmax(logits / T) of B rows; at T = 0 that of T = 1, as drawing is by argmax.

    Attributes:
        entropy: [B] in nats; not finite where a logit is not.
    """

    def __init__(self, logits: Tensor, temperature: float = 1.0) -> None:
        self.vocabulary, self.temperature = logits.shape[-1], temperature
        self._scale = 1.0 if temperature == 0 else 1.0 / temperature
        if missing := -self.vocabulary % BLOCK:
            logits = torch.nn.functional.pad(logits, (0, missing), value=HIDDEN)
        self._blocks = logits.unflatten(-1, (-1, BLOCK))
        self._read()

    def _read(self) -> None:
        """The highest logit and the mass of every block and row, and the entropy."""
        rows, block = len(self._blocks), max(1, self._blocks[:1].numel())
        at_once = max(1, AT_ONCE // block) if self._blocks.device.type == "cpu" else max(1, rows)
        scratch = self._blocks.new_empty((2, min(at_once, rows), *self._blocks.shape[1:]), dtype=torch.float32)
        parts = [
            self._read_rows(self._blocks[first : first + at_once], scratch) for first in range(0, max(rows, 1), at_once)
        ]
        self._tops, self._masses, self._highest, self._log_mass, self._log_mass_1, self.entropy = (
            parts[0] if len(parts) == 1 else [torch.cat(own) for own in zip(*parts, strict=True)]
        )

    def _read_rows(self, blocks: Tensor, scratch: Tensor) -> tuple[Tensor, ...]:
        below, shares = scratch[:, : len(blocks)]
        # In half precision logits are read once: every kernel but a copy is slower on them than on float32.
        tops = below.copy_(blocks).amax(-1)
        highest = tops.amax(-1)
        below.sub_(highest[:, None, None])
        scaled = below if self._scale == 1 else torch.mul(below, self._scale, out=shares)
        torch.exp(scaled, out=shares)
        masses = shares.sum(-1)
        mass = masses.sum(-1)
        entropy = mass.log() - self._scale * torch.linalg.vecdot(shares.flatten(1), below.flatten(1)) / mass
        log_mass_1 = mass.log() if self._scale == 1 else below.exp_().sum((1, 2)).log()
        return tops, masses, highest, mass.log(), log_mass_1, entropy

    def logps(self, ids: Tensor, temperature: float | None = None) -> Tensor:
        """Log-probabilities [B, C] of ids [B, C], at this temperature; or at 1, where that is asked for."""
        return self._logps(self._blocks.flatten(1).gather(1, ids).float(), temperature == 1)

    def _logps(self, logits: Tensor, plain: bool = False) -> Tensor:
        below = logits - self._highest[:, None]
        return below - self._log_mass_1[:, None] if plain else below * self._scale - self._log_mass[:, None]

    def all_logps(self) -> Tensor:
        """Log-probabilities [B, V]."""
        return self._logps(self._blocks.flatten(1)[:, : self.vocabulary].float())

    def argmax(self) -> Tensor:
        """The most likely id [B, 1]."""
        block = self._tops.argmax(-1, keepdim=True)
        return block * BLOCK + self._of(block)[:, 0].argmax(-1, keepdim=True)

    def top(self, count: int) -> Tensor:
        """The ids [B, C] of the most likely tokens, falling; C = min(count, V)."""
        count, blocks = min(count, self.vocabulary), self._blocks.shape[1]
        if 2 * count >= blocks:
            return self._blocks.flatten(1).float().topk(count, dim=-1).indices
        chosen = self._tops.topk(count, dim=-1).indices  # a block that is not among them has nothing among the top
        places = self._of(chosen).flatten(1).topk(count, dim=-1).indices
        return chosen.gather(1, places // BLOCK) * BLOCK + places % BLOCK

    def confidence(self, tokens: int) -> Tensor:
        """Minus the mean log-probability [B] of so many most likely tokens at temperature 1."""
        return -self.logps(self.top(tokens), temperature=1).mean(-1)

    def draw(self, uniforms: Tensor) -> Tensor:
        """Ids [B, K] drawn with replacement for uniforms [B, K] in [0, 1): `sampling.draw`, first of a block, then within it.

        An id of probability 0 is never drawn, whatever the rounding.
        """
        upto = self._masses.cumsum(-1)
        total = upto[:, -1:].contiguous()
        wanted = uniforms * total
        block = torch.minimum(torch.searchsorted(upto, wanted, right=True), torch.searchsorted(upto, total))
        block = block.clamp_(max=upto.shape[-1] - 1)
        before = torch.where(block > 0, upto.gather(1, (block - 1).clamp(min=0)), 0.0)
        within = ((self._of(block) - self._highest[:, None, None]) * self._scale).exp_().cumsum(-1)
        place = torch.searchsorted(within, (wanted - before)[..., None], right=True)
        place = torch.minimum(place, torch.searchsorted(within, within[..., -1:].contiguous()))
        return block * BLOCK + place[..., 0].clamp_(max=BLOCK - 1)

    def _of(self, blocks: Tensor) -> Tensor:
        """The logits [B, C, BLOCK] float32 of blocks [B, C]."""
        return self._blocks.gather(1, blocks[..., None].expand(-1, -1, BLOCK)).float()
