"""Sharded parameters gathered and compared."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(module: Any) -> bool:
    return isinstance(module, FSDPModule)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The unsharded value, on every rank; all ranks must call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`value`, sharded as `parameter` is; scalars (Adam's step) stay whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.clone()
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def whole_state(module: Any) -> dict[str, torch.Tensor]:
    """The unsharded state dict, for saving; all ranks must call it together."""
    return {name: whole(value) for name, value in module.state_dict().items()}
