"""What a run launches ends with it, and ranks are started as the launcher of the job needs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from support.processes import exit_code

from actial.config import SamplerKind, StageName, TrainerConfig
from actial.training.distributed import (
    LAUNCH_VARIABLES,
    cluster_environment,
    export_rank,
    launch_environment,
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCH_VARIABLES, "SLURM_NTASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_next_job_of_a_sweep_sees_nothing_of_the_ranks_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "-m", "seed=1,2"])
    with launch_environment(["seed=1", "run_dir='runs/seed=1'"]):
        # Lightning starts the other ranks with this command line: one job, not the sweep.
        assert sys.argv == ["train", "seed=1", "run_dir='runs/seed=1'"]
        os.environ.update(LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
        export_rank(0, 0, 2)
        assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "2")
    assert sys.argv == ["train", "-m", "seed=1,2"]
    assert not set(LAUNCH_VARIABLES) & set(os.environ)


def start_group(store: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=0, world_size=1
    )


def group_of_the_job(folder: Path) -> None:
    with launch_environment([]):
        start_group(folder / "own")
    assert not torch.distributed.is_initialized()


def group_of_an_engine(folder: Path) -> None:
    with launch_environment([], keep_group=True):
        start_group(folder / "engine")
    with launch_environment([]):
        pass
    assert torch.distributed.is_initialized()


def group_before_scoring(folder: Path) -> None:
    """An engine that starts only for scoring must not meet the group of ranks that have left."""
    from actial.pipeline import launch

    launch.num_ranks = lambda: 2  # as of two ranks; the group here is of one
    config = SimpleNamespace(sampler=SimpleNamespace(kind=SamplerKind.vllm))
    start_group(folder / "ranks")
    config.stages = [StageName.sft, StageName.grpo]
    assert launch.teardown_distributed(config)
    assert torch.distributed.is_initialized()  # the engine of the GRPO stage lives in it
    config.stages = [StageName.sft]
    assert launch.teardown_distributed(config)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("job", [group_of_the_job, group_of_an_engine, group_before_scoring])
def test_a_process_group_ends_with_the_job_that_started_it(tmp_path: Path, job) -> None:
    assert exit_code(job, tmp_path) == 0


def test_one_process_exports_no_rank() -> None:
    export_rank(0, 0, 1)
    assert "RANK" not in os.environ


def test_a_slurm_task_for_a_whole_node_starts_the_ranks_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slurm = {"SLURM_NTASKS": "2", "SLURM_NODEID": "1", "SLURM_JOB_ID": "4242"}
    for name, value in {**slurm, "SLURM_NODELIST": "node[3-4]"}.items():
        monkeypatch.setenv(name, value)
    environment = cluster_environment(TrainerConfig(devices=8, nodes=2))
    assert isinstance(environment, LightningEnvironment)
    assert environment.node_rank() == 1
    assert (environment.main_address, environment.main_port) == ("node3", 19242)


def test_a_slurm_task_for_each_device_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "16")
    assert cluster_environment(TrainerConfig(devices=8, nodes=2)) is None
