"""A model on several devices: its layers spread over this process's accelerators, or every layer shared by the processes of torchrun.

Spreading is accelerate's ``device_map="auto"``; sharing is transformers' own tensor parallelism by the plan that a model
brings. Processes that share a model do the same steps with the same draws; the first one's clock is everyone's, so that a
limit of time ends a trace on all of them or on none.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from importlib.util import find_spec
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

from trueplex import clock
from trueplex.errors import MissingExtra, ModelError, OptionError

MAPS = ("auto", "tp")


def placement(device_map: str, device: str | None, config: Any, quantize: str | None) -> dict[str, Any]:
    """The arguments of `from_pretrained` that place a model so.

    Raises:
        OptionError: an unknown map, one that another option contradicts, or a number of processes that the heads do
            not share evenly.
        ModelError: there is no accelerator to spread over, or no torchrun around a model that is to be shared.
        MissingExtra: accelerate is not installed.
    """
    if device_map not in MAPS:
        raise OptionError(f"unknown device map {device_map!r}. Try: one of {', '.join(MAPS)}")
    if find_spec("accelerate") is None:
        raise MissingExtra("accelerate", "train")
    if device_map == "auto":
        if device is not None:
            raise OptionError(
                "--device-map auto chooses the devices, so --device has no effect here. Try: drop one of them"
            )
        if not (torch.cuda.is_available() or torch.xpu.is_available()):
            raise ModelError("--device-map auto spreads a model over accelerators (this machine has none that PyTorch can use). Try: "
                             "without it, or --quantize int8 for a model that is too large")  # fmt: skip
        return {"device_map": "auto"}
    if quantize is not None:
        raise OptionError("--quantize and --device-map tp do not go together. Try: drop one of them")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes < 2:
        raise ModelError("--device-map tp shares a model among the processes of torchrun (there is one process). Try: torchrun "
                         "--nproc-per-node 2 -m trueplex …")  # fmt: skip
    config = config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if heads % processes:
        raise OptionError(f"{processes} processes cannot share {heads} key/value heads evenly. Try: a number of processes that divides {heads}")  # fmt: skip
    _join(device)
    return {"distributed_config": DistributedConfig(tp_plan="auto")}


def _join(device: str | None) -> None:
    """Meet the other processes, and follow the first one's clock."""
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if not on_cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not distributed.is_initialized():
        distributed.init_process_group("gloo" if on_cpu else "nccl")
        atexit.register(distributed.destroy_process_group)  # its threads would otherwise outlive the interpreter
    clock.follow(lambda: _told(torch.device("cpu") if on_cpu else torch.device("cuda")))


def _told(device: torch.device) -> float:
    """The first process's clock. Processes meet here: all read it equally often, as they do the same steps."""
    moment = torch.tensor(time.monotonic(), dtype=torch.float64, device=device)
    distributed.broadcast(moment, 0)
    return float(moment)


def first() -> bool:
    """Whether this process is the one that writes and prints; those that share a model with it do the same steps in silence."""
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        return True
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    return False


def check_spread(model: Any) -> None:
    """Refuse a model that did not fit the accelerators. Raises ModelError."""
    elsewhere = {str(place) for place in (getattr(model, "hf_device_map", None) or {}).values()} & {"cpu", "disk"}
    if elsewhere:
        raise ModelError(f"the model does not fit the accelerators (a part of it would be on {' and '.join(sorted(elsewhere))}). Try: "
                         "--quantize int8, or more accelerators")  # fmt: skip


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, gathered where processes share it; all of them call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared(model: Any) -> bool:
    """Whether processes share the model's weights."""
    return any(isinstance(p, DTensor) for p in model.parameters())
