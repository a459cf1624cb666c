"""Sums over data-parallel ranks, and FSDP2 with gradients that are summed, not averaged.

Losses carry denominators of the whole step, so gradients of the ranks add up.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from actial.config import ModelConfig, Precision, Reference, Strategy, TrainerConfig
from actial.core.errors import UserError
from actial.core.process import is_main_process
from actial.modeling.dtensor import raise_together, scattered
from actial.modeling.policy import Policy

Value = TypeVar("Value")
Sums = dict[str, float]
# What Lightning's launcher sets in the process that starts the others, and `export_rank`.
LAUNCH_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def num_ranks() -> int:
    """Return the number of ranks of the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def merge(sums: Sums, more: Sums) -> Sums:
    """Return the key-wise sum; names that begin with max/ take the larger value."""
    merged = dict(sums)
    for name, value in more.items():
        previous = merged.get(name, 0.0)
        merged[name] = max(previous, value) if name.startswith("max/") else previous + value
    return merged


def sum_over_ranks(sums: Sums) -> Sums:
    """Return `merge` of all ranks' sums; ranks may hold different keys."""
    return functools.reduce(merge, gathered(sums))


def gathered(value: Value) -> list[Value]:
    """Return every rank's value, in order of rank."""
    if num_ranks() == 1:
        return [value]
    values: list[Any] = [None] * num_ranks()
    dist.all_gather_object(values, value)
    return values


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Sum `.grad` over ranks; a parameter that no rank used keeps None, as in one process."""
    if num_ranks() == 1:
        return
    device = parameters[0].device
    has_gradient = [p.grad is not None for p in parameters]
    used = torch.tensor(has_gradient, dtype=torch.int32, device=device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    # Parameters that some rank used, in the same order on every rank, go through one all-reduce.
    reduced = [p for p, flag in zip(parameters, used.tolist(), strict=True) if flag]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in reduced]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat)
    summed = torch._utils._unflatten_dense_tensors(flat, grads)
    for parameter, grad in zip(reduced, summed, strict=True):
        parameter.grad = grad


# ---------------------------------------------------------------- FSDP2


def load_on_first_rank(
    config: ModelConfig, *, reference: Reference = Reference.none
) -> Policy:
    """Return `Policy.load` on the first rank, and a policy without weights elsewhere.

    `shard` then gives every rank its parts of the first one's weights: the host memory
    of a node holds one whole model, not one per rank. The ranks may not be connected
    yet, so an error of the first one is kept as `load_error`, which `shard` raises on
    all of them.
    """
    if not is_main_process():
        return Policy.without_weights(config, reference=reference)
    try:
        return Policy.load(config, reference=reference)
    except Exception as error:  # whatever it is: the other ranks would wait for this one
        policy = Policy.without_weights(config, reference=reference)
        policy.load_error = error
        return policy


def shard(policy: Policy, mesh: DeviceMesh) -> None:
    """Shard the policy with FSDP2: one unit per transformer block, text and vision.

    The rest (embeddings, head, norms) is the root unit. The weights are those of the first rank,
    sent one tensor at a time; those of other ranks are dropped before. A collective. Raises
    UserError with adapters, which would have to be merged from shards, and the `load_error` of the
    first rank.
    """
    if policy.config.lora.enabled:
        raise UserError(
            "trainer.strategy=fsdp2 with model.lora.enabled=true is not supported: adapters are "
            "small, use ddp."
        )
    raise_together(policy.load_error)
    bf16 = policy.config.precision is Precision.bf16
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32 if bf16 else None,
        cast_forward_inputs=False,
    )
    weights = _take_weights(policy)
    blocks = set(policy.core._no_split_modules)
    for module in list(policy.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            # Sum instead of average, by a plain sum: gloo has no scaled one.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    _distribute(policy, weights, mesh)


def _take_weights(policy: Policy) -> dict[str, torch.Tensor]:
    """Replace every parameter by one on the meta device; return the first rank's, {} elsewhere.

    Modules that share a parameter go on sharing it.
    """
    leads = dist.get_rank() == 0
    weights = {name: p.detach() for name, p in policy.named_parameters() if leads}
    replaced: dict[int, torch.nn.Parameter] = {}
    for module in policy.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in replaced:
                empty = torch.empty_like(parameter, device="meta")
                replaced[id(parameter)] = torch.nn.Parameter(empty, parameter.requires_grad)
            setattr(module, name, replaced[id(parameter)])
    return weights


@torch.no_grad()
def _distribute(policy: Policy, weights: dict[str, torch.Tensor], mesh: DeviceMesh) -> None:
    """Give a sharded policy on the meta device its weights and buffers, and empty `weights`."""
    device = torch.device(mesh.device_type)
    if device.type != "cpu":
        device = torch.device(device.type, torch.accelerator.current_device_index())
    sharded: dict[int, torch.nn.Parameter] = {}
    state: dict[str, torch.nn.Parameter] = {}
    for name, parameter in policy.named_parameters(remove_duplicate=False):
        if id(parameter) not in sharded:
            assert isinstance(parameter, DTensor)
            value = scattered(weights.pop(name, None), parameter, device, parameter.dtype)
            sharded[id(parameter)] = torch.nn.Parameter(value, parameter.requires_grad)
        state[name] = sharded[id(parameter)]
    # The hooks of this call hand the new parameters to FSDP2.
    policy.load_state_dict(state, strict=False, assign=True)
    for module in policy.modules():
        for name, buffer in module.named_buffers(recurse=False):
            empty = torch.empty_like(buffer, device=device)
            values = empty if buffer.is_meta else buffer.to(device)
            dist.broadcast(values, src=0)
            setattr(module, name, values)


# ---------------------------------------------------------------- launching


@contextmanager
def launch_environment(
    overrides: Sequence[str], *, keep_group: bool = False
) -> Iterator[None]:
    """Let Lightning start the other ranks of one job, and end with the block what it has launched.

    `overrides` are the job's own command line: Lightning starts ranks with that of this
    process, which in a sweep would run every job of it. Without the end of the process
    group and its variables, the next job would take itself for a rank that another
    process has started. `keep_group` leaves the process group to an engine that lives
    in it until the process ends; a group that was there before the block is left to
    whoever started it.
    """
    earlier_group = dist.is_available() and dist.is_initialized()
    before = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    arguments = sys.argv[1:]
    sys.argv[1:] = overrides or arguments
    try:
        yield
    finally:
        if dist.is_available() and dist.is_initialized() and not (keep_group or earlier_group):
            dist.destroy_process_group()
        sys.argv[1:] = arguments
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def export_rank(global_rank: int, local_rank: int, world_size: int) -> None:
    """Set the variables of torchrun, which vLLM reads and Lightning's launcher leaves out."""
    if world_size > 1:
        os.environ["RANK"] = str(global_rank)
        os.environ["LOCAL_RANK"] = str(local_rank)
        os.environ["WORLD_SIZE"] = str(world_size)


def cluster_environment(config: TrainerConfig) -> LightningEnvironment | None:
    """Return the cluster environment where Lightning's choice would be wrong.

    A Slurm job with one task per node and several devices (submitit: tasks_per_node=1)
    starts the ranks of a node from that task; Lightning would refuse it and ask for a
    task per device.
    """
    one_task_per_node = os.environ.get("SLURM_NTASKS") == str(config.nodes)
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if not one_task_per_node or torchrun or config.devices == 1:
        return None
    job = int(os.environ.get("SLURM_JOB_ID", "0"))
    nodes = os.environ.get("SLURM_NODELIST", "127.0.0.1")
    os.environ.setdefault("NODE_RANK", os.environ.get("SLURM_NODEID", "0"))
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    os.environ.setdefault("MASTER_PORT", str(15000 + job % 10000))
    return LightningEnvironment()


def lightning_strategy(config: TrainerConfig) -> Any:
    """Return what Lightning's Trainer takes as `strategy`."""
    if config.strategy is Strategy.fsdp2:
        ranks = config.devices * config.nodes
        return ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1)
    return config.strategy.value
