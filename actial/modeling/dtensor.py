"""Values of several ranks, and of sharded parameters, brought together."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

Value = TypeVar("Value")


def gather_objects(value: Value) -> list[Value]:
    """Every rank's value, in order of rank. A collective: all ranks must call it together."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def is_sharded(module: Any) -> bool:
    """Whether FSDP2 has sharded `module`."""
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The unsharded value, on every rank. A collective: all ranks must call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy of `value` sharded as `parameter` is; scalars (Adam's step) stay whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.clone()
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements
    )


def whole_state(module: Any) -> dict[str, Tensor]:
    """The unsharded state dict, for saving; empty on all ranks but the first.

    A collective: all ranks must call it together. Shards are gathered one tensor at a time, and the
    whole ones go to the first rank's CPU: a device never holds more than one of them.
    """
    leads = not dist.is_initialized() or dist.get_rank() == 0
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        sharded = isinstance(value, DTensor)
        tensor = whole(value)
        if leads:
            state[name] = tensor.cpu() if sharded else tensor
    return state
