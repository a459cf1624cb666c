"""FSDP2: the policy's blocks sharded over the data-parallel ranks, gradients summed (losses carry global denominators)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from actial.config import Precision, Strategy, TrainerConfig
from actial.core.errors import UserError

Part = TypeVar("Part")


Sums = dict[str, float]


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def merge(sums: Sums, more: Sums) -> Sums:
    """Key-wise sum; names that begin with max/ take the larger value."""
    merged = dict(sums)
    for name, value in more.items():
        known = merged.get(name, 0.0)
        merged[name] = max(known, value) if name.startswith("max/") else known + value
    return merged


def sum_over_ranks(sums: Sums) -> Sums:
    """`merge` of all ranks' sums; ranks may hold different keys."""
    return functools.reduce(merge, gathered(sums))


def gathered(value: Part) -> list[Part]:
    """Every rank's value, in order of rank."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = [None] * num_ranks()
    dist.all_gather_object(values, value)
    return values


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum `.grad` over ranks; a parameter that no rank used keeps None, as in one process."""
    if num_ranks() == 1:
        return
    used = torch.tensor(
        [p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device
    )
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    reduced = [p for p, flag in zip(parameters, used.tolist(), strict=True) if flag]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in reduced]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat)
    for parameter, grad in zip(
        reduced, torch._utils._unflatten_dense_tensors(flat, grads), strict=True
    ):
        parameter.grad = grad


if TYPE_CHECKING:
    from actial.modeling.policy import Policy


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Each transformer block and tower block is a unit of its own; what remains (embeddings, head, norms) is the root's.

    Raises UserError with adapters, which would have to be merged from shards.
    """
    if policy.config.lora.enabled:
        raise UserError(
            "trainer.strategy=fsdp2 with model.lora.enabled=true is not supported: adapters are small, use ddp."
        )
    bf16 = policy.config.precision is Precision.bf16
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32 if bf16 else None,
        cast_forward_inputs=False,
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
        return ModelParallelStrategy(
            data_parallel_size=config.devices * config.nodes, tensor_parallel_size=1
        )
    return config.strategy.value
