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
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

from actial.core.errors import UserError

# Jobs in which Lightning does not take its process for a task of srun.
INTERACTIVE_JOBS = ("bash", "interactive")
PARENT_POLL_S = 1.0
PARENT_GRACE_S = 10.0


def started_by_srun() -> bool:
    """Return whether this process is a task of srun, and not started by such a task."""
    slurm = "SLURM_NTASKS" in os.environ and "SLURM_PROCID" in os.environ
    return slurm and not _slurm_is_interactive() and "LOCAL_RANK" not in os.environ


def check_launcher(devices: int, nodes: int) -> None:
    """Raise UserError where a launcher has not started the processes that a run expects.

    They are one per device, or one per node, which starts the others. Without the
    check each of them would train a run of its own, or Lightning refuse them with a
    traceback.
    """
    if problem := _launch_problem(os.environ, devices, nodes):
        raise UserError(
            f"{problem}, but trainer.devices={devices} and trainer.nodes={nodes} are set: make the "
            "two agree, or unset the variables that another launcher has left."
        )


def _launch_problem(variables: Mapping[str, str], devices: int, nodes: int) -> str:
    """Return which variable of a launcher disagrees with the devices and nodes of a run, or ""."""
    in_slurm = "SLURM_NTASKS" in variables and "LOCAL_RANK" not in variables
    if in_slurm and "RANK" not in variables and not _slurm_is_interactive():
        return _slurm_problem(variables, devices, nodes)
    expected = {"LOCAL_WORLD_SIZE": devices, "WORLD_SIZE": devices * nodes}
    for name, count in expected.items() if "RANK" in variables else ():
        if name in variables and variables[name] != str(count):
            return f"{name}={variables[name]} processes were launched"
    ranks = {"RANK": devices * nodes, "LOCAL_RANK": devices, "NODE_RANK": nodes}
    for name, count in ranks.items():
        if int(variables.get(name, "0")) >= count:
            return f"{name}={variables[name]} names one process of several"
    return ""


def _slurm_problem(variables: Mapping[str, str], devices: int, nodes: int) -> str:
    tasks = variables["SLURM_NTASKS"]
    if tasks == str(nodes) and devices > 1:
        return ""  # a task of each node starts the ranks of it
    if tasks != str(devices * nodes):
        return f"SLURM_NTASKS={tasks} processes were launched"
    expected = {"SLURM_NTASKS_PER_NODE": devices, "SLURM_NNODES": nodes}
    for name, count in expected.items():
        if variables.get(name, str(count)) != str(count):
            return f"{name}={variables[name]} was asked of Slurm"
    if tasks != "1" and "SLURM_NTASKS_PER_NODE" not in variables:
        return f"SLURM_NTASKS={tasks} was asked of Slurm without --ntasks-per-node={devices}"
    return ""


def _slurm_is_interactive() -> bool:
    return os.environ.get("SLURM_JOB_NAME") in INTERACTIVE_JOBS


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
