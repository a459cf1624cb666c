"""The device memory of a run, phase by phase: update, rollout, save and final scoring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from actial.config import Accelerator, SamplerKind, StageName, TrainConfig
from actial.modeling.cost_model import Load, Memory

GIB = 2**30
CONTEXT_GIB = 1.5  # CUDA context, NCCL buffers, compiled kernels: an allowance, not measured
SLEEPING_GIB = 1.0  # of a sleeping engine; an allowance, not measured
DEFAULT_UTILIZATION = 0.9  # vLLM's own
UTILIZATIONS = (0.5, 0.4, 0.35, 0.3, 0.25)


@dataclass(slots=True)
class MemoryPlan:
    """GiB of the fullest device in each phase of a stage."""

    phases: dict[str, float]
    available: float

    @property
    def peak(self) -> float:
        """The largest phase."""
        return max(self.phases.values())

    @property
    def fits(self) -> bool:
        """Whether every phase fits the device."""
        return self.peak <= self.available

    def describe(self) -> str:
        """The phases as text."""
        return ", ".join(f"{name} {gib:.1f}" for name, gib in self.phases.items())


def plan_memory(
    config: TrainConfig, stage: StageName, memory: Memory, available: float
) -> MemoryPlan:
    """The phases of a stage; `memory` is the trainer's, `available` the device's GiB.

    A colocated engine asks for its share of the whole device: beside the trainer's
    state while it samples; beside the update, too, unless it sleeps. It starts before
    the first update and ends with the run, so it scores the models with nothing of the
    trainer left.
    """
    context = CONTEXT_GIB if on_gpu(config) else 0.0
    state = memory.state / GIB
    engine = engine_gib(config, available)
    beside = engine
    if config.sampler.engine.get("enable_sleep_mode") and engine:
        beside = SLEEPING_GIB
    if stage is StageName.sft and config.stages[0] is stage:
        engine = beside = 0.0  # it has not started
    phases = {
        "update": memory.total / GIB + beside + context,
        "save": state + memory.largest_tensor / GIB + beside + context,
    }
    if stage is StageName.grpo and engine:
        # the probe's forward pass leaves the root group unsharded
        phases["rollout"] = state + memory.gathered / GIB + engine + context
    if scoring := engine_gib(config, available):
        phases["scoring"] = scoring + context
    return MemoryPlan(phases, available)


def engine_gib(config: TrainConfig, available: float) -> float:
    """What an engine on the trainer's own device takes of it."""
    sampler = config.sampler
    shares = sampler.kind is SamplerKind.vllm
    if sampler.kind is SamplerKind.vllm_server:
        shares = sampler.start and sampler.devices is None
    if not shares or not on_gpu(config):
        return 0.0
    utilization = sampler.engine.get("gpu_memory_utilization", DEFAULT_UTILIZATION)
    return float(utilization) * available


def on_gpu(config: TrainConfig) -> bool:
    """Whether the trainer's device is a GPU, here or, with trainer.memory_gib, elsewhere."""
    if config.trainer.accelerator is Accelerator.cpu:
        return False
    return (
        config.trainer.accelerator is Accelerator.cuda or config.trainer.memory_gib is not None
    )


def alternatives(config: TrainConfig, load: Load) -> Iterator[tuple[str, TrainConfig]]:
    """(settings, config with them) that need less memory, the least costly first."""
    model, sampler = config.model, config.sampler
    settings: list[str] = []
    colocated = sampler.kind is SamplerKind.vllm
    if colocated and not sampler.engine.get("enable_sleep_mode"):
        engine = {**sampler.engine, "enable_sleep_mode": True}
        config = replace(config, sampler=replace(sampler, engine=engine))
        settings.append("+sampler.engine.enable_sleep_mode=true")
        yield " ".join(settings), config
    if not model.gradient_checkpointing:
        config = replace(config, model=replace(config.model, gradient_checkpointing=True))
        settings.append("model.gradient_checkpointing=true")
        yield " ".join(settings), config
    budget = model.micro_batch_tokens
    while budget > load.longest_group:
        budget = max(budget // 2, load.longest_group)
        sequence_tokens = min(model.sequence_tokens, budget)
        smaller = replace(
            config.model, micro_batch_tokens=budget, sequence_tokens=sequence_tokens
        )
        config = replace(config, model=smaller)
        change = f"model.micro_batch_tokens={budget}"
        if sequence_tokens < model.sequence_tokens:
            change += f" model.sequence_tokens={sequence_tokens}"
        yield " ".join([*settings, change]), config
    if budget < model.micro_batch_tokens:
        settings.append(change)
    if colocated:
        current = sampler.engine.get("gpu_memory_utilization", DEFAULT_UTILIZATION)
        for utilization in (u for u in UTILIZATIONS if u < current):
            engine = {**config.sampler.engine, "gpu_memory_utilization": utilization}
            smaller_engine = replace(config, sampler=replace(config.sampler, engine=engine))
            change = f"sampler.engine.gpu_memory_utilization={utilization}"
            yield " ".join([*settings, change]), smaller_engine
