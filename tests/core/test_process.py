"""Which process writes, under every launcher, and which ends with another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from actial.core.process import is_main_process, started_by_first_rank

SRUN = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "actial"}
VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", *SRUN)


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
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
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
