"""Stages and answers that another run has already computed: taken over, not computed twice.

A sweep is full of them: each arm's supervised stage, the base model's answers, the arm that two sweeps have in common. Two are the same
where weights, data, settings, seed, packages and this package's own sources are; on one machine they then give the same bits.
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
from omegaconf import OmegaConf

from actial.config import StageName, TrainConfig
from actial.core.atomic_io import write_json
from actial.modeling.hf_checkpoint import fingerprint
from actial.pipeline.preflight import data_identity
from actial.runs.run_dir import Run, config_text, flat, package_versions
from actial.runs.tracking import Tracker

DECISIVE = {
    StageName.sft: ("seed", "model.", "prompt.", "data.", "trainer.", "sft.", "cold_start."),
    StageName.grpo: (
        "seed",
        "model.",
        "prompt.",
        "data.",
        "trainer.",
        "grpo.",
        "reward.",
        "sampler.",
    ),
}


def stage_key(stage: StageName, config: TrainConfig, source: str) -> str:
    """A hash of everything that the outcome of `stage`, started from the model folder `source`, depends on."""
    scored = ("benchmark.", "sampler.") if getattr(config, stage.name).eval_every else ()
    benchmark = config.benchmark if scored else replace(config.benchmark, sets={})
    data = data_identity(replace(config, stages=[stage], benchmark=benchmark))
    weights = _weights(fingerprint(replace(config.model, path=source)))
    return _key(config, DECISIVE[stage] + scored, {"weights": weights, "data": data})


def answers_key(settings: Mapping[str, Any], config: TrainConfig) -> str:
    """A hash of everything that a model's answers to a set depend on; `settings` are those of its predictions."""
    asked = {**settings, "model": _weights(str(settings["model"]))}
    data = data_identity(replace(config, stages=[]))
    return _key(
        config,
        ("model.", "prompt.", "data.", "benchmark.", "sampler.", "trainer."),
        {"asked": asked, "data": data},
    )


def _key(config: TrainConfig, beginnings: tuple[str, ...], facts: Mapping[str, Any]) -> str:
    settings = flat(OmegaConf.create(config_text(config)))
    same = {
        "settings": {
            k: v for k, v in settings.items() if k.startswith(beginnings) and k != "model.path"
        },
        "packages": package_versions(),
        "sources": sources_hash(),
        "threads": torch.get_num_threads(),
        **facts,
    }
    return sha256(json.dumps(same, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def sources_hash() -> str:
    """Of every Python file of this package, as they are when first asked for."""
    root = Path(str(files("actial")))
    digest = sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def reuse_cached_stage(
    stage: StageName, key: str, config: TrainConfig, run: Run, tracker: Tracker
) -> bool:
    """Copy the finished stage that another run below `config.stage_cache_dir` has under this key; False where there is none."""
    for folder, passport in _others(config, run):
        found = passport.get(stage.name, {})
        if found.get("key") != key or not (folder / stage.name / "model").is_dir():
            continue
        other = Run(folder, None, True)
        for log, theirs in ((run.metrics, other.metrics), (run.timings, other.timings)):
            log.rewind(stage.name, 0)
            for row in theirs.rows():
                if row["stage"] == stage.name:
                    values = {
                        name: value for name, value in row.items() if name not in ("stage", "step")
                    }
                    log.write(stage.name, row["step"], values)
                    tracker.log(stage.name, row["step"], values)
        for path in (folder / "rollouts.parquet").glob(f"{stage.name}-*.parquet"):
            (run.folder / "rollouts.parquet").mkdir(exist_ok=True)
            shutil.copy2(path, run.folder / "rollouts.parquet" / path.name)
        mix = f"{stage.name}_mix"
        run.stamp(
            {
                mix: passport[mix],
                stage.name: {**found, "taken_from": found.get("taken_from", str(folder))},
            }
        )
        with tempfile.TemporaryDirectory(dir=run.folder, prefix=f".{stage.name}.") as name:
            shutil.copytree(folder / stage.name, Path(name) / stage.name)
            shutil.rmtree(run.stage_folder(stage.name))
            (Path(name) / stage.name).rename(run.folder / stage.name)
        print(f"{stage.name}: the same stage is finished in {folder}, and taken over")
        return True
    return False


def reuse_cached_answers(
    out: Path, key: str, settings: Mapping[str, Any], config: TrainConfig, run: Run
) -> None:
    """Copy to the folder `out` the answers that another run below `config.stage_cache_dir` has under this key, unless there are some already."""
    if (out / "settings.json").exists():
        return
    for folder, passport in _others(config, run):
        for place, known in passport.get("answers", {}).items():
            theirs = folder / "scores" / place / "predictions.jsonl"
            if known == key and theirs.is_file():
                out.mkdir(parents=True, exist_ok=True)
                write_json(
                    out / "settings.json", dict(settings)
                )  # first: answers that a kill cuts short are then asked for
                shutil.copy2(theirs, out / "predictions.jsonl")
                return


def _others(config: TrainConfig, run: Run) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The other runs below `config.stage_cache_dir` with their passports, in order of their names."""
    for path in (
        sorted(Path(config.stage_cache_dir).rglob("passport.json"))
        if config.stage_cache_dir
        else []
    ):
        if path.parent.resolve() != run.folder.resolve():
            yield path.parent, json.loads(path.read_text())


def _weights(fingerprinted: str) -> str:
    """A folder's weights whatever it is called; a hub id with its revision."""
    path, _, digest = fingerprinted.rpartition("@")
    return digest if Path(path).is_dir() else fingerprinted
