"""What a run reads, looked for before anything heavy is imported."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from actial.config import SetConfig, Task, TrainConfig
from actial.core.errors import UserError
from actial.data.shards import read_manifest

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def used_sets(config: TrainConfig) -> dict[str, SetConfig]:
    """The sets on disk that a stage of this run trains on or that are scored, by name."""
    names = {
        name
        for stage in config.stages
        for name, weight in getattr(config, stage.name).mix.weights.items()
        if weight
    }
    names |= {source.partition(":")[0] for source in config.benchmark.sets.values()}
    return {
        name: config.data.sets[name]
        for name in sorted(names)
        if config.data.sets[name].task is not Task.clock
    }


def data_identity(config: TrainConfig) -> dict[str, Any]:
    """What the run's data are, by hash: of each set its index, of each file of pass rates and chains its bytes."""
    found: dict[str, Any] = {}
    for name, source in used_sets(config).items():
        manifest = read_manifest(name, source)
        found[name] = {key: manifest.get(key) for key in ("rows", "config_hash", "index_sha256")}
        if source.pass_rates:
            found[name]["pass_rates"] = _sha256(Path(source.pass_rates))
    if config.cold_start.source != "grounded":
        found["cold_start"] = _sha256(Path(config.cold_start.source))
    return found


def _sha256(path: Path) -> str | None:
    return (
        sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    )  # whoever reads it says that it is missing


def _differs(begun: Any, known: Any) -> bool:
    """What was missing when the run began cannot have been trained on: it may be there by now."""
    if isinstance(begun, dict) and isinstance(known, dict):
        return any(_differs(value, known.get(key)) for key, value in begun.items())
    return begun is not None and begun != known


def refuse_changed_data(config: TrainConfig, folder: Path) -> None:
    """Raise UserError when the run in `folder` was begun with other data than are there now."""
    path = folder / "passport.json"
    begun = json.loads(path.read_text()).get("data", {}) if path.is_file() else {}
    if changed := sorted(
        name for name, known in data_identity(config).items() if _differs(begun.get(name), known)
    ):
        raise UserError(
            f"run_dir={folder} was begun with another data set {changed[0]}, which has been built or written anew since: "
            "put the old one back, or give another run_dir."
        )


def check_data_sets(config: TrainConfig) -> None:
    """Raise UserError for a data set or a split that is not there."""
    manifests = {name: read_manifest(name, source) for name, source in used_sets(config).items()}
    for name, source in config.benchmark.sets.items():
        owner, _, split = source.partition(":")
        if owner in manifests and split not in manifests[owner]["rows"]:
            raise UserError(
                f"benchmark.sets.{name}={source} has no such split: {owner} has {', '.join(manifests[owner]['rows'])}."
            )
    for name in manifests.keys() & {
        name for stage in config.stages for name in getattr(config, stage.name).mix.weights
    }:
        if "train" not in manifests[name]["rows"]:
            raise UserError(
                f"data.sets.{name}.root={config.data.sets[name].root} has no rows to train on: it has {manifests[name]['rows']}."
            )


def check_model_path(config: TrainConfig) -> None:
    """Raise UserError for a model path that is neither a model folder nor a hub id."""
    folder = Path(config.model.path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"model.path={folder} is no Hugging Face model folder (no config.json): give one, or a hub id."
            )
    elif not HUB_ID.fullmatch(config.model.path):
        raise UserError(f"model.path={folder} does not exist: give a model folder or a hub id.")
