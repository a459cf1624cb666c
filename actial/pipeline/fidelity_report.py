"""What of a run deviates from the paper: its settings, its data, its texts and its length."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from actial.config import SetConfig, StageName, Task, TrainConfig
from actial.config.fidelity import PAIR_VALUES, Value, deviations
from actial.core.atomic_io import file_sha256
from actial.data.release_texts import RECORD
from actial.data.shards import read_manifest
from actial.pipeline.jobs import steps_of_epochs
from actial.pipeline.preflight import training_sets

REWARDS_OF_THE_PAPER = ("accuracy", "format")
# settings of a set that say where and how it is read, not which of its records are trained on
PLACES = ("task", "root")


def all_deviations(config: TrainConfig) -> Iterator[str]:
    """Yield a line for everything in a run that is not the paper's, as far as can be told."""
    yield from deviations(config)
    yield from _further_rewards(config)
    yield from _length(config)
    yield from _texts(config)
    for name in sorted(training_sets(config)):
        source = config.data.sets[name]
        yield from _choice_of_records(name, source)
        if source.root:
            yield from _build(name, source)


def _further_rewards(config: TrainConfig) -> Iterator[str]:
    for name, term in config.reward.terms.items():
        if name not in REWARDS_OF_THE_PAPER and term.weight:
            yield f"reward.terms.{name}: {term.kind} with weight {term.weight} (paper: none)"


def _length(config: TrainConfig) -> Iterator[str]:
    """Yield a line where sft.steps is not what its epochs take."""
    settings = config.sft
    if StageName.sft not in config.stages or not (settings.steps and settings.epochs):
        return  # no steps: still to be counted; no epochs: the table's line says so
    steps, _ = steps_of_epochs(config, StageName.sft)
    if settings.steps != steps:
        yield f"sft.steps: {settings.steps} (sft.epochs={settings.epochs:g} takes {steps})"


def _texts(config: TrainConfig) -> Iterator[str]:
    """Yield a line for each file that is not the one that import_release wrote."""
    settings = {
        "system_prompt": ("prompt.system_prompt", config.prompt.system_prompt),
        "wording": ("questions.wording", config.data.wording),
    }
    for name, (key, setting) in settings.items():
        kind, _, place = setting.partition(":")
        path = Path(place)
        if kind != "file" or not path.is_file():
            continue  # a name is compared by the table; a missing file is its reader's error
        record = path.with_name(RECORD)
        recorded = json.loads(record.read_text("utf-8")) if record.is_file() else {}
        if recorded.get(name, {}).get("sha256") != file_sha256(path):
            yield f"{key}: {path} is not the text that actial.import_release recorded"


def _choice_of_records(name: str, source: SetConfig) -> Iterator[str]:
    """Yield a line for each setting that leaves records of a set out."""
    for setting in fields(source):
        value = getattr(source, setting.name)
        if setting.name not in PLACES and value:
            yield f"data.sets.{name}.{setting.name}: {value} (paper: all records)"


def _build(name: str, source: SetConfig) -> Iterator[str]:
    """Yield a line for each setting that a set was built with otherwise than the paper's."""
    manifest = read_manifest(name, source)
    settings = manifest.get("config", {})
    for value in PAIR_VALUES:
        if source.task is Task.viewpoint or value.key.startswith("image."):
            yield from _built_with(name, settings, value)
    if cap := settings.get("qa", {}).get("max_rows"):
        yield f"{name} was built with qa.max_rows={cap} (guess: all)"


def _built_with(name: str, settings: Mapping[str, Any], value: Value) -> Iterator[str]:
    present: Any = settings
    for key in value.key.split("."):
        present = present.get(key) if isinstance(present, Mapping) else None
    if present != value.paper:
        yield f"{name} was built with {value.key}={present} ({value.origin}: {value.paper})"
