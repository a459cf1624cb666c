"""Which process this is among the ranks of a run, and pools of further processes."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor


def is_main_process() -> bool:
    """Tell whether this is the process that writes.

    Lightning's launchers set the rank before they start the others.
    """
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def spawn_pool(count: int) -> ProcessPoolExecutor:
    """Return a pool of at most `count` processes, started as work comes.

    They are spawned: forking beside the progress display's thread can deadlock.
    """
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))
