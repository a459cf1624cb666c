"""How many jobs of a sweep fit on this machine at once."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/memory.max")


def jobs_at_once(
    threads: int,
    gb_per_job: float,
    *,
    cores: int | None = None,
    memory_gb: float | None = None,
) -> int:
    """Return how many jobs of a sweep fit on this machine at once, at least 1.

    A job takes `threads` cores (0 = all) and `gb_per_job` of main memory at its peak. Cores and
    memory are this process's by default.
    """
    cores = cores or len(os.sched_getaffinity(0))
    memory_gb = free_memory_gb() if memory_gb is None else memory_gb
    return max(1, min(cores // (threads or cores), int(memory_gb / gb_per_job)))


def free_memory_gb() -> float:
    """Return the available main memory in GiB, or a container's limit where that is lower."""
    sizes = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(sizes["MemAvailable"].split()[0]) / 2**20
    limit = CGROUP.read_text().strip() if CGROUP.exists() else "max"
    return free if limit == "max" else min(free, int(limit) / 2**30)
