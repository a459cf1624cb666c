"""The run folder of `actial.train`: created, resumed, or refused.

Everything in it but timings.jsonl and wandb's files is a function of the configuration alone:

- config.yaml: the resolved configuration; a folder that holds another one is refused
- provenance.json: versions, commit, hashes of data and prompts
- metrics.jsonl: one entry per logged step, without clock times: the same seed writes the same bytes
- timings.jsonl: seconds and rates of the same steps
- wandb_id.txt: with logger=wandb, the id of its run
- results.json: written last; its presence means that the run is finished
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from actial.config import Reader, StageName, TrainConfig
from actial.config.exit_codes import ERROR
from actial.config.renamed_keys import with_present_keys
from actial.core.atomic_io import lock_file, write_text
from actial.core.errors import UserError
from actial.core.line_counts import RESULTS, check_all_line_counts
from actial.core.process import is_main_process
from actial.runs.provenance import add_provenance, read_provenance
from actial.runs.step_log import StepLog

CONFIG = "config.yaml"
SEAL = "# sha256 of the text below: "
# Where a run lies, who watches it and whose stages it reuses do not change what it computes.
NOT_COMPARED = ("run_dir", "logger.", "stage_cache_dir")
# Memory, speed and what is saved, not results: a run may be resumed with others, after an
# out-of-memory say. (Another micro-batch size adds up the same terms in another order, which
# rounding can show.) Not log_every, by which metrics.jsonl is checked for lost lines.
RESUMABLE_CHANGES = (
    "model.micro_batch_tokens",
    "model.head_chunk_tokens",
    "model.gradient_checkpointing",
    "trainer.memory_gib",
    "sft.save_every",
    "grpo.save_every",
    "benchmark.batch_size",
    "sampler.batch_size",
    "sampler.concurrency",
    "sampler.timeout_s",
    "sampler.start_timeout_s",
    "sampler.restarts",
    "sampler.engine.gpu_memory_utilization",
    "sampler.engine.max_num_seqs",
    "sampler.engine.max_num_batched_tokens",
    "sampler.engine.enforce_eager",
    "data.workers",
)

ENGINE = "sampler.engine"

# What the kill of a process can leave: files half written, model and stage folders half copied,
# checkpoints half saved.
LEFTOVERS = (
    ".*.tmp",
    "*/.*.tmp",
    "scores/**/.*.tmp",
    "*/.model.*",
    "checkpoints/*/.*",
    ".sft.*",
    ".grpo.*",
)


@dataclass(slots=True)
class Run:
    """An open run folder; leaving its `with` block releases the lock against other processes."""

    folder: Path
    lock: IO[bytes] | None
    resumed: bool

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.lock is not None:
            self.lock.close()

    @property
    def metrics(self) -> StepLog:
        return StepLog(self.folder / "metrics.jsonl")

    @property
    def timings(self) -> StepLog:
        return StepLog(self.folder / "timings.jsonl")

    @property
    def finished(self) -> bool:
        return (self.folder / RESULTS).exists()

    @property
    def provenance(self) -> dict[str, Any]:
        return read_provenance(self.folder)

    def stage_folder(self, stage: str) -> Path:
        """Return the folder of a stage, created where it does not exist."""
        path = self.folder / stage
        path.mkdir(exist_ok=True)
        return path

    def add_provenance(self, values: Mapping[str, Any]) -> None:
        """Write `values` into provenance.json, on rank 0; a value of the same name is replaced."""
        if is_main_process():
            add_provenance(self.folder, values)


def open_run(config: TrainConfig) -> Run:
    """Create or resume the folder `config.run_dir`.

    Raises UserError when the folder holds something else or a run of another
    configuration, when another process writes to it, or when a finished run's logs have
    lost lines.
    """
    folder = Path(config.run_dir)
    resumed = resumes_run(config)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder) if is_main_process() else None
    if is_main_process():
        remove_leftovers(folder)
        if resumed:
            if (folder / RESULTS).exists():
                check_all_line_counts(folder)
            _record_changes(folder, config)
        else:
            _write_config(folder, config)
    return Run(folder, lock, resumed)


def resumes_run(config: TrainConfig) -> bool:
    """Return whether `config.run_dir` holds a run of this configuration.

    Raises UserError when the folder holds anything else.
    """
    folder = Path(config.run_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run_dir={folder} is a file: give a folder.")
    if (folder / CONFIG).exists():
        _refuse_other_settings(folder, config)
        return True
    if folder.is_dir():
        ours = [
            path
            for path in folder.iterdir()
            if path.name.startswith(".") or path.name == ERROR
        ]
        if len(ours) < len(list(folder.iterdir())):
            raise UserError(
                f"run_dir={folder} holds files but no {CONFIG}, so it is no run of actial: "
                "give a new folder."
            )
    return False


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process has left in a run folder."""
    for pattern in LEFTOVERS:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _record_changes(folder: Path, config: TrainConfig) -> None:
    """Write the settings that this resume changes into config.yaml and provenance.json."""
    stored, given = flatten(read_settings(folder)), settings_of(config)
    changes = {
        key: [stored.get(key), given.get(key)]
        for key in sorted(stored.keys() | given.keys())
        if key.startswith(RESUMABLE_CHANGES) and stored.get(key) != given.get(key)
    }
    if changes:
        earlier = read_provenance(folder).get("changed_settings", [])
        add_provenance(folder, {"changed_settings": [*earlier, changes]})
        status = (folder / CONFIG).stat()
        _write_config(folder, config)
        os.utime(
            folder / CONFIG, ns=(status.st_atime_ns, status.st_mtime_ns)
        )  # the run's start


def _write_config(folder: Path, config: TrainConfig) -> None:
    """Write config.yaml with the checksum of its text as a comment on the first line."""
    text = config_text(config)
    write_text(folder / CONFIG, f"{SEAL}{sha256(text.encode()).hexdigest()}\n{text}")


def config_text(config: TrainConfig) -> str:
    """Return the resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """Return the configuration as {"sft.optim.lr": 5e-6, ...}."""
    return flatten(OmegaConf.to_container(OmegaConf.create(config_text(config))))


def read_settings(run_folder: Path) -> dict[str, Any]:
    """Return config.yaml of a run folder as nested plain data under today's keys.

    A configuration that is read from a folder is data: interpolations stay text. Raises UserError
    for a damaged file.
    """
    path = run_folder / CONFIG
    content = path.read_bytes()
    first, _, rest = content.partition(b"\n")
    cause = ""
    if first.startswith(SEAL.encode()) and first[len(SEAL) :] != _sha256(rest):
        cause = "its text is not what was written: if you changed it, remove its first line"
    else:
        try:
            settings: Any = OmegaConf.to_container(
                OmegaConf.create(content.decode()), resolve=False
            )
            if isinstance(settings, dict) and settings:
                return with_present_keys(settings)
            cause = "it holds no settings"
        except (ValueError, YAMLError, OmegaConfBaseException) as error:
            cause = str(error).splitlines()[0]
    raise UserError(
        f"{path} is damaged ({cause}): put a copy back, or remove this run folder and train anew."
    )


def _sha256(content: bytes) -> bytes:
    return sha256(content).hexdigest().encode()


def flatten(settings: Any) -> dict[str, Any]:
    """Return {"sft.optim.lr": 5e-6, ...} of nested settings; an empty mapping is a value."""

    def leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from leaves(value, f"{path}{key}.")
        else:
            yield path[:-1], node

    return dict(leaves(settings, ""))


def settings_of_absent_stages(config: TrainConfig) -> tuple[str, ...]:
    """Return the key prefixes of settings that no stage of this run reads."""
    prefixes = {StageName.sft: ("sft.", "cold_start."), StageName.grpo: ("grpo.", "reward.")}
    absent = [stage for stage in prefixes if stage not in config.stages]
    return tuple(prefix for stage in absent for prefix in prefixes[stage])


def _refuse_other_settings(folder: Path, config: TrainConfig) -> None:
    stored, given = flatten(read_settings(folder)), settings_of(config)
    # Settings that are newer than the run had their defaults in it.
    defaults = flatten(
        OmegaConf.to_container(
            OmegaConf.create(OmegaConf.to_yaml(OmegaConf.structured(TrainConfig)))
        )
    )
    newer = given.keys() - stored.keys()
    stored |= {key: defaults.get(key) for key in newer}
    # Runs older than this setting weighed half of the answers, whatever the base's now says.
    stored |= {key: given[key] for key in newer if key.endswith(".weighed_share")}
    ignored = NOT_COMPARED + RESUMABLE_CHANGES + settings_of_absent_stages(config)
    if config.data.reader is Reader.stream:  # each worker reads a stream of its own
        ignored = tuple(key for key in ignored if key != "data.workers")
    compared = [
        key for key in sorted(stored.keys() | given.keys()) if not key.startswith(ignored)
    ]
    # An engine without settings of its own is an empty mapping, one with some has none of it.
    differing = [
        key
        for key in compared
        if stored.get(key) != given.get(key)
        and not (key == ENGINE and {} in (stored.get(key), given.get(key)))
    ]
    if not differing:
        return
    key, others = differing[0], len(differing) - 1
    more = f" and {others} more settings differ" if others else ""
    raise UserError(
        f"run_dir={folder} holds a run with {key}={stored.get(key)} where this command has "
        f"{given.get(key)}{more}: give another run_dir, or the same settings to resume it."
    )


def _lock(folder: Path) -> IO[bytes]:
    return lock_file(
        folder / ".lock",
        f"run_dir={folder} is being written by another process: wait for it, or give another "
        "folder.",
    )
