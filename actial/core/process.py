"""Which process this is among the ranks of a run, and pools of further processes.

This is the one place that reads the variables of launchers: torchrun sets RANK; srun sets
SLURM_PROCID in every task; Lightning, which starts the other ranks of a node itself, sets
LOCAL_RANK, and NODE_RANK counts its nodes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor

# Jobs in which Lightning does not take its process for a task of srun.
INTERACTIVE_JOBS = ("bash", "interactive")
PARENT_POLL_S = 1.0
PARENT_GRACE_S = 10.0


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


def started_by_first_rank() -> bool:
    """Return whether Lightning has started this process as a further rank of the node."""
    return "RANK" not in os.environ and os.environ.get("LOCAL_RANK", "0") != "0"


def end_with_parent(grace_s: float = PARENT_GRACE_S) -> None:
    """Let this process be killed `grace_s` seconds after the one that started it has ended.

    Otherwise a rank that waits for a dead one in a collective of NCCL holds its GPU until that
    times out, after half an hour.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        time.sleep(grace_s)  # to end by itself, with a message of its own
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def spawn_pool(count: int) -> ProcessPoolExecutor:
    """Return a pool of at most `count` processes, started as work comes.

    They are spawned: forking beside the progress display's thread can deadlock.
    """
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
