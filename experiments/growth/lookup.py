"""Seconds of a lookup of shared stages against the number of runs below a folder.

A run has the provenance of two stages and 40 further files in 4 folders.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from actial.core.atomic_io import write_json
from actial.pipeline.key_index import INDEX, runs_with_key
from actial.runs.provenance import PROVENANCE, read_provenance

HEADER = (
    "| runs | every file walked, all provenance read, s | index, first lookup, s | "
    "index, later lookups, s | one run changed, s | process at its peak, MiB |\n"
    "| ---: | ---: | ---: | ---: | ---: | ---: |"
)


def measure_lookup(scratch: Path, sizes: Sequence[int]) -> list[str]:
    """The lines of the table."""
    lines = [*HEADER.splitlines()]
    for count in sizes:
        root = scratch / str(count)
        shutil.rmtree(root, ignore_errors=True)
        for number in range(count):
            add_run(root / f"sweep{number % 7}" / str(number), f"key{number}")
        wanted = f"key{count - 1}"
        walked = seconds(lambda root=root, wanted=wanted: walk(root, wanted))
        (root / INDEX).unlink(missing_ok=True)
        first, later = (
            seconds(lambda root=root, wanted=wanted: runs_with_key(root, wanted)) for _ in "12"
        )
        add_run(root / "sweep0" / "0", "other")
        changed = seconds(lambda root=root, wanted=wanted: runs_with_key(root, wanted))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures = " | ".join(f"{value:.4f}" for value in (walked, first, later, changed))
        lines.append(f"| {count} | {figures} | {peak:.0f} |")
        shutil.rmtree(root)
    return lines


def add_run(folder: Path, key: str) -> None:
    """Write what a finished run leaves, as far as a lookup may meet it."""
    for inner in ("checkpoints/00020", "sft/model", "grpo/model", "scores/m.set"):
        (folder / inner).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            (folder / inner / f"file{number}").touch()
    filler = {f"setting{number}": "value" for number in range(200)}
    write_json(folder / PROVENANCE, {"sft": {"key": key}, "answers": {"m/s": key}, **filler})


def walk(root: Path, key: str) -> list[Path]:
    """The lookup without an index: what `stage_cache_dir` did once per stage."""
    folders = sorted(path.parent for path in root.rglob(PROVENANCE))
    return [folder for folder in folders if key in json.dumps(read_provenance(folder))]


def seconds(action: Callable[[], list[Path]]) -> float:
    """Process seconds of an action that must find one run."""
    started = time.process_time()
    assert len(action()) == 1
    return time.process_time() - started
