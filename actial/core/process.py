"""Which process this is among the ranks of a run, and pools of further processes.

This is the one place that reads the variables of launchers: torchrun sets RANK; srun sets
SLURM_PROCID in every task; Lightning, which starts the other ranks of a node itself, sets
LOCAL_RANK, and NODE_RANK counts its nodes.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

# Jobs in which Lightning does not take its process for a task of srun.
INTERACTIVE_JOBS = ("bash", "interactive")


def started_by_srun() -> bool:
    """Return whether this process is a task of srun, and not started by such a task."""
    slurm = "SLURM_NTASKS" in os.environ and "SLURM_PROCID" in os.environ
    interactive = os.environ.get("SLURM_JOB_NAME") in INTERACTIVE_JOBS
    return slurm and not interactive and "LOCAL_RANK" not in os.environ


def is_main_process() -> bool:
    """Return whether this is rank 0, the process that writes; True where nothing is launched."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    if started_by_srun():
        return os.environ["SLURM_PROCID"] == "0"
    node_rank = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return node_rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def spawn_pool(count: int) -> ProcessPoolExecutor:
    """Return a pool of at most `count` processes, started as work comes.

    They are spawned: forking beside the progress display's thread can deadlock.
    """
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
