"""Which process writes, under every launcher, and which ends with another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from actial.core.errors import UserError
from actial.core.process import check_launcher, is_main_process, started_by_first_rank

SRUN = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "actial"}
VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", *SRUN)
SIZES = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_NNODES")


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in (*VARIABLES, *SIZES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "main"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),  # torchrun, first rank of the second node
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),  # started by hand on the second node
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({**SRUN, "SLURM_PROCID": "0"}, True),
        ({**SRUN, "SLURM_PROCID": "1"}, False),
        ({**SRUN, "SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # a task that starts others
        ({**SRUN, "SLURM_PROCID": "1", "SLURM_JOB_NAME": "bash"}, True),  # a shell in a job
    ],
)
def test_one_process_is_the_main_one(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], main: bool
) -> None:
    set_variables(monkeypatch, variables)
    assert is_main_process() is main


def test_a_rank_that_lightning_started_is_told_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert not started_by_first_rank()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert started_by_first_rank()
    monkeypatch.setenv("RANK", "1")  # torchrun ends its ranks itself
    assert not started_by_first_rank()


SLURM = {"SLURM_JOB_NAME": "actial", "SLURM_PROCID": "0"}
TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "1"}


def launched(tasks: int, per_node: int | None = None, **more: str) -> dict[str, str]:
    given = {} if per_node is None else {"SLURM_NTASKS_PER_NODE": str(per_node)}
    return {**SLURM, "SLURM_NTASKS": str(tasks), **given, **more}


def torchrun(processes: int, nodes: int = 1) -> dict[str, str]:
    sizes = {"WORLD_SIZE": str(processes * nodes), "LOCAL_WORLD_SIZE": str(processes)}
    return {**TORCHRUN, **sizes}


@pytest.mark.parametrize(
    ("variables", "devices", "nodes"),
    [
        ({}, 4, 1),
        (launched(1), 1, 1),  # sbatch --ntasks=1
        (launched(1), 4, 1),  # the task starts the others
        (launched(2), 8, 2),
        (launched(4, 4), 4, 1),
        (launched(8, 4, SLURM_NNODES="2"), 4, 2),
        (launched(4, SLURM_JOB_NAME="interactive"), 1, 1),
        (launched(4, SLURM_JOB_NAME="bash"), 2, 1),
        (launched(1, LOCAL_RANK="3"), 4, 1),  # started by Lightning
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, 2, 1),
        ({"NODE_RANK": "1"}, 8, 2),
        (torchrun(2), 2, 1),
        (torchrun(4, 2), 4, 2),
        (launched(1, 1, **torchrun(2)), 2, 1),  # torchrun in a task of Slurm
        ({"RANK": "0", "WORLD_SIZE": "1"}, 1, 1),
    ],
)
def test_a_launcher_that_fits_the_run_is_accepted(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], devices: int, nodes: int
) -> None:
    set_variables(monkeypatch, variables)
    check_launcher(devices, nodes)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "message"),
    [
        (launched(2), 1, 1, "SLURM_NTASKS=2 processes were launched"),
        (launched(4, 4), 2, 1, "SLURM_NTASKS=4 processes were launched"),
        (launched(4), 4, 1, "SLURM_NTASKS=4 was asked of Slurm without --ntasks-per-node=4"),
        (launched(1, 4), 1, 1, "SLURM_NTASKS_PER_NODE=4 was asked"),
        (launched(8, 8, SLURM_NNODES="2"), 8, 1, "SLURM_NNODES=2 was asked"),
        (torchrun(2), 4, 1, "WORLD_SIZE=2 processes were launched"),
        (torchrun(2), 1, 1, "WORLD_SIZE=2 processes were launched"),
        (torchrun(1, 2), 2, 1, "LOCAL_WORLD_SIZE=1 processes were launched"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1, 1, "WORLD_SIZE=2 processes were launched"),
        ({"RANK": "1"}, 1, 1, "RANK=1 names one process of several"),
        ({"LOCAL_RANK": "1"}, 1, 1, "LOCAL_RANK=1 names one process of several"),
        ({"NODE_RANK": "1", "MASTER_ADDR": "a"}, 1, 1, "NODE_RANK=1 names one process"),
    ],
)
def test_a_launcher_of_other_processes_than_the_run_has_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    devices: int,
    nodes: int,
    message: str,
) -> None:
    set_variables(monkeypatch, variables)
    settings = f"but trainer.devices={devices} and trainer.nodes={nodes} are set"
    with pytest.raises(UserError, match=f"{message}.*, {settings}"):
        check_launcher(devices, nodes)


RANK = """
import time
from actial.core.process import end_with_parent
end_with_parent(grace_s=0.5)
print("watching", flush=True)
time.sleep(600)  # as in a collective of a dead rank
"""
FIRST_RANK = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(rank.pid, flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_rank_ends_with_the_one_that_started_it() -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", FIRST_RANK, RANK], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    pid = int(first.stdout.readline())
    assert first.stdout.readline() == "watching\n"
    try:
        time.sleep(2.5)  # two polls
        assert runs(pid)
        first.kill()
        first.wait()
        deadline = time.monotonic() + 30
        while runs(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not runs(pid)
    finally:
        if runs(pid):
            os.kill(pid, signal.SIGKILL)
