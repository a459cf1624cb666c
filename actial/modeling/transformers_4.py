"""Make a saved model folder loadable by transformers 4.57 too, which evaluation harnesses pin.

Version 5 saves three things under other names: the settings of rotary embeddings, the
further special tokens, and the image processor. Version 5 reads the older names as
well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actial.core.atomic_io import write_json


def add_transformers_4_names(folder: Path) -> None:
    """Write the settings that transformers 4.57 looks for into the files of a model folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _name_rope(config)
    _name_rope(config.get("text_config", {}))
    write_json(folder / "config.json", config)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.exists():
        settings = json.loads(tokenizer.read_text(encoding="utf-8"))
        if isinstance(settings.get("extra_special_tokens"), list):  # 4.57 expects a mapping
            settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
            write_json(tokenizer, settings)
    processor = folder / "processor_config.json"
    if processor.exists():
        _write_processors(folder, json.loads(processor.read_text(encoding="utf-8")))


def _name_rope(config: dict[str, Any]) -> None:
    """Add rope_theta and rope_scaling, which are rope_parameters in version 5."""
    rope = config.get("rope_parameters")
    if rope and "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = {key: rope[key] for key in rope if key != "rope_theta"}


def _write_processors(folder: Path, settings: dict[str, Any]) -> None:
    """Write image and video processor as files of their own; the processor keeps the rest.

    The older form also has the pixel limits as min_pixels and max_pixels.
    """
    names = {
        "image_processor": "preprocessor_config.json",
        "video_processor": "video_preprocessor_config.json",
    }
    processor_class = settings.get("processor_class")
    for key, name in names.items():
        if key not in settings:
            continue
        part = settings.pop(key)
        size = part.get("size", {})
        if "shortest_edge" in size and "longest_edge" in size:
            part |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
        write_json(folder / name, {**part, "processor_class": processor_class})
    if set(settings) - {"processor_class"}:
        write_json(folder / "processor_config.json", settings)
    else:
        (folder / "processor_config.json").unlink()
