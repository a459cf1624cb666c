"""Checks of what a run reads, made before anything heavy is imported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from actial.config import WORDS_ONLY, ColdStartConfig, SetConfig, StageName, Task, TrainConfig
from actial.core.atomic_io import file_sha256
from actial.core.errors import UserError
from actial.core.process import check_launcher
from actial.core.sealed_files import refuse_changed_model
from actial.data.shards import read_manifest
from actial.data.teacher_chains import check_chains_file
from actial.modeling.adapter_folder import base_of, is_adapter
from actial.runs.provenance import read_provenance

VIEWPOINT_SOURCES = ("viewpoint_100k",)  # question sets that a teacher can write about
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_inputs(config: TrainConfig) -> None:
    """Raise UserError for a launcher, a data set or a model that does not fit the configuration."""
    check_launcher(config.trainer.devices, config.trainer.nodes)
    check_data_sets(config)
    check_model_path(config)


def used_sets(config: TrainConfig) -> dict[str, SetConfig]:
    """Return the sets on disk that a stage trains on or that are scored, by name."""
    names = training_sets(config)
    names |= {source.partition(":")[0] for source in config.benchmark.sets.values()}
    sets = {name: config.data.sets[name] for name in sorted(names)}
    return {name: source for name, source in sets.items() if source.task not in WORDS_ONLY}


def training_sets(config: TrainConfig) -> set[str]:
    """Return the names of the sets that a stage trains on."""
    mixes = [getattr(config, stage.name).mix for stage in config.stages]
    return {name for mix in mixes for name, weight in mix.weights.items() if weight}


def data_identity(config: TrainConfig) -> dict[str, Any]:
    """Return hashes of the run's data: set indexes, pass rates, chains of thought."""
    identity: dict[str, Any] = {}
    for name, source in used_sets(config).items():
        manifest = read_manifest(name, source)
        identity[name] = {
            key: manifest.get(key) for key in ("rows", "config_hash", "index_sha256")
        }
        if source.pass_rates:
            identity[name]["pass_rates"] = _sha256(Path(source.pass_rates))
    texts = {"wording": config.data.wording, "system_prompt": config.prompt.system_prompt}
    for name, setting in texts.items():
        if setting.startswith("file:"):
            identity[name] = _sha256(Path(setting.removeprefix("file:")))
    if config.cold_start.source != "grounded":
        identity["cold_start"] = _sha256(Path(config.cold_start.source))
    return identity


def _sha256(path: Path) -> str | None:
    """Return the hash of a file; None for a missing one, which its reader reports."""
    return file_sha256(path) if path.is_file() else None


def refuse_changed_data(config: TrainConfig, folder: Path) -> None:
    """Raise UserError when the run in `folder` started with other data than exist now."""
    recorded = read_provenance(folder).get("data", {})
    present = data_identity(config)
    changed = [name for name in sorted(present) if _differs(recorded.get(name), present[name])]
    if changed:
        raise UserError(
            f"run_dir={folder} was started with another data set {changed[0]}, which has been "
            "built or written anew since: put the old one back, or give another run_dir."
        )


def _differs(recorded: Any, present: Any) -> bool:
    """Whether an identity has changed; what was missing at the start was not trained on."""
    if isinstance(recorded, dict) and isinstance(present, dict):
        return any(_differs(value, present.get(key)) for key, value in recorded.items())
    return recorded is not None and recorded != present


def check_data_sets(config: TrainConfig) -> None:
    """Raise UserError for a data set, a split or a file of chains that does not exist."""
    check_chains(config)
    manifests = {
        name: read_manifest(name, source) for name, source in used_sets(config).items()
    }
    for name, source in config.benchmark.sets.items():
        owner, _, split = source.partition(":")
        if owner in manifests and split not in manifests[owner]["rows"]:
            splits = ", ".join(manifests[owner]["rows"])
            raise UserError(
                f"benchmark.sets.{name}={source} has no such split: {owner} has {splits}."
            )
    mixes = [getattr(config, stage.name).mix for stage in config.stages]
    mixed = {name for mix in mixes for name in mix.weights}
    for name in sorted(manifests.keys() & mixed):
        rows = manifests[name]["rows"]
        if "train" not in rows:
            raise UserError(
                f"data.sets.{name}.root={config.data.sets[name].root} has no training examples: "
                f"its splits are {rows}. Build it with a train split, or set its weight to 0."
            )


def check_chains(config: TrainConfig) -> None:
    """Raise UserError when SFT wants a teacher's chains of thought that are not there."""
    source = config.cold_start.source
    if source == "grounded" or StageName.sft not in config.stages:
        return
    for name, weight in config.sft.mix.weights.items():
        data_set = config.data.sets[name]
        if weight and data_set.task is Task.viewpoint:
            check_chains_file(Path(source), data_set.root)


def chains_of_thought(config: TrainConfig) -> dict[str, str]:
    """Return SFT set -> who wrote its chains of thought, such as "grounded, sections"."""
    if StageName.sft not in config.stages:
        return {}
    weights = config.sft.mix.weights
    sets = {name: config.data.sets[name] for name, weight in weights.items() if weight}
    return {
        name: _chains_of_set(name, source, config.cold_start)
        for name, source in sets.items()
        if source.task in (Task.viewpoint, Task.qa)
    }


def _chains_of_set(name: str, source: SetConfig, cold_start: ColdStartConfig) -> str:
    grounded = cold_start.source == "grounded"
    if source.task is Task.qa:
        manifest = read_manifest(name, source)
        if cold_start.ratio and manifest.get("chains"):
            return f"{manifest['chains']} of its own"
        if source.weighed_share:
            return f"options weighed in {source.weighed_share:.0%} of the answers"
        if grounded or manifest.get("source") not in VIEWPOINT_SOURCES:
            return "none"
    if not cold_start.ratio:
        return "none"
    if grounded:
        return f"grounded, {cold_start.form.value}"
    ledger = Path(cold_start.source).with_name("ledger.json")
    if not ledger.is_file():
        return f"of {cold_start.source}"
    content = json.loads(ledger.read_text(encoding="utf-8"))
    return f"{content['accepted']} by the teacher {content['model']}"


def check_model_path(config: TrainConfig) -> None:
    """Raise UserError for a model path that is no intact model folder and no hub id."""
    folder = Path(config.model.path)
    if is_adapter(folder):
        refuse_changed_model(folder)
        base_of(folder)  # names what is wrong with it
    elif folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"model.path={folder} is no Hugging Face model folder (it has no config.json): "
                "give one, or a hub id."
            )
        refuse_changed_model(folder)
    elif not HUB_ID.fullmatch(config.model.path):
        raise UserError(
            f"model.path={folder} does not exist: give a model folder or a hub id."
        )
