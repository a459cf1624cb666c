"""Long work in independent tasks: each task writes one file that is there or not.

A killed run goes on where it stopped: tasks whose file exists are done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actial.core.atomic_io import lock_file, write_json
from actial.core.errors import UserError
from actial.core.process import spawn_pool
from actial.core.progress import Progress

WORK = ".build"  # folder of unfinished work inside the output folder
CLAIM = "build.json"  # in it: what the unfinished work is made from


@dataclass(slots=True, frozen=True)
class Task:
    """A call that writes `file`, and its size for the progress display."""

    file: Path
    function: Callable[..., None]
    arguments: tuple[Any, ...]
    size: int

    def __call__(self) -> None:
        self.function(*self.arguments)


def run_tasks(
    pool: ProcessPoolExecutor | None, label: str, tasks: Sequence[Task], unit: str
) -> None:
    """Do the tasks whose file is not there yet, in `pool` or in this process."""
    pending = [task for task in tasks if not task.file.is_file()]
    total = sum(task.size for task in tasks)
    done = total - sum(task.size for task in pending)
    with Progress(label, total=total, unit=unit, start=done) as progress:
        for task in _completed(pool, pending):
            progress.advance(task.size)


def _completed(pool: ProcessPoolExecutor | None, tasks: Sequence[Task]) -> Iterator[Task]:
    """Yield the tasks as they complete; after a failure none that is waiting is begun."""
    if pool is None:
        for task in tasks:
            task()
            yield task
        return
    futures = {pool.submit(task): task for task in tasks}
    try:
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BaseException:  # Ctrl-C too: tasks that have not begun must not keep the process
        pool.shutdown(cancel_futures=True)
        raise


@contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Yield a pool of processes, or None for one process."""
    if count == 1:
        yield None
        return
    with spawn_pool(count) as pool:
        yield pool


@contextmanager
def claimed(out: Path, claim: Mapping[str, str], shard: int | None = None) -> Iterator[None]:
    """Hold the output folder for one build.

    The folder is new, or holds an unfinished build of the same claim; no other process does the
    same work. The shards of a divided build work side by side; joining them (shard None) waits for
    none of them and refuses while one runs.

    Args:
        claim: "config_hash", and "captures" and "files", hashes of what the captures are.

    Raises:
        UserError: the folder holds anything else, or another process writes to it.
    """
    work, marker = out / WORK, out / WORK / CLAIM
    if (
        not marker.is_file()
        and out.is_dir()
        and any(path.name != WORK for path in out.iterdir())
    ):
        raise UserError(f"out={out} holds other files: give a new folder.")
    work.mkdir(parents=True, exist_ok=True)
    in_use = (
        f"out={out} is being written by another build: wait for it, or give another folder."
    )
    with (
        lock_file(work / "lock", in_use, shared=shard is not None),
        lock_file(work / f"lock-{shard}", in_use),
    ):
        if marker.is_file():
            _refuse_other_claim(out, _read_claim(marker), claim)
        else:
            write_json(marker, claim)
        if shard is None:
            for folder in (out, work):
                for stale in folder.glob(".*.tmp"):  # of a process that was killed
                    stale.unlink()
        yield


def _read_claim(marker: Path) -> dict[str, Any]:
    try:
        claim: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        if not {"config_hash", "captures"} <= claim.keys():
            raise ValueError("config_hash and captures belong in it")
        return claim
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{marker} is damaged ({error!r}): remove {marker.parent.parent} and build anew."
        ) from error


def _refuse_other_claim(
    out: Path, written: Mapping[str, Any], claim: Mapping[str, str]
) -> None:
    refuse_other_config(written, claim["config_hash"], out, "unfinished")
    refuse_other_origin(written, claim, out, "unfinished")


def refuse_other_origin(
    written: Mapping[str, Any], origin: Mapping[str, str], out: Path, state: str
) -> None:
    """Raise UserError when `out` holds a set of other captures.

    Sets of earlier versions do not say all of what they were built from.
    """
    for key in ("captures", "files"):
        if key in written and written[key] != origin.get(key):
            raise UserError(
                f"out={out} holds a data set {state} from other captures than those in "
                "source.root: give another folder, or remove it."
            )


def refuse_other_config(
    written: Mapping[str, Any], config_hash: str, out: Path, state: str
) -> None:
    """Raise UserError when `out` holds a set that was built with another configuration."""
    if written.get("config_hash") != config_hash:
        raise UserError(
            f"out={out} holds a data set {state} with another configuration: give another folder, "
            "or remove it."
        )
