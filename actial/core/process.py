"""Which process this is among the ranks of a run."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this is the process that writes; Lightning's launchers set the rank before they start the others."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
