"""How many jobs of a sweep fit on this machine at once."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/memory.max")


def jobs_at_once(
    threads: int, gb_per_job: float, *, cores: int | None = None, memory_gb: float | None = None
) -> int:
    """At least 1; `threads` a job (0 = all cores), `gb_per_job` its peak of main memory. Cores and memory are this process's by default."""
    cores = cores or len(os.sched_getaffinity(0))
    memory_gb = free_memory_gb() if memory_gb is None else memory_gb
    return max(1, min(cores // (threads or cores), int(memory_gb / gb_per_job)))


def free_memory_gb() -> float:
    """Available main memory, or the limit of a container where that is lower."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) / 2**20
    limit = CGROUP.read_text().strip() if CGROUP.exists() else "max"
    return free if limit == "max" else min(free, int(limit) / 2**30)
