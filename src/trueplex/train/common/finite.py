"""Weights that are not finite are never saved."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor

from trueplex.errors import TrueplexError


def check_finite(weights: Iterable[tuple[str, Tensor]], step: int) -> None:
    """Refuse weights with a NaN or an infinity, before anything is saved; to be called by all processes together.

    Raises:
        TrueplexError: the step, and the first weight that is not finite.
    """
    local = ((name, w.to_local() if isinstance(w, DTensor) else w) for name, w in weights)
    wrong = gather_object([name for name, w in local if not bool(torch.isfinite(w.detach()).all())])
    if wrong:
        raise TrueplexError(f"the weights are not finite at step {step} ({wrong[0]} and {len(wrong) - 1} others), so nothing "
                            "was saved. Try: a lower --lr; the same command resumes from the last checkpoint")  # fmt: skip
