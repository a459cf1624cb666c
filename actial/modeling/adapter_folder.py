"""Reads PEFT adapter folders: what an adapter was made for, and where its base model is.

A folder with adapter_config.json stands wherever a model folder may stand: model.path, in
training, evaluation and export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actial.core.errors import UserError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FOLDER = "adapter"  # beside the merged model of a stage


def is_adapter(path: str | Path) -> bool:
    """Whether `path` is a PEFT adapter folder rather than a model folder or hub id."""
    return (Path(path) / CONFIG).is_file()


def adapter_settings(folder: str | Path) -> dict[str, Any]:
    """Return adapter_config.json of a folder. Raises UserError for a damaged or foreign one."""
    path = Path(folder) / CONFIG
    try:
        settings = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it.") from error
    kind = settings.get("peft_type")
    if kind != "LORA" or not settings.get("base_model_name_or_path"):
        raise UserError(
            f"{path} has peft_type={kind} and "
            f"base_model_name_or_path={settings.get('base_model_name_or_path')}: give a LoRA "
            "adapter that names its base model."
        )
    if not (Path(folder) / WEIGHTS).is_file():
        raise UserError(f"{folder} has no {WEIGHTS}: restore it.")
    return settings


def base_of(path: str | Path, revision: str | None = None) -> tuple[str, str | None]:
    """Return the (folder or hub id, revision) of the full model behind `path`.

    Of a model that is no adapter, that is the model itself. Raises UserError where an adapter's
    base is itself an adapter.
    """
    if not is_adapter(path):
        return str(path), revision
    settings = adapter_settings(path)
    base = str(settings["base_model_name_or_path"])
    if is_adapter(base):
        raise UserError(
            f"{path} is an adapter of {base}, which is an adapter too: merge that."
        )
    return base, settings.get("revision")


def first_adapter(source: str | Path) -> Path | None:
    """Return the adapter that a stage's start already holds; None for a full model's weights.

    It is `source` itself, or the adapter that an earlier stage saved beside its merged model.
    """
    if is_adapter(source):
        return Path(source)
    beside = Path(source).parent / FOLDER
    return beside if Path(source).name == "model" and is_adapter(beside) else None
