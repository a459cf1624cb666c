"""The folders of a sweep: every run below one, what became of it, what is swept, and what its figures rest on."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from actial.config import StageName
from actial.config.exit_codes import ERROR
from actial.core.errors import UserError
from actial.grading.metrics import Prediction
from actial.grading.predictions import read_predictions
from actial.runs.run_dir import CONFIG, MAY_DIFFER, RowLog, flat

OWN_ASSETS = re.compile(r"^/.*/(?=actial/assets/)")


@dataclass(slots=True, kw_only=True)
class RunRecord:
    name: str  # path below the folder that was searched
    folder: Path
    settings: dict[str, Any]  # full key -> value; empty where the run ended before it had a config
    state: str  # finished, unfinished or failed
    reason: str = ""  # of a failed run, its last line

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", -1))

    @property
    def started_trained(self) -> bool:
        """Whether it set out from a model that a stage of another run has left, and not from a base model."""
        folder = Path(str(self.settings.get("model.path")))
        return folder.name == "model" and folder.parent.name in {stage.value for stage in StageName}

    def label(self, model: str) -> str:
        """A model's name in tables: what a run sets out from is "base" to itself, and "start" where it was trained before."""
        return "start" if model == "base" and self.started_trained else model

    @property
    def minutes(self) -> float | None:
        """From its first file to its last, rests of a resumed run included; None where its clocks are not kept."""
        if not (self.folder / "timings.jsonl").exists():
            return None
        begun, ended = ((self.folder / name).stat().st_mtime for name in (CONFIG, "results.json"))
        return round((ended - begun) / 60, 2)

    @property
    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return found

    def predictions(self) -> dict[tuple[str, str], list[Prediction]]:
        """(model's label, set) -> its graded answers."""
        paths = sorted((self.folder / "scores").glob("*/*/predictions.jsonl"))
        return {
            (self.label(path.parts[-3]), path.parts[-2]): read_predictions(path) for path in paths
        }

    def metrics(self, stage: str) -> pd.DataFrame:
        """metrics.jsonl of one stage: a row per logged step, indexed by step."""
        rows = [
            row for row in RowLog(self.folder / "metrics.jsonl").rows() if row["stage"] == stage
        ]
        frame = pd.DataFrame(rows)
        return frame.groupby("step").first(numeric_only=True) if rows else frame


def load_runs(root: Path | str) -> list[RunRecord]:
    """Every run in `root`, sorted by name. Raises UserError where there is none."""
    root = Path(root)
    found = [_record(folder, root) for folder in _run_folders(root)]
    if not found:
        raise UserError(
            f"{root} holds no run of actial.train: give the folder of a sweep, such as runs/ablate_reward."
        )
    return sorted(found, key=lambda run: run.name)


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        if CONFIG in files or ERROR in files:
            below.clear()  # what lies inside a run is the run's
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _record(folder: Path, root: Path) -> RunRecord:
    settings = flat(OmegaConf.load(folder / CONFIG)) if (folder / CONFIG).exists() else {}
    name = str(folder.relative_to(root)) if folder != root else folder.name
    if (folder / "results.json").exists() and settings:
        return RunRecord(name=name, folder=folder, settings=settings, state="finished")
    if (folder / ERROR).exists():
        reason = (folder / ERROR).read_text().strip().splitlines() or [""]
        return RunRecord(
            name=name,
            folder=folder,
            settings=settings,
            state="failed",
            reason=reason[-1].removeprefix("error: "),
        )
    return RunRecord(name=name, folder=folder, settings=settings, state="unfinished")


def finished(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The finished runs, by the values of what is swept (numbers as numbers), then by seed."""
    done = [run for run in runs if run.state == "finished"]
    keys = swept_keys(done)

    def place(run: RunRecord) -> list[tuple[int, float, str]]:
        values = [*(setting(run, key) for key in keys), run.seed]
        return [
            (0, float(v), "") if isinstance(v, int | float) else (1, 0.0, json.dumps(v))
            for v in values
        ]

    return sorted(done, key=place)


def swept_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Settings that differ between runs; the seed within a path, and where the checkout lies, are no difference."""
    keys = sorted({key for run in runs for key in run.settings})
    return [
        key
        for key in keys
        if key != "seed"
        and not key.startswith(MAY_DIFFER)
        and len({json.dumps(setting(run, key)) for run in runs}) > 1
    ]


def setting(run: RunRecord, key: str) -> Any:
    value = run.settings.get(key)
    if not isinstance(value, str):
        return value
    return OWN_ASSETS.sub("", value).replace(f"seed={run.seed}", "seed=*")


def arms(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Run name -> its arm's label: the job's own name without its seed where that is unambiguous, else the settings that differ."""
    keys = swept_keys(runs)
    chosen = {run.name: json.dumps([setting(run, key) for key in keys]) for run in runs}
    short = {
        run.name: re.sub(r"(^|,)(seed=\d+|\+experiment=[^,]*)", "", Path(run.name).name).strip(",")
        for run in runs
    }
    owners: dict[str, set[str]] = {}
    for name, text in short.items():
        owners.setdefault(text, set()).add(chosen[name])
    labels: dict[str, set[str]] = {}
    for name, arm in chosen.items():
        labels.setdefault(arm, set()).add(short[name])
    if all(len(found) == 1 and "" not in found for found in (*owners.values(), *labels.values())):
        return short
    return {
        run.name: ", ".join(f"{key}={setting(run, key)}" for key in keys) or "all runs"
        for run in runs
    }


def provenance(run: RunRecord) -> dict[str, str]:
    """What a figure rests on: data, commit (+ = with uncommitted changes), and hashes of the settings and of what was logged."""
    passport = json.loads((run.folder / "passport.json").read_text())
    data = {name: facts["index_sha256"] for name, facts in passport["data"].items()}
    kept = {key: value for key, value in run.settings.items() if not key.startswith(MAY_DIFFER)}
    logged = b"".join(
        (run.folder / name).read_bytes()
        for name in ("metrics.jsonl", "results.json")
        if (run.folder / name).exists()
    )
    commit = (passport.get("commit") or "unknown")[:8] + (
        "+" if passport.get("uncommitted_changes") else ""
    )
    return {
        "data": _digest(json.dumps(data, sort_keys=True)),
        "commit": commit,
        "config": _digest(json.dumps(kept, sort_keys=True, default=str)),
    } | {"log": blake2b(logged, digest_size=4).hexdigest()}


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=4).hexdigest()
