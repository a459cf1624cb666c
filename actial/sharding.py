"""FSDP2: the policy's blocks sharded over the data-parallel ranks, gradients summed (losses carry global denominators)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from actial.config import Precision, Strategy, TrainerConfig
from actial.errors import UserError

if TYPE_CHECKING:
    from actial.policy import Policy


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Each transformer block and tower block is a unit of its own; what remains (embeddings, head, norms) is the root's.

    Raises UserError with adapters, which would have to be merged from shards.
    """
    if policy.config.lora.enabled:
        raise UserError("trainer.strategy=fsdp2 with model.lora.enabled=true is not supported: adapters are small, use ddp.")
    bf16 = policy.config.precision is Precision.bf16
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32 if bf16 else None, cast_forward_inputs=False
    )
    blocks = set(policy.core._no_split_modules)
    for module in list(policy.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def lightning_strategy(config: TrainerConfig) -> Any:
    """What Lightning's Trainer takes as `strategy`."""
    if config.strategy is Strategy.fsdp2:
        return ModelParallelStrategy(data_parallel_size=config.devices * config.nodes, tensor_parallel_size=1)
    return config.strategy.value


def is_sharded(module: Any) -> bool:
    return isinstance(module, FSDPModule)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The unsharded value, on every rank; all ranks must call it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """`value`, sharded as `parameter` is; scalars (Adam's step) stay whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.clone()
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def whole_state(module: Any) -> dict[str, torch.Tensor]:
    """The unsharded state dict, for saving; all ranks must call it together."""
    return {name: whole(value) for name, value in module.state_dict().items()}
