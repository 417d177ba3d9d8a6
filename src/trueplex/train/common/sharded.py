"""Weights that FSDP has sharded among processes: gathered on each while it rolls out, and gathered to be written.

An engine steps as often as its traces are long, so processes that gathered weights layer by layer while they
decode would wait for each other for ever. They gather all of them before, and shard them again afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule

from trueplex.errors import OptionError


def check(accelerator: Accelerator) -> None:
    """Raise OptionError when weights are sharded in a way that rollouts could not gather: FSDP 1 or ZeRO 3."""
    kind, state = accelerator.distributed_type, accelerator.state
    fsdp1 = kind == DistributedType.FSDP and not accelerator.is_fsdp2
    zero3 = kind == DistributedType.DEEPSPEED and state.deepspeed_plugin.zero_stage == 3
    if fsdp1 or zero3:
        raise OptionError(f"rollouts cannot use weights that {'FSDP 1' if fsdp1 else 'ZeRO 3'} has sharded. Try: accelerate launch "
                          "--use_fsdp --fsdp_version 2, or plain torchrun")  # fmt: skip


def sharded_modules(model: Any) -> list[FSDPModule]:
    """The modules whose weights are sharded; none on one process or under plain data parallelism."""
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


@contextmanager
def gathered(model: Any, accelerator: Accelerator) -> Iterator[None]:
    """Every process holds all weights, and may step as often as it likes; to be entered by all together."""
    modules = sharded_modules(model)
    if not modules:
        yield
        return
    with torch.no_grad():  # FSDP takes the module that runs first for the root
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=accelerator.device), use_cache=False)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(bool(accelerator.state.fsdp_plugin.reshard_after_forward), recurse=False)
            module.reshard()


def full_state(model: Any) -> dict[str, Tensor]:
    """The state dict of a model with whole tensors, tied ones still one; to be called by all processes together."""
    whole: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    first: dict[int, str] = {}  # a tied weight → the name that it has first
    return {name: whole[first.setdefault(id(t), name)].detach() for name, t in model.state_dict(keep_vars=True).items()}
