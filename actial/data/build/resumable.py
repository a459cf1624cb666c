"""Long work in independent parts: each part is a file that is there or not, so a killed run goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_json
from actial.core.errors import UserError
from actial.core.progress import Progress

PARTS = ".build"  # folder of unfinished work inside the output folder

Call = tuple[Callable[..., None], tuple]


def run_parts(
    pool: ProcessPoolExecutor | None, label: str, tasks: Sequence[tuple[Path, Call, int]], unit: str
) -> None:
    """Do the tasks (file, call, size) whose file is not there yet."""
    left = [(call, size) for path, call, size in tasks if not path.is_file()]
    done = sum(size for path, _, size in tasks if path.is_file())
    with Progress(
        label, total=sum(size for _, _, size in tasks), unit=unit, start=done
    ) as progress:
        for size in _completed(pool, left):
            progress.advance(size)


def _completed(
    pool: ProcessPoolExecutor | None, calls: Sequence[tuple[Call, int]]
) -> Iterator[int]:
    if pool is None:
        for (function, arguments), size in calls:
            function(*arguments)
            yield size
        return
    sizes = {pool.submit(function, *arguments): size for (function, arguments), size in calls}
    try:
        for future in as_completed(sizes):
            future.result()
            yield sizes[future]
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


@contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool that starts processes as work comes; None for one process. Spawned: forking beside the display's thread can deadlock."""
    if count == 1:
        yield None
        return
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def claimed(out: Path, identity: Mapping[str, str], part: int | None = None) -> Iterator[None]:
    """`out` belongs to this build: new, or an unfinished one of the same configuration and captures; no other process does the same work.

    The parts of a divided build work side by side; joining them (part None) waits for none and refuses while one runs.
    """
    parts, marker = out / PARTS, out / PARTS / "build.json"
    if not marker.is_file() and out.is_dir() and any(path.name != PARTS for path in out.iterdir()):
        raise UserError(f"out={out} holds other files: give a new folder.")
    parts.mkdir(parents=True, exist_ok=True)
    with (parts / "lock").open("w") as whole, (parts / f"lock-{part}").open("w") as own:
        try:
            fcntl.flock(whole, (fcntl.LOCK_EX if part is None else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"out={out} is being written by another build: wait for it, or give another folder."
            ) from error
        if marker.is_file():
            refuse_other(json.loads(marker.read_text()), identity["config_hash"], out, "unfinished")
            if json.loads(marker.read_text())["captures"] != identity["captures"]:
                raise UserError(
                    f"out={out} was begun with other captures in source.root: remove it, or give another folder."
                )
        else:
            write_json(marker, identity)
        if part is None:
            for stale in [
                *out.glob(".*.tmp"),
                *parts.glob(".*.tmp"),
            ]:  # of a process that was killed
                stale.unlink()
        yield


def refuse_other(written: Mapping[str, Any], identity: str, out: Path, state: str) -> None:
    if written.get("config_hash") != identity:
        raise UserError(
            f"out={out} holds a data set {state} with another configuration: give another folder, or remove it."
        )
