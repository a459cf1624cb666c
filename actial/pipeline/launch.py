"""The ranks of a run: what Lightning starts for it, and what ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from actial.config import SamplerKind, StageName, TrainConfig
from actial.config.command_line import quoted
from actial.core.process import end_with_parent, is_main_process, started_by_first_rank
from actial.inference.open_sampler import close_engines
from actial.training.distributed import launch_environment, num_ranks


@contextmanager
def launched(config: TrainConfig) -> Iterator[None]:
    """Run a block that may start ranks; they, their engines and their group end with it.

    The engine of a single process outlives it: the next job of a sweep uses it again. A rank that
    this process has started ends with it, whatever ends it.
    """
    if started_by_first_rank():
        end_with_parent()
    has_engine = config.sampler.kind is SamplerKind.vllm
    with launch_environment(job_overrides(config), keep_group=has_engine):
        try:
            yield
        finally:
            if num_ranks() > 1:
                close_engines()
                if torch.distributed.is_initialized():  # vLLM may have destroyed it
                    torch.distributed.destroy_process_group()


def job_overrides(config: TrainConfig) -> list[str]:
    """Return the command line of this job of a sweep; [] outside of one."""
    if not HydraConfig.initialized() or HydraConfig.get().mode is not RunMode.MULTIRUN:
        return []
    task = [
        word for word in HydraConfig.get().overrides.task if not word.startswith("run_dir=")
    ]
    return [*task, f"run_dir={quoted(config.run_dir)}"]


def has_colocated_engine(config: TrainConfig) -> bool:
    """Return whether the GRPO stage has an engine in each rank's process, in the ranks' group."""
    return config.sampler.kind is SamplerKind.vllm and StageName.grpo in config.stages


def teardown_distributed(config: TrainConfig) -> bool:
    """Destroy the process group unless an engine of the GRPO stage lives in it.

    Returns True on the rank that scores the models. An engine that starts only
    for scoring must not see a group, or it would wait for the ranks that have
    left.
    """
    if num_ranks() > 1 and not has_colocated_engine(config):
        torch.distributed.destroy_process_group()
    return is_main_process()
