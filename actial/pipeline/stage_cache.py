"""Stages and answers of earlier runs, copied instead of computed again (stage_cache_dir).

Sweeps repeat the same work: the SFT stage of every condition, the answers of
the base model, the condition that two sweeps share. Two computations count as
the same where weights, data, settings, seed, package versions and the sources
of this package are equal; on one machine they then give the same bits.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from actial.config import StageName, TrainConfig
from actial.core.atomic_io import write_text
from actial.core.sealed_files import write_checksums, write_sealed_json
from actial.modeling.hf_checkpoint import fingerprint
from actial.modeling.saved_settings import FILE, saved_file
from actial.pipeline.key_index import runs_with_key
from actial.pipeline.preflight import data_identity
from actial.runs.provenance import package_versions, read_provenance
from actial.runs.run_dir import Run, settings_of
from actial.runs.step_log import StepLog
from actial.runs.tracking import Tracker

SHARED_SETTINGS = ("seed", "model.", "prompt.", "data.", "trainer.")
# Prefixes of the settings that decide the outcome of a stage.
STAGE_SETTINGS = {
    StageName.sft: (*SHARED_SETTINGS, "sft.", "cold_start."),
    StageName.grpo: (*SHARED_SETTINGS, "grpo.", "reward.", "sampler."),
}
ANSWER_SETTINGS = ("model.", "prompt.", "data.", "benchmark.", "sampler.", "trainer.")


def stage_key(stage: StageName, config: TrainConfig, source: str) -> str:
    """Return a hash of everything that decides the outcome of `stage` from the model `source`."""
    settings = STAGE_SETTINGS[stage]
    scored_sets: dict[str, str] = {}
    if getattr(config, stage.name).eval_every:
        settings += ("benchmark.", "sampler.")
        scored_sets = config.benchmark.sets
    benchmark = replace(config.benchmark, sets=scored_sets)
    data = data_identity(replace(config, stages=[stage], benchmark=benchmark))
    weights = _weights(fingerprint(replace(config.model, path=source)))
    return _key(config, settings, {"weights": weights, "data": data})


def answers_key(settings: Mapping[str, Any], config: TrainConfig) -> str:
    """Return a hash of everything that decides a model's answers to a set.

    `settings` are those that its predictions were made with.
    """
    evaluation = {**settings, "model": _weights(str(settings["model"]))}
    data = data_identity(replace(config, stages=[]))
    return _key(config, ANSWER_SETTINGS, {"asked": evaluation, "data": data})


def _key(config: TrainConfig, prefixes: tuple[str, ...], content: Mapping[str, Any]) -> str:
    settings = {
        key: value
        for key, value in settings_of(config).items()
        if key.startswith(prefixes) and key != "model.path"
    }
    decisive = {
        "settings": settings,
        "packages": package_versions(),
        "sources": sources_hash(),
        "threads": torch.get_num_threads(),
        **content,
    }
    return sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def sources_hash() -> str:
    """Return a hash of every Python file of this package, as they are at the first call."""
    root = Path(str(files("actial")))
    digest = sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def reuse_cached_stage(
    stage: StageName, key: str, config: TrainConfig, run: Run, tracker: Tracker
) -> bool:
    """Copy the stage that another run below `config.stage_cache_dir` has finished under `key`.

    Returns False where there is none.
    """
    for folder, provenance in _other_runs(key, config, run):
        finished = provenance.get(stage.name, {})
        if finished.get("key") != key or not (folder / stage.name / "model").is_dir():
            continue
        _copy_logs(stage.name, folder, run, tracker)
        mix = f"{stage.name}_mix"
        origin = finished.get("reused_from", finished.get("taken_from", str(folder)))
        values = {name: value for name, value in finished.items() if name != "taken_from"}
        run.add_provenance(
            {mix: provenance[mix], stage.name: {**values, "reused_from": origin}}
        )
        # last: the model folder marks the stage done
        _copy_stage_folder(stage.name, folder, run, saved_file(config))
        print(f"{stage.name}: reused the same stage, finished in {folder}")
        return True
    return False


def _copy_logs(stage: str, other: Path, run: Run, tracker: Tracker) -> None:
    """Copy the log entries and logged rollouts of a stage, and send the entries to the tracker."""
    for log in (run.metrics, run.timings):
        log.rewind(stage, 0)
        for entry in StepLog(other / log.path.name).entries(stage):
            step = entry["step"]
            values = {name: entry[name] for name in entry if name not in ("stage", "step")}
            log.write(stage, step, values)
            tracker.log(stage, step, values)
    for path in (other / "rollouts.parquet").glob(f"{stage}-*.parquet"):
        (run.folder / "rollouts.parquet").mkdir(exist_ok=True)
        shutil.copy2(path, run.folder / "rollouts.parquet" / path.name)


def _copy_stage_folder(
    stage: str, other: Path, run: Run, saved_settings: Mapping[str, str]
) -> None:
    """Copy the stage folder under a temporary name and rename it, so that no half of it remains.

    Its models get the settings that this run saves: the other one may have no GRPO stage, and so
    another token limit.
    """
    with tempfile.TemporaryDirectory(dir=run.folder, prefix=f".{stage}.") as name:
        shutil.copytree(other / stage, Path(name) / stage)
        for path in (Path(name) / stage).glob(f"*/{FILE}"):
            write_text(path, saved_settings[FILE])
            write_checksums(path.parent)
        shutil.rmtree(run.stage_folder(stage))
        (Path(name) / stage).rename(run.folder / stage)


def reuse_cached_answers(
    out: Path, key: str, settings: Mapping[str, Any], config: TrainConfig, run: Run
) -> None:
    """Copy into the folder `out` the answers that another run has under `key`.

    Does nothing where `out` has answers already or no run below `config.stage_cache_dir` has them.
    """
    if (out / "settings.json").exists():
        return
    for folder, provenance in _other_runs(key, config, run):
        for model_and_set, other_key in provenance.get("answers", {}).items():
            predictions = folder / "scores" / model_and_set / "predictions.jsonl"
            if other_key == key and predictions.is_file():
                out.mkdir(parents=True, exist_ok=True)
                # Settings first: if a kill cuts the copy short, the missing answers are generated.
                write_sealed_json(out / "settings.json", dict(settings))
                shutil.copy2(predictions, out / "predictions.jsonl")
                return


def _other_runs(
    key: str, config: TrainConfig, run: Run
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the other runs below `config.stage_cache_dir` that have `key`, with provenance."""
    if not config.stage_cache_dir:
        return
    for folder in runs_with_key(Path(config.stage_cache_dir), key):
        if folder.resolve() != run.folder.resolve():
            yield folder, read_provenance(folder)


def _weights(fingerprinted: str) -> str:
    """Return the hash of a folder's weights whatever it is called; a hub id with its revision."""
    path, _, digest = fingerprinted.rpartition("@")
    return digest if Path(path).is_dir() else fingerprinted
