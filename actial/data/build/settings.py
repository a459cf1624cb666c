"""Which settings of a build decide the bytes of its shards, and their hash."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import Enum
from hashlib import sha256
from typing import Any

from actial.config import BuildConfig

FREE_SETTINGS = ("out", "workers", "audit_pairs", "audit_classes", "build")  # change no shard
# Present name -> name under which manifests store it. Data sets of earlier versions keep their
# hash, so that the same command says that they are built, and an unfinished build goes on.
STORED_NAMES = {
    "license": "licence",
    "max_center_condition": "max_centre_condition",
    "max_center_residual": "max_centre_residual",
    "max_mask_center_gap": "max_mask_centre_gap",
    "min_center_in_front": "min_centre_in_front",
}
# Settings that earlier versions did not have, and the value that means what those versions did.
ADDED: dict[str, dict[str, Any]] = {
    "source": {"exif": "auto", "axes": "opengl", "numbers": False},
    "image": {"square": False},
}


def fixed_settings(config: BuildConfig) -> dict[str, Any]:
    """Return the settings that decide the bytes, under the names that manifests store.

    Places on this machine are no part of them.
    """
    settings = {
        key: value for key, value in asdict(config).items() if key not in FREE_SETTINGS
    }
    del settings["source"]["root"]
    stored: dict[str, Any] = _stored(settings)
    for section, defaults in ADDED.items():
        for key, value in defaults.items():
            if stored[section][key] == value:
                del stored[section][key]
    return stored


def config_hash(config: BuildConfig) -> str:
    """Return the hash of the settings that decide the bytes."""
    return sha256(json.dumps(fixed_settings(config), sort_keys=True).encode()).hexdigest()


def _stored(value: Any) -> Any:
    if isinstance(value, dict):
        return {STORED_NAMES.get(key, key): _stored(item) for key, item in value.items()}
    return value.value if isinstance(value, Enum) else value
