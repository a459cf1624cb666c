"""The runs below a folder: their state, what a sweep varies, and what figures rest on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd

from actial.config import StageName
from actial.config.exit_codes import ERROR
from actial.core.errors import UserError
from actial.core.line_counts import check_all_line_counts
from actial.evaluation.results import Results
from actial.grading.metrics import Prediction
from actial.grading.predictions import read_predictions
from actial.runs.provenance import read_provenance
from actial.runs.run_dir import CONFIG, NOT_COMPARED, RESULTS, flatten, read_settings
from actial.runs.step_log import StepLog

OWN_ASSETS = re.compile(r"^/.*/(?=actial/assets/)")
SEED_OR_EXPERIMENT = re.compile(r"(^|,)(seed=\d+|\+experiment=[^,]*)")


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """A run folder as the analysis reads it."""

    name: str  # path below the folder that was searched
    folder: Path
    settings: dict[
        str, Any
    ]  # full key -> value; empty where the run ended before it had a config
    state: str  # finished, unfinished or failed
    reason: str = ""  # of a failed run, its last line
    _read: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", -1))

    @property
    def started_trained(self) -> bool:
        """Whether the run started from a model that a stage of another run has trained."""
        folder = Path(str(self.settings.get("model.path")))
        stages = {stage.value for stage in StageName}
        return folder.name == "model" and folder.parent.name in stages

    def label(self, model: str) -> str:
        """Return a model's name for tables: "start" for the base of a run that started trained."""
        return "start" if model == "base" and self.started_trained else model

    @property
    def minutes(self) -> float | None:
        """Minutes from the first file to the last, pauses of a resumed run included.

        None where the run folder has no timings.
        """
        if not (self.folder / "timings.jsonl").exists():
            return None
        started = (self.folder / CONFIG).stat().st_mtime
        ended = (self.folder / RESULTS).stat().st_mtime
        return round((ended - started) / 60, 2)

    @property
    def results(self) -> Results:
        return Results.read(self.folder)

    def predictions(self) -> dict[tuple[str, str], list[Prediction]]:
        """Return the graded answers as {(model's label, set): predictions}.

        Raises UserError where those of a finished run are not all there.
        """
        if self.state == "finished":
            check_all_line_counts(self.folder)
        paths = sorted((self.folder / "scores").glob("*/*/predictions.jsonl"))
        return {
            (self.label(path.parts[-3]), path.parts[-2]): read_predictions(path)
            for path in paths
        }

    def metrics(self, stage: str) -> pd.DataFrame:
        """Return metrics.jsonl of one stage: one line per logged step, indexed by step.

        A stage is read once; the frame is the callers' to read, not to change.
        """
        if stage not in self._read:
            frame = pd.DataFrame(StepLog(self.folder / "metrics.jsonl").entries(stage))
            if not frame.empty:
                frame = frame.groupby("step").first(numeric_only=True)
            self._read[stage] = frame
        return self._read[stage]


def load_runs(root: Path | str) -> list[RunRecord]:
    """Return every run below `root`, sorted by name. Raises UserError where there is none."""
    root = Path(root)
    runs = [_record(folder, root) for folder in _run_folders(root)]
    if not runs:
        raise UserError(
            f"{root} holds no run of actial.train: give the folder of a sweep, such as "
            "runs/ablate_reward."
        )
    return sorted(runs, key=lambda run: run.name)


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        if CONFIG in files or ERROR in files:
            below.clear()  # folders inside a run belong to it
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _record(folder: Path, root: Path) -> RunRecord:
    settings = flatten(read_settings(folder)) if (folder / CONFIG).exists() else {}
    name = str(folder.relative_to(root)) if folder != root else folder.name
    run = RunRecord(name=name, folder=folder, settings=settings, state="unfinished")
    if (folder / RESULTS).exists() and settings:
        run.state = "finished"
    elif (folder / ERROR).exists():
        run.state = "failed"
        lines = (folder / ERROR).read_text(errors="replace").strip().splitlines() or [""]
        run.reason = lines[-1].removeprefix("error: ")
    return run


def finished(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the finished runs, by the values of the swept settings, then by seed."""
    done = [run for run in runs if run.state == "finished"]
    keys = swept_keys(done)

    def sort_key(run: RunRecord) -> list[tuple[int, float, str]]:
        values = [*(setting(run, key) for key in keys), run.seed]
        return [_number_first(value) for value in values]

    return sorted(done, key=sort_key)


def _number_first(value: Any) -> tuple[int, float, str]:
    """A sort key that puts numbers before everything else and orders them as numbers."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, json.dumps(value)


def swept_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Return the settings that differ between runs.

    The seed, a seed within a path, and the folder of the checkout are no difference.
    """
    keys = {key for run in runs for key in run.settings}
    compared = [
        key for key in sorted(keys) if key != "seed" and not key.startswith(NOT_COMPARED)
    ]
    return [
        key for key in compared if len({json.dumps(setting(run, key)) for run in runs}) > 1
    ]


def setting(run: RunRecord, key: str) -> Any:
    """Return a setting, in paths without the run's seed and the folder of the checkout."""
    value = run.settings.get(key)
    if not isinstance(value, str):
        return value
    return OWN_ASSETS.sub("", value).replace(f"seed={run.seed}", "seed=*")


def conditions(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return run name -> label of its condition.

    The label is the job's own name without its seed where that is unambiguous, else the settings
    that differ.
    """
    keys = swept_keys(runs)
    settings = {run.name: json.dumps([setting(run, key) for key in keys]) for run in runs}
    short = {
        run.name: SEED_OR_EXPERIMENT.sub("", Path(run.name).name).strip(",") for run in runs
    }
    if "" not in short.values() and _one_to_one(short, settings):
        return short
    return {run.name: _described(run, keys) for run in runs}


def _one_to_one(labels: dict[str, str], conditions: dict[str, str]) -> bool:
    """Whether each label names one condition and each condition has one label."""
    pairs = {(labels[name], conditions[name]) for name in labels}
    return len(pairs) == len(set(labels.values())) == len(set(conditions.values()))


def _described(run: RunRecord, keys: Sequence[str]) -> str:
    return ", ".join(f"{key}={setting(run, key)}" for key in keys) or "all runs"


def provenance_hashes(run: RunRecord) -> dict[str, str]:
    """Return what a figure rests on: data, commit, and hashes of the settings and of the log.

    A "+" behind the commit stands for uncommitted changes.
    """
    provenance = read_provenance(run.folder)
    data = provenance.get("data", {})  # lost with a provenance.json that was removed
    indexes = {name: identity["index_sha256"] for name, identity in data.items()}
    settings = {k: v for k, v in run.settings.items() if not k.startswith(NOT_COMPARED)}
    paths = [run.folder / name for name in ("metrics.jsonl", RESULTS)]
    logged = b"".join(path.read_bytes() for path in paths if path.exists())
    commit = (provenance.get("commit") or "unknown")[:8]
    return {
        "data": _digest(json.dumps(indexes, sort_keys=True).encode()),
        "commit": commit + ("+" if provenance.get("uncommitted_changes") else ""),
        "config": _digest(json.dumps(settings, sort_keys=True, default=str).encode()),
        "log": _digest(logged),
    }


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=4).hexdigest()
