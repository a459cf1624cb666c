"""Which process writes, under every launcher."""

from __future__ import annotations

import pytest

from actial.core.process import is_main_process

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
