"""Values of several ranks, and of sharded parameters, brought together."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
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


def raise_together(failure: Exception | None) -> None:
    """Raise the first rank's failure that is not None, on every rank. A collective."""
    for raised in gather_objects(failure):
        if raised is not None:
            raise raised


def is_sharded(module: Any) -> bool:
    """Whether FSDP2 has sharded `module`."""
    return isinstance(module, FSDPModule)


def whole(tensor: Tensor) -> Tensor:
    """The unsharded value, on every rank. A collective: all ranks must call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy of `value` beside `parameter`, sharded as it is; scalars (Adam's step) stay whole.

    A collective where `parameter` is sharded: the first rank's value is what all get parts of.
    """
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.to(parameter.device, copy=True)
    leads = dist.get_rank() == 0
    return scattered(value if leads else None, parameter, parameter.device, value.dtype)


def scattered(
    value: Tensor | None, parameter: DTensor, device: torch.device, dtype: torch.dtype
) -> DTensor:
    """The first rank's `value` on `device`, sharded as `parameter` is; other ranks give None.

    A collective. The first rank's device holds one whole tensor, other ranks' the room for one.
    """
    if value is None:
        whole_tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
    else:
        whole_tensor = value.detach().to(device, dtype)
    return distribute_tensor(whole_tensor, parameter.device_mesh, parameter.placements)


def whole_state(module: Any) -> dict[str, Tensor]:
    """The unsharded state dict, for saving; empty on all ranks but the first.

    A collective: all ranks must call it together. Shards are gathered one tensor at a
    time, and the whole ones go to the first rank's CPU. A device holds one of them, and
    gloo as much again while it gathers: other ranks grow by twice the largest tensor,
    whatever the size of the model. Names of one parameter (a head tied to the
    embedding) get one tensor.
    """
    leads = not dist.is_initialized() or dist.get_rank() == 0
    parameters = dict(module.named_parameters(remove_duplicate=False))
    state: dict[str, Tensor] = {}
    name_of: dict[int, str] = {}  # the first name of each parameter
    for name, value in module.state_dict().items():
        first_name = name_of.setdefault(id(parameters.get(name, value)), name)
        if first_name != name and isinstance(value, DTensor):
            if leads:
                state[name] = state[first_name]
            continue
        if not isinstance(value, DTensor):
            if leads:
                state[name] = value
        elif leads:
            state[name] = whole(value).cpu()
        else:
            whole(value)  # takes part; bound to a name, it would live through the next gather
    return state
