"""What a run reads, looked for before anything heavy is imported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from actial.config import SetConfig, Task, TrainConfig
from actial.errors import UserError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def used_sets(config: TrainConfig) -> dict[str, SetConfig]:
    """The sets on disk that a stage of this run trains on or that are scored, by name."""
    names = {name for stage in config.stages for name, weight in getattr(config, stage.name).mix.weights.items() if weight}
    names |= {source.partition(":")[0] for source in config.benchmark.sets.values()}
    return {name: config.data.sets[name] for name in sorted(names) if config.data.sets[name].task is not Task.clock}


def read_manifest(name: str, config: SetConfig) -> dict[str, Any]:
    """The manifest of a finished data set; UserError when there is none."""
    path = Path(config.root) / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"data.sets.{name}.root={config.root} is no finished data set (no manifest.json): write it with actial.build first."
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def check_data_sets(config: TrainConfig) -> None:
    """Raise UserError for a data set or a split that is not there."""
    manifests = {name: read_manifest(name, source) for name, source in used_sets(config).items()}
    for name, source in config.benchmark.sets.items():
        owner, _, split = source.partition(":")
        if owner in manifests and split not in manifests[owner]["rows"]:
            raise UserError(f"benchmark.sets.{name}={source} has no such split: {owner} has {', '.join(manifests[owner]['rows'])}.")
    for name in manifests.keys() & {name for stage in config.stages for name in getattr(config, stage.name).mix.weights}:
        if "train" not in manifests[name]["rows"]:
            raise UserError(
                f"data.sets.{name}.root={config.data.sets[name].root} has no rows to train on: it has {manifests[name]['rows']}."
            )


def check_model_path(config: TrainConfig) -> None:
    """Raise UserError for a model path that is neither a model folder nor a hub id."""
    folder = Path(config.model.path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"model.path={folder} is no Hugging Face model folder (no config.json): give one, or a hub id.")
    elif not HUB_ID.fullmatch(config.model.path):
        raise UserError(f"model.path={folder} does not exist: give a model folder or a hub id.")
