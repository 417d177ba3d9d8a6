"""The command line, with FSDP on CPU processes: accelerate has all that it takes, but offers it on accelerators only."""

from __future__ import annotations

from typing import Any

import accelerate.state as state
from accelerate.utils import DistributedType

from trueplex.cli.main import main

own = state.AcceleratorState.__init__


def with_fsdp(self: state.AcceleratorState, *arguments: Any, **named: Any) -> None:
    own(self, *arguments, **named)
    if named.get("fsdp_plugin") is not None:
        self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = named["fsdp_plugin"]


state.AcceleratorState.__init__ = with_fsdp

if __name__ == "__main__":
    main()
