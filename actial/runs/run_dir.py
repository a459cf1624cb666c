"""The run folder: opened, resumed or refused; what it records is a function of the config alone, but for timings.jsonl.

- config.yaml: the resolved config; a folder that holds another one is refused
- passport.json: versions, commit, hashes of data and prompts, parity figures
- metrics.jsonl: one row per logged step, no clock in it, so that two runs with one seed write the same bytes
- timings.jsonl: seconds and rates of the same steps
- results.json: written last; its presence means that the run is finished
"""

from __future__ import annotations

import fcntl
import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import IO, Any

from omegaconf import OmegaConf

from actial.config import StageName, TrainConfig
from actial.config.exit_codes import ERROR
from actial.core.atomic_io import write_json, write_text
from actial.core.errors import UserError
from actial.core.paths import CHECKOUT
from actial.core.process import is_main_process
from actial.runs.renamed_metrics import with_current_names

CONFIG = "config.yaml"
MAY_DIFFER = (
    "run_dir",
    "logger.",
    "stage_cache_dir",
)  # where a run lies, who watches it and what it takes over do not change what it computes
PACKAGES = (
    "actial",
    "torch",
    "transformers",
    "lightning",
    "peft",
    "numpy",
    "hydra-core",
    "omegaconf",
)


class RowLog:
    """A file of JSON rows, one per line, each with "stage" and "step"; a row is on disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row; a value that is not finite becomes null."""
        finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
        with self.path.open("ab") as file:
            file.write(json.dumps({"stage": stage, "step": step, **finite}).encode() + b"\n")

    def rows(self) -> list[dict[str, Any]]:
        """All complete log entries, metrics under today's names; a line cut by a kill is none."""
        if not self.path.exists():
            return []
        *lines, _cut = self.path.read_bytes().split(b"\n")
        return [with_current_names(json.loads(line)) for line in lines]

    def rewind(self, stage: str, step: int) -> None:
        """Forget what came after `step` of `stage`, so that a resumed run continues the file an uninterrupted one would have written."""
        rows = self.rows()
        kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))


@dataclass(slots=True)
class Run:
    """An open run folder; in a `with`, the lock that keeps other processes out is given back at its end."""

    folder: Path
    lock: IO[bytes] | None
    resumed: bool

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.lock is not None:
            self.lock.close()

    @property
    def metrics(self) -> RowLog:
        return RowLog(self.folder / "metrics.jsonl")

    @property
    def timings(self) -> RowLog:
        return RowLog(self.folder / "timings.jsonl")

    @property
    def config_text(self) -> str:
        return (self.folder / CONFIG).read_text()

    @property
    def finished(self) -> bool:
        return (self.folder / "results.json").exists()

    def stage_folder(self, stage: str) -> Path:
        path = self.folder / stage
        path.mkdir(exist_ok=True)
        return path

    def stamp(self, facts: Mapping[str, Any]) -> None:
        """Add facts to passport.json; facts with the same name are replaced."""
        path = self.folder / "passport.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        write_json(path, {**known, **facts})


def open_run(config: TrainConfig) -> Run:
    """Make, or take up again, the folder `config.run_dir`.

    Raises UserError when the folder holds something else, another config, or a run that another process is writing.
    """
    folder = Path(config.run_dir)
    resumed = refuse_unfit(config)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder) if is_main_process() else None
    if not resumed and is_main_process():
        write_text(folder / CONFIG, config_text(config))
    return Run(folder, lock, resumed)


def refuse_unfit(config: TrainConfig) -> bool:
    """Whether `config.run_dir` holds a run of this config; UserError when it holds anything else."""
    folder = Path(config.run_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run_dir={folder} is a file: give a folder.")
    if (folder / CONFIG).exists():
        _refuse_other(
            folder,
            flat(OmegaConf.load(folder / CONFIG)),
            flat(OmegaConf.create(config_text(config))),
            unused(config),
        )
        return True
    if folder.is_dir() and any(
        not path.name.startswith(".") and path.name != ERROR for path in folder.iterdir()
    ):
        raise UserError(
            f"run_dir={folder} holds files but no {CONFIG}, so it is no run of ours: give a new folder."
        )
    return False


def config_text(config: TrainConfig) -> str:
    """The resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def flat(config: Any) -> dict[str, Any]:
    """{"sft.optim.lr": 5e-6, ...} of a nested OmegaConf node."""

    def leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from leaves(value, f"{path}{key}.")
        else:
            yield path[:-1], node

    return dict(leaves(OmegaConf.to_container(config), ""))


def unused(config: TrainConfig) -> tuple[str, ...]:
    """Beginnings of the settings that belong to stages which this run does not have."""
    named = {StageName.sft: ("sft.", "cold_start."), StageName.grpo: ("grpo.", "reward.")}
    return tuple(key for stage, keys in named.items() if stage not in config.stages for key in keys)


def _refuse_other(
    folder: Path, old: dict[str, Any], new: dict[str, Any], idle: tuple[str, ...]
) -> None:
    free = MAY_DIFFER + idle
    differing = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(free)
    ]
    if differing:
        key, rest = differing[0], len(differing) - 1
        more = f" and {rest} more settings differ" if rest else ""
        raise UserError(
            f"run_dir={folder} holds a run with {key}={old.get(key)} where this command has {new.get(key)}{more}: "
            "give another run_dir, or the same settings to resume it."
        )


def _lock(folder: Path) -> IO[bytes]:
    lock = (folder / ".lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(
            f"run_dir={folder} is being written by another process: wait for it, or give another folder."
        ) from None
    return lock


# ---------------------------------------------------------------- provenance


def provenance() -> dict[str, Any]:
    """Versions of Python and of the packages that decide the numbers, and the commit of this package's checkout."""
    return {
        "python": sys.version.split()[0],
        "packages": package_versions(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def package_versions() -> dict[str, str]:
    """Of the packages that decide the numbers."""
    return {name: version(name) for name in PACKAGES}


def _git(*arguments: str) -> str | None:
    if not (CHECKOUT / ".git").exists():  # installed without its checkout
        return None
    return subprocess.run(
        ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


# ---------------------------------------------------------------- being stopped


class StopRequest:
    """Says when called whether SIGTERM or Ctrl-C has been received; training asks between optimiser steps."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self) -> bool:
        return self.received

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C: the user does not want to wait
        self.received = True


@contextmanager
def stop_requested() -> Iterator[StopRequest]:
    """Inside the block, SIGTERM and Ctrl-C only set a flag."""
    request = StopRequest()
    before = {
        number: signal.signal(number, request._receive)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
